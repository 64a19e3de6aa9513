"""A run that goes on, or is looked at again, brings its own settings along.

Three configs meet: what the run was started with (``configs/raw.yaml``, as its file was written, and
``configs/parsed.yaml``, with everything that was set on the command line, resolved), and the file that is given now.
The run's own values stand. What has changed in the file since is taken over, except in data and geometry: there it is a
contradiction, because the checkpoint would be of something else. The command line comes last.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from threestudio.launching.trial import CONFIGS, PARSED_NAME, RAW_NAME
from threestudio.utils.errors import ConfigError

#: keys that say which clip and which model a checkpoint is of
BOUND = ("data_type", "data", "system_type", "system.geometry_type", "system.geometry")
#: keys about the folder and the start, which are not taken from the file for a run that is there already
PLACE = ("name", "tag", "timestamp", "use_timestamp", "exp_root_dir", "resume", "description", "n_gpus")
DERIVED = ("exp_dir", "trial_name", "trial_dir")


def read_yaml(path: str | Path) -> DictConfig | None:
    """A YAML file, unresolved; ``None`` if it is not there.

    Raises:
        ConfigError: it cannot be read, or is no mapping.
    """
    if not os.path.isfile(path):
        return None
    try:
        config = OmegaConf.load(path)
    except Exception as error:  # the YAML parser has its own hierarchy of errors
        raise ConfigError(f"The config file '{path}' cannot be read: {error}") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"The config file '{path}' must be a mapping of keys to values.")
    return config


def readable(path: Path) -> str:
    """An absolute path as seen from the working directory, if it is in there."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def read_own_config(trial: Path) -> DictConfig | None:
    """The config of the run in ``trial``, leading to that folder; ``None`` if it has kept none.

    Values are those of ``parsed.yaml``; what ``raw.yaml`` has as a reference to another key still is one where that is
    the same, so that an override reaches whatever depends on it.

    Raises:
        ConfigError: it is damaged.
    """
    own = read_yaml(trial / CONFIGS / PARSED_NAME)
    if own is None:
        return None
    for key in DERIVED:
        own.pop(key, None)
    written = read_yaml(trial / CONFIGS / RAW_NAME)
    if written is not None:
        own = _with_references(own, written)
    if f"{own.get('tag', '')}{own.get('timestamp') or ''}" != trial.name:  # renamed since, or cleaned
        own.tag, own.timestamp = trial.name, ""
    own.name, own.exp_root_dir = trial.parent.name, readable(trial.parent.parent)
    return own


def changes_since(trial: Path, own: DictConfig, given: DictConfig) -> dict[str, Any]:
    """Dotted keys and values of ``given`` that are neither the run's nor those of the file that it was started with.

    Raises:
        ConfigError: one of them is about data or geometry; the message has the keys.
    """
    written = read_yaml(trial / CONFIGS / RAW_NAME)
    if written is None:
        return {}
    before, now = _leaves(written), _leaves(given)
    candidates = [k for k, v in now.items() if before.get(k, _ABSENT) != v and k.split(".")[0] not in PLACE]
    changes = {key: now[key] for key in candidates if _resolved(own, key, now[key]) != _select(own, key)}
    contradictions = [key for key in changes if any(f"{key}.".startswith(f"{bound}.") for bound in BOUND)]
    if contradictions:
        lines = [f"  {key}: {_select(own, key)!r} in the run, {changes[key]!r} in the file" for key in contradictions]
        raise ConfigError(
            f"The config file contradicts the run in {trial}:\n" + "\n".join(lines) + "\nGive the file that the run "
            f"was started with ({trial / CONFIGS / RAW_NAME}), or start a new run with another tag=. On the command "
            "line, key=value changes a setting of the run on purpose."
        )
    return changes


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


_ABSENT = _Absent()


def _leaves(config: DictConfig) -> dict[str, Any]:
    """Dotted key -> value, as written; lists are values."""

    def walk(value: Any, prefix: str) -> dict[str, Any]:
        if isinstance(value, Mapping) and value:
            return {k: v for key, item in value.items() for k, v in walk(item, f"{prefix}.{key}").items()}
        return {prefix[1:]: value}

    return walk(OmegaConf.to_container(config, resolve=False), "")


def _with_references(own: DictConfig, written: DictConfig) -> DictConfig:
    base = OmegaConf.merge(written, {})
    before = _leaves(written)
    # plain values first: references to them follow
    for key, value in sorted(_leaves(own).items(), key=lambda leaf: "${" in str(before.get(leaf[0]))):
        if key in PLACE or _select(base, key) != _select(own, key):
            OmegaConf.update(base, key, value, merge=False, force_add=True)
    return base


def _select(config: DictConfig, key: str) -> Any:
    try:
        value = OmegaConf.select(config, key, default=_ABSENT)
    except OmegaConfBaseException:  # what it refers to is missing
        return _ABSENT
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _resolved(own: DictConfig, key: str, value: Any) -> Any:
    """What a value of the file means among the run's own."""
    mixed = OmegaConf.merge(own, {})
    OmegaConf.update(mixed, key, value, force_add=True)
    return _select(mixed, key)
