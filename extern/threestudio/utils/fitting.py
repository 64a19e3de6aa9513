"""Loading weights into a model that may not be the one they were made by: what does not fit is named."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from threestudio.systems.health import describe_non_finite
from threestudio.utils.errors import CheckpointError

__all__ = ["OptimizersFit", "load_fitting", "matching_keys"]

SHOWN = 4  # tensors that a message lists


def load_fitting(
    module: nn.Module, load: Any, state_dict: Mapping[str, Any], strict: bool, source: str | None, **options: Any
) -> Any:
    """``load(state_dict, strict, **options)``, where ``load`` is torch's ``load_state_dict`` of the module.

    Args:
        source: the file, for messages.

    Raises:
        CheckpointError: tensors are missing, too many or of other sizes, or hold NaN or infinity.
    """
    file = f"The checkpoint '{source}'" if source else "The checkpoint"
    named = [(f"parameter {key}", value) for key, value in state_dict.items() if isinstance(value, Tensor)]
    parameters = {f"parameter {name}" for name, _ in module.named_parameters()}
    bad = describe_non_finite([(n if n in parameters else n.replace("parameter", "buffer", 1), v) for n, v in named])
    if bad is not None:
        raise CheckpointError(f"{file} holds values that are not finite: {bad}. Use an earlier checkpoint.")
    try:
        return load(state_dict, strict, **options)
    except RuntimeError as error:
        problems = _misfits(module, state_dict, strict)
        if not problems:
            raise
        own = _own_config(source)
        raise CheckpointError(
            f"{file} does not fit this config: {'; '.join(problems)}. "
            + (f"This run's own config is '{own}': use its settings." if own else "Use the settings it was made with.")
        ) from error


def matching_keys(module: nn.Module, state_dict: Mapping[str, Any]) -> list[str]:
    """Names that both have."""
    return [name for name in module.state_dict() if name in state_dict]


class OptimizersFit(pl.Callback):
    """Refuses to resume with optimizers whose groups are not those of the checkpoint, before anything is built."""

    def __init__(self) -> None:
        self._saved: list[dict[str, Any]] | None = None

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._saved = checkpoint.get("optimizer_states")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._saved is None:
            return
        found = [[len(group["params"]) for group in state["param_groups"]] for state in self._saved]
        sizes = [[len(group["params"]) for group in optimizer.param_groups] for optimizer in trainer.optimizers]
        self._saved = None
        if sizes != found:
            path, own = trainer.ckpt_path, _own_config(trainer.ckpt_path)
            raise CheckpointError(
                f"The optimizer of the checkpoint '{path}' has groups of {found} parameters, that of this config of "
                f"{sizes}; the optimizer's parameters cannot change when a run goes on. "
                + (f"This run's own config is '{own}'. " if own else "")
                + f"To start a new run from these weights use system.weights={path}."
            )


def _misfits(module: nn.Module, state_dict: Mapping[str, Any], strict: bool) -> list[str]:
    wanted = {name: tuple(v.shape) for name, v in module.state_dict().items() if isinstance(v, Tensor)}
    found = {name: tuple(v.shape) for name, v in state_dict.items() if isinstance(v, Tensor)}
    other = [
        f"{name} is {list(found[name])} in the checkpoint and {list(wanted[name])} by this config"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    problems = [*other[:SHOWN], *([f"{len(other) - SHOWN} more sizes differ"] if len(other) > SHOWN else [])]
    if strict:
        for text, names in (
            ("the checkpoint lacks", [f"{n} {list(wanted[n])}" for n in wanted if n not in found]),
            ("this config has no place for", [f"{n} {list(found[n])}" for n in found if n not in wanted]),
        ):
            if names:
                more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                problems.append(f"{text} {', '.join(names[:SHOWN])}{more}")
    return problems


def _own_config(source: str | None) -> str | None:
    """``configs/parsed.yaml`` of the run that a checkpoint lies in."""
    if source is None:
        return None
    parsed = Path(source).parent.parent / "configs" / "parsed.yaml"
    return str(parsed) if parsed.is_file() else None
