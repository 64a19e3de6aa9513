"""The ``trainer`` and ``checkpoint`` sections: arguments of Lightning's ``Trainer`` and ``ModelCheckpoint``."""

from typing import Annotated, Any

import pytorch_lightning as pl
from annotated_types import Ge, Gt, Interval, MinLen
from pytorch_lightning.callbacks import ModelCheckpoint

from threestudio.utils.arguments import check_arguments, construct
from threestudio.utils.values import annotations

__all__ = ["CHECKPOINT", "TRAINER", "check_trainer"]

#: what Lightning asks for, with the bounds that its annotations do not say; the launcher gives the other arguments
_BOUNDS: dict[str, tuple[Any, ...]] = {
    "devices": (Interval(ge=-1, le=1024),),
    "num_nodes": (Interval(ge=1, le=1024),),
    "max_epochs": (Ge(-1),),
    "min_epochs": (Ge(0),),
    "max_steps": (Ge(-1),),
    "min_steps": (Ge(0),),
    "val_check_interval": (Gt(0), MinLen(1)),
    "max_time": (MinLen(1),),
    "check_val_every_n_epoch": (Ge(1),),
    "num_sanity_val_steps": (Ge(-1),),
    "log_every_n_steps": (Ge(0),),
    "accumulate_grad_batches": (Ge(1),),
    "gradient_clip_val": (Ge(0),),
}
TRAINER = {
    key: Annotated[(hint, *_BOUNDS[key])] if key in _BOUNDS else hint
    for key, hint in annotations(pl.Trainer.__init__).items()
    if key not in ("callbacks", "logger", "plugins")
}
CHECKPOINT = {
    **{key: hint for key, hint in annotations(ModelCheckpoint.__init__).items() if key != "dirpath"},
    "every_n_minutes": Annotated[float, Ge(0)],  # the launcher's own: how often last.ckpt is renewed
}


def check_trainer(cfg: Any) -> None:
    """Build a trainer and a checkpoint callback that are not used.

    Raises:
        UserError: names the first key that they do not have, or whose value they do not take.
    """
    check_arguments("trainer", cfg.trainer, TRAINER)
    check_arguments("checkpoint", cfg.checkpoint, CHECKPOINT)
    construct("trainer", pl.Trainer, **{"logger": False, "enable_progress_bar": False, **cfg.trainer})
    settings = {key: value for key, value in cfg.checkpoint.items() if key != "every_n_minutes"}
    construct("checkpoint", ModelCheckpoint, **settings)
