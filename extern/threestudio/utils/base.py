"""Base classes of everything that is configured and updated: ``Configurable``, ``Updateable``, ``BaseObject``,
``BaseModule``.
"""

from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import nn

from threestudio.utils.config import parse_structured
from threestudio.utils.fitting import load_fitting
from threestudio.utils.misc import get_device, load_module_weights

__all__ = [
    "BaseModule",
    "BaseObject",
    "Configurable",
    "Updateable",
    "update_end_if_possible",
    "update_if_possible",
]


class Configurable:
    """Holds ``self.cfg``, the given mapping checked against the nested dataclass ``Config``."""

    @dataclass
    class Config:
        pass

    def __init__(self, cfg: Any = None) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)


_in_progress: set[int] = set()


class Updateable:
    """Something that wants to know the current epoch and step.

    ``do_update_step`` visits the updateable attributes first, in order of their names, and the object itself last.
    Visited are plain attributes (``vars(self)``) and registered child modules whose name does not start with an
    underscore; lists, dicts, properties and modules that are not ``Updateable`` are not looked into. An object reached
    twice is updated twice, so ``update_step`` must be idempotent; an object that refers back to one being updated does
    not recurse.
    """

    def do_update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        if id(self) in _in_progress:
            return
        _in_progress.add(id(self))
        try:
            for child in self._updateable_attributes():
                child.do_update_step(epoch, global_step, on_load_weights=on_load_weights)
            self.update_step(epoch, global_step, on_load_weights=on_load_weights)
        finally:
            _in_progress.discard(id(self))

    def do_update_step_end(self, epoch: int, global_step: int) -> None:
        if id(self) in _in_progress:
            return
        _in_progress.add(id(self))
        try:
            for child in self._updateable_attributes():
                child.do_update_step_end(epoch, global_step)
            self.update_step_end(epoch, global_step)
        finally:
            _in_progress.discard(id(self))

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Called before a batch; override to follow a schedule. ``on_load_weights`` marks the call after
        weights were read.
        """

    def update_step_end(self, epoch: int, global_step: int) -> None:
        """Called after a batch; in training ``global_step`` has already been incremented."""

    def _updateable_attributes(self) -> list["Updateable"]:
        attributes = dict(getattr(self, "__dict__", {}))
        attributes.update(attributes.get("_modules") or {})
        return [
            attributes[k] for k in sorted(attributes) if not k.startswith("_") and isinstance(attributes[k], Updateable)
        ]


def update_if_possible(module: Any, epoch: int, global_step: int) -> None:
    """``do_update_step`` of ``module`` if it has one."""
    if isinstance(module, Updateable):
        module.do_update_step(epoch, global_step)


def update_end_if_possible(module: Any, epoch: int, global_step: int) -> None:
    """``do_update_step_end`` of ``module`` if it has one."""
    if isinstance(module, Updateable):
        module.do_update_step_end(epoch, global_step)


class BaseObject(Updateable):
    """A configured object that is no ``nn.Module``: what it holds stays out of the state dict (guidance, exporters,
    prompts).

    Subclasses override ``configure``, which gets the extra constructor arguments; ``self.cfg`` and ``self.device``
    exist then.
    """

    @dataclass
    class Config:
        pass

    cfg: Config

    def __init__(self, cfg: Any = None, *args, **kwargs) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self.device = get_device()
        self.configure(*args, **kwargs)

    def configure(self, *args, **kwargs) -> None:
        pass


class BaseModule(nn.Module, Updateable):
    """A configured ``nn.Module``. ``Config.weights`` is ``"<checkpoint>:<module name>"`` and is loaded strictly after
    ``configure``.

    ``self.device`` is where the module was built; it does not follow ``.to()``, so prefer the device of input tensors.
    """

    @dataclass
    class Config:
        weights: Optional[str] = None  # noqa: UP045 - OmegaConf 2.3 reads Optional on every Python version

    cfg: Config

    def __init__(self, cfg: Any = None, *args, **kwargs) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self.device = get_device()
        self.configure(*args, **kwargs)
        if self.cfg.weights is not None:
            weights_path, separator, module_name = self.cfg.weights.rpartition(":")
            if not separator:
                raise ValueError(
                    "weights must be '<checkpoint>:<module name>', for instance 'last.ckpt:geometry', "
                    f"got '{self.cfg.weights}'."
                )
            state_dict, epoch, global_step = load_module_weights(
                weights_path, module_name=module_name, map_location="cpu"
            )
            load_fitting(self, self.load_state_dict, state_dict, strict=True, source=weights_path)
            self.do_update_step(epoch, global_step, on_load_weights=True)
        self._dummy: torch.Tensor
        self.register_buffer("_dummy", torch.zeros(0, dtype=torch.float32), persistent=False)

    def configure(self, *args, **kwargs) -> None:
        pass
