"""The Lightning modules that every system derives from: ``BaseSystem`` and ``BaseLift3DSystem``."""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Optional

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

import threestudio
from threestudio.systems.health import FiniteWatch, describe_non_finite, module_tensors, optimizer_tensors
from threestudio.systems.utils import parse_optimizer, parse_scheduler
from threestudio.utils.base import Updateable, update_end_if_possible, update_if_possible
from threestudio.utils.config import load_config, parse_structured
from threestudio.utils.errors import CheckpointError, NonFiniteError
from threestudio.utils.fitting import load_fitting, matching_keys
from threestudio.utils.misc import C, cleanup, find_last_path, get_device, load_module_weights
from threestudio.utils.saving import LoggersConfig, SaverMixin

__all__ = ["BaseLift3DSystem", "BaseSystem"]


class BaseSystem(pl.LightningModule, Updateable, SaverMixin):
    """What is trained: parts, losses, optimizer, and the files that validation and test leave.

    Order of one batch: ``preprocess_data``, ``update_step`` of the dataset and of all updateable parts and last of the
    system (with ``true_current_epoch`` and ``true_global_step``), ``training_step``, optimizer, ``update_step_end``
    with the incremented step. Batches are fetched two ahead: what a dataset changes in ``update_step(s)`` shows in
    batch ``s + 2``.

    Subclasses that override an ``on_*_batch_start/end`` hook, ``on_before_backward``, ``on_before_optimizer_step`` or a
    checkpoint hook must call ``super()``.
    """

    @dataclass
    class Config:
        loggers: Annotated[dict, LoggersConfig] = field(default_factory=dict)
        loss: Annotated[dict, dict[str, float]] = field(default_factory=dict)
        optimizer: dict = field(default_factory=dict)
        scheduler: Optional[dict] = None  # noqa: UP045
        weights: Optional[str] = None  # noqa: UP045
        weights_ignore_modules: Optional[list[str]] = None  # noqa: UP045
        cleanup_after_validation_step: bool = False
        cleanup_after_test_step: bool = False

    cfg: Config

    def __init__(self, cfg: Any, resumed: bool = False) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self._save_dir: str | None = None
        self._resumed = resumed
        self._resumed_eval = False
        self._resumed_eval_status = {"global_step": 0, "current_epoch": 0}
        self._finite = FiniteWatch(self._where_to_go_on)
        if "loggers" in cfg:
            self.create_loggers(cfg["loggers"])
        self.configure()
        if self.cfg.weights is not None:
            self.load_weights(self.cfg.weights, self.cfg.weights_ignore_modules)
        self.post_configure()

    def configure(self) -> None:
        """Build the parts. Everything that is optimised must exist when this returns."""

    def post_configure(self) -> None:
        """Called after ``configure`` and after ``weights`` were loaded."""

    def load_weights(self, weights: str, ignore_modules: list[str] | None = None) -> None:
        """Load what fits of a checkpoint into the system, then tell all parts the checkpoint's epoch and step."""
        path = find_last_path(weights)
        state_dict, epoch, global_step = load_module_weights(
            path, ignore_modules=ignore_modules or [], map_location="cpu"
        )
        matching = matching_keys(self, state_dict)
        if not matching:
            raise CheckpointError(
                f"system.weights: no tensor of '{path}' has a name of this system's. It has {_some(state_dict)}; "
                f"the system has {_some(self.state_dict())}."
            )
        missing, unexpected = load_fitting(self, super().load_state_dict, state_dict, False, path)
        missing = [k for k in missing if not ignore_modules or not k.startswith(tuple(f"{m}." for m in ignore_modules))]
        if missing or unexpected:
            threestudio.warn(
                f"Weights of {path}: loaded {len(matching)} tensors ({_some(matching)}); {len(missing)} keep their "
                f"initial values ({_some(missing)}); {len(unexpected)} of the file are not used ({_some(unexpected)})."
            )
        self.do_update_step(epoch, global_step, on_load_weights=True)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, **options: Any) -> Any:
        """As torch's; tensors that do not fit, or are not finite, raise a ``CheckpointError`` that names them."""
        source = self._trainer.ckpt_path if self._trainer is not None else None
        return load_fitting(self, super().load_state_dict, state_dict, strict, source, **options)

    def set_resume_status(self, current_epoch: int, global_step: int) -> None:
        """Fix epoch and step for evaluation of a checkpoint, where the trainer's own are zero."""
        self._resumed_eval = True
        self._resumed_eval_status = {"current_epoch": current_epoch, "global_step": global_step}

    @property
    def resumed(self) -> bool:
        """Whether the run started from a checkpoint."""
        return self._resumed

    @property
    def true_global_step(self) -> int:
        return self._resumed_eval_status["global_step"] if self._resumed_eval else self.global_step

    @property
    def true_current_epoch(self) -> int:
        return self._resumed_eval_status["current_epoch"] if self._resumed_eval else self.current_epoch

    def C(self, value: Any) -> Any:
        """Value of a schedule at the current epoch and step, see ``threestudio.utils.misc.C``."""
        return C(value, self.true_current_epoch, self.true_global_step)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = parse_optimizer(self.cfg.optimizer, self)
        if self.cfg.scheduler is None:
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": parse_scheduler(self.cfg.scheduler, optimizer)}

    def preprocess_data(self, batch: Any, stage: str) -> None:
        """Change the batch in place before it is used; ``stage`` is train, validation, test or predict."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define training_step.")

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define validation_step.")

    def on_validation_epoch_end(self) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define on_validation_epoch_end (it may do nothing).")

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define test_step.")

    def on_test_epoch_end(self) -> None:
        pass

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define predict_step.")

    def on_predict_epoch_end(self) -> None:
        pass

    def _begin_batch(self, batch: Any, stage: str, dataset: Any) -> None:
        self.preprocess_data(batch, stage)
        self.dataset = dataset
        update_if_possible(dataset, self.true_current_epoch, self.true_global_step)
        self.do_update_step(self.true_current_epoch, self.true_global_step)

    def _end_batch(self, dataset: Any) -> None:
        self.dataset = dataset
        update_end_if_possible(dataset, self.true_current_epoch, self.true_global_step)
        self.do_update_step_end(self.true_current_epoch, self.true_global_step)

    def on_train_batch_start(self, batch: Any, batch_idx: int, unused: int = 0) -> None:
        self._finite.check_parameters(list(self.named_parameters()), self.true_global_step)
        self._begin_batch(batch, "train", self.trainer.train_dataloader.dataset)

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._begin_batch(batch, "validation", self.trainer.val_dataloaders.dataset)

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._begin_batch(batch, "test", self.trainer.test_dataloaders.dataset)

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._begin_batch(batch, "predict", self.trainer.predict_dataloaders.dataset)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._end_batch(self.trainer.train_dataloader.dataset)

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._end_batch(self.trainer.val_dataloaders.dataset)
        if self.cfg.cleanup_after_validation_step:
            cleanup()

    def on_test_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._end_batch(self.trainer.test_dataloaders.dataset)
        if self.cfg.cleanup_after_test_step:
            cleanup()

    def on_predict_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._end_batch(self.trainer.predict_dataloaders.dataset)
        if self.cfg.cleanup_after_test_step:
            cleanup()

    def log(self, name: str, value: Any, *args, **kwargs) -> None:
        """Lightning's ``log``; terms with ``loss`` in their name, and numbers such as weights that are not finite, are
        also kept to name the culprit of a bad step.
        """
        trainer = self._trainer
        if trainer is not None and trainer.training:
            if "loss" in name and isinstance(value, torch.Tensor):
                self._finite.note(name, value)
            elif isinstance(value, float) and not math.isfinite(value):
                self._finite.note(name, torch.tensor(value))
        super().log(name, value, *args, **kwargs)

    def on_before_backward(self, loss: torch.Tensor) -> None:
        self._finite.check_loss(loss, self.true_global_step)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Check the gradients. With a gradient scaler infinite ones are its business: it skips the step."""
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            return
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        gradients = [(n, p.grad) for n, p in self.named_parameters() if p.grad is not None and id(p) in owned]
        if gradients:
            self._finite.check_gradients(gradients, self.true_global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to write what is not finite: the last good checkpoint stays the last."""
        self._finite.flush()
        tensors = module_tensors(self)
        for optimizer in self.trainer.optimizers if "optimizer_states" in checkpoint else ():
            tensors += optimizer_tensors(optimizer, self)
        bad = describe_non_finite(tensors)
        if bad is not None:
            raise NonFiniteError(
                f"After {self.true_global_step} steps these are not finite, so they are not saved: {bad}. "
                + self._where_to_go_on()
            )

    def _where_to_go_on(self) -> str:
        """Advice for a training that went bad."""
        saved = getattr(self.trainer.strategy.checkpoint_io, "last_saved", None)
        path = saved[1] if saved else self.trainer.ckpt_path
        remedy = "a smaller weight of the term that grew, gradient clipping, 32-bit precision, or an eps above 0"
        if path is None:
            return f"There is no checkpoint yet. Start again with a smaller learning rate, {remedy}."
        return f"The last good checkpoint is '{os.path.relpath(path)}'. Resume from it with {remedy}."

    def on_train_end(self) -> None:
        self._finite.flush()


def _some(names: Iterable[str]) -> str:
    """The first names of a list, for messages."""
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"


class BaseLift3DSystem(BaseSystem):
    """A system with geometry, material, background and renderer, built from registry names in the config.

    Guidance and prompt processor are built by subclasses, usually in ``on_fit_start`` after ``super()``.
    """

    @dataclass
    class Config(BaseSystem.Config):
        geometry_type: str = ""
        geometry: dict = field(default_factory=dict)
        geometry_convert_from: Optional[str] = None  # noqa: UP045
        geometry_convert_inherit_texture: bool = False
        geometry_convert_override: dict = field(default_factory=dict)

        material_type: str = ""
        material: dict = field(default_factory=dict)

        background_type: str = ""
        background: dict = field(default_factory=dict)

        renderer_type: str = ""
        renderer: dict = field(default_factory=dict)

        guidance_type: str = ""
        guidance: dict = field(default_factory=dict)

        prompt_processor_type: str = ""
        prompt_processor: dict = field(default_factory=dict)

        exporter_type: str = "mesh-exporter"
        exporter: dict = field(default_factory=dict)

    cfg: Config

    def configure(self) -> None:
        self.geometry = self._build_geometry()
        self.material = threestudio.find(self.cfg.material_type)(self.cfg.material)
        self.background = threestudio.find(self.cfg.background_type)(self.cfg.background)
        self.renderer = threestudio.find(self.cfg.renderer_type)(
            self.cfg.renderer, geometry=self.geometry, material=self.material, background=self.background
        )

    def _build_geometry(self) -> Any:
        source = self.cfg.geometry_convert_from
        geometry_class = threestudio.find(self.cfg.geometry_type)
        if not source or self.cfg.weights or self.resumed:
            return geometry_class(self.cfg.geometry)
        threestudio.info(f"Initializing geometry from {source} ...")
        path = find_last_path(source)
        parsed = os.path.join(os.path.dirname(path), "../configs/parsed.yaml")
        previous = load_config(parsed)
        previous_cfg = parse_structured(self.Config, previous.system)
        geometry_cfg = OmegaConf.merge(previous_cfg.geometry, self.cfg.geometry_convert_override)
        state_dict, epoch, global_step = load_module_weights(path, module_name="geometry", map_location="cpu")
        old = threestudio.find(previous_cfg.geometry_type)(geometry_cfg)
        old.load_state_dict(state_dict, strict=False)
        old.do_update_step(epoch, global_step, on_load_weights=True)
        geometry = geometry_class.create_from(
            old.to(get_device()), self.cfg.geometry, copy_net=self.cfg.geometry_convert_inherit_texture
        )
        del old
        cleanup()
        return geometry

    def on_fit_start(self) -> None:
        if self._save_dir is not None:
            threestudio.info(f"Validation results will be saved to {self.get_save_dir()}")
        else:
            threestudio.warn("The save folder is not set: results of validation cannot be saved.")

    def on_test_end(self) -> None:
        if self._save_dir is not None:
            threestudio.info(f"Test results saved to {self.get_save_dir()}")

    def on_predict_start(self) -> None:
        self.exporter = threestudio.find(self.cfg.exporter_type)(
            self.cfg.exporter, geometry=self.geometry, material=self.material, background=self.background
        )

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        if self.exporter.cfg.save_video:
            self.test_step(batch, batch_idx)

    def on_predict_epoch_end(self) -> None:
        """Write what the exporter returns below ``it<step>-export/`` with the ``save_*`` methods it names."""
        if self.exporter.cfg.save_video:
            self.on_test_epoch_end()
        for output in self.exporter():
            save = getattr(self, f"save_{output.save_type}", None)
            if save is None:
                raise ValueError(
                    f"The save type {output.save_type!r} of '{output.save_name}' is not supported: there is no "
                    f"save_{output.save_type}."
                )
            save(f"it{self.true_global_step}-export/{output.save_name}", **output.params)

    def on_predict_end(self) -> None:
        if self._save_dir is not None:
            threestudio.info(f"Export assets saved to {self.get_save_dir()}")

    def guidance_evaluation_save(self, comp_rgb: torch.Tensor, guidance_eval_out: dict[str, Any]) -> None:
        """Write ``it<step>-train.png``: renders [B, H, W, 3] beside what the guidance made of them (``eval``
        of its output).
        """
        keys = [k for k in ("imgs_noisy", "imgs_1step", "imgs_1orig", "imgs_final") if k in guidance_eval_out]
        count = min([guidance_eval_out["bs"], comp_rgb.shape[0]])
        rows = []
        for i in range(count):
            images = [comp_rgb[i], *(guidance_eval_out[k][i] for k in keys)]
            rows.append([{"type": "rgb", "img": image, "kwargs": {"data_format": "HWC"}} for image in images])
        if rows:
            self.save_image_grid(
                f"it{self.true_global_step}-train.png",
                rows,
                name="train_step",
                step=self.true_global_step,
                texts=guidance_eval_out.get("texts"),
            )
