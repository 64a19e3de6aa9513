"""The check of a whole config, before anything is built or written."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

import threestudio
from threestudio.systems.base import BaseSystem
from threestudio.systems.utils import check_optimizer, check_scheduler
from threestudio.utils.config import ExperimentConfig, parse_structured
from threestudio.utils.errors import ConfigError, ConfigMissingError
from threestudio.utils.sections import Section, find_sections

__all__ = ["check_config"]


def check_config(cfg: Any, training: bool) -> None:
    """Check every section against the class that it is for, and what goes to PyTorch's optimizers.

    Args:
        cfg: what ``load_config`` returned.
        training: whether everything is needed. Otherwise keys may still hold ``???``, and the classes that only
            training builds need not be registered.

    Raises:
        UserError: names the first key whose value cannot be used.
    """
    for section in find_sections(cfg, ExperimentConfig):
        if section.fields is None:
            if training:
                _check_registered(section, cfg)
            continue
        try:
            parse_structured(section.fields, section.values)
        except ConfigMissingError:
            if training:
                raise
    if training:
        _check_optimisation(cfg)


def _check_registered(section: Section, written: Mapping) -> None:
    """The class of a part must be there if the config names it; an exporter is only needed for an export."""
    *above, part = section.path.split(".")
    key = f"{part}_type"
    if part == "exporter" or not above or OmegaConf.select(written, ".".join([*above, key])) is None:
        return
    try:
        threestudio.find(section.name)
    except KeyError as error:
        raise ConfigError(f"{section.path}_type: {error}") from error


def _check_optimisation(cfg: Any) -> None:
    """Optimizer and scheduler, unless the system makes its own of them."""
    system = threestudio.find(cfg.system_type) if cfg.system_type in threestudio.available() else None
    if getattr(system, "configure_optimizers", None) is BaseSystem.configure_optimizers:
        check_optimizer("system.optimizer", cfg.system.get("optimizer", {}))
        if cfg.system.get("scheduler") is not None:
            check_scheduler("system.scheduler", cfg.system.scheduler)
