"""Experiment configuration: YAML files and ``key=value`` overrides merged with OmegaConf, checked against dataclasses.

Errors name the full dotted path where it is known, what was given and what is allowed.
"""

import dataclasses
import difflib
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Optional

from annotated_types import Interval
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from threestudio.utils.atomic import write_text
from threestudio.utils.errors import ConfigError, ConfigMissingError, ConfigValueError, UserError
from threestudio.utils.folder_names import folder_name
from threestudio.utils.overrides import escape, parse_overrides
from threestudio.utils.values import Text, Whole, annotations, check_value, describe, section_of

__all__ = [
    "C_max",
    "ExperimentConfig",
    "config_to_primitive",
    "dump_config",
    "load_config",
    "parse_structured",
]


def C_max(value: Any) -> float:
    """The largest value that a schedule (see ``threestudio.utils.misc.C``) takes; a number is its own maximum."""
    if isinstance(value, (int, float)):
        return value
    values = list(value)
    if len(values) == 3:
        values = [0, *values]
    if len(values) == 4:
        return max(values[1], values[2])
    if len(values) >= 6:
        return max(values[1], *values[2::2])
    raise ValueError(f"A schedule has 3, 4 or at least 6 items, got {values}.")


_RESOLVERS = {
    "calc_exp_lr_decay_rate": lambda factor, n: factor ** (1.0 / n),
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "idiv": lambda a, b: a // b,
    "basename": lambda path: os.path.basename(os.path.abspath(path) if path else path),
    "rmspace": lambda text, sub: str(text).replace(" ", sub),
    "tuple2": lambda value: OmegaConf.create([float(value), float(value)]),
    "gt0": lambda x: x > 0,
    "not": lambda x: not x,
    "cmaxgt0": lambda schedule: C_max(schedule) > 0,
    "cmaxgt0orcmaxgt0": lambda a, b: C_max(a) > 0 or C_max(b) > 0,
}


def _register_resolvers() -> None:
    # 2.4 gives register_resolver the meaning that 2.3 calls register_new_resolver
    modern = "replace" in inspect.signature(OmegaConf.register_resolver).parameters
    add = OmegaConf.register_resolver if modern else OmegaConf.register_new_resolver
    for name, function in _RESOLVERS.items():
        if not OmegaConf.has_resolver(name):
            add(name, function)


_register_resolvers()


@dataclass
class ExperimentConfig:
    """One run: what to build (``data``, ``system``), how to train it (``trainer``, ``checkpoint``), where it goes.

    Its folder is ``trial_dir``, ``<exp_root_dir>/<name>/<tag><timestamp>``; the launcher makes it.
    """

    name: Text = "default"
    description: str = ""
    tag: str = ""
    seed: Annotated[int, Interval(ge=0, le=2**32 - 1)] = 0
    use_timestamp: bool = True
    timestamp: Optional[str] = None  # noqa: UP045
    exp_root_dir: Text = "outputs"
    resume: Optional[str] = None  # noqa: UP045

    exp_dir: str = "outputs/default"
    trial_name: str = "exp"
    trial_dir: str = "outputs/default/exp"
    n_gpus: Whole = 1

    data_type: str = ""
    data: dict = field(default_factory=dict)
    system_type: str = ""
    system: dict = field(default_factory=dict)
    trainer: dict = field(default_factory=dict)
    checkpoint: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.timestamp is None:
            self.timestamp = ""
            if self.use_timestamp:
                if self.n_gpus not in (0, 1):
                    from threestudio import warn

                    warn("Several devices start at different times: no timestamp is used, give each run its own `tag`.")
                else:
                    self.timestamp = datetime.now().strftime("@%Y%m%d-%H%M%S")
        self.trial_name = _as_folder("tag", self.tag) + _as_folder("timestamp", self.timestamp)
        if not self.trial_name:
            raise UserError(
                "Either `tag` is given or `use_timestamp` is true: without both the run has no folder name."
            )
        experiment = _as_folder("name", self.name)
        if not experiment or self.exp_root_dir in ("", "null", None):  # the command line has null as text
            key = "exp_root_dir" if experiment else "name"
            raise ConfigError(f"{key} is '{getattr(self, key)}', which names no folder for the results.")
        self.exp_dir = os.path.join(str(self.exp_root_dir), experiment)
        self.trial_dir = os.path.join(self.exp_dir, self.trial_name)


def _as_folder(key: str, text: Any) -> str:
    try:
        return folder_name(str(text))
    except ValueError as error:
        raise ConfigError(f"{key} becomes a folder of the run's results, but {error}. Give another {key}=.") from error


def load_config(*yamls: str, cli_args: Sequence[str] = (), from_string: bool = False, **kwargs) -> DictConfig:
    """Merge YAML files, ``key=value`` arguments and keyword arguments (the later wins) into an ``ExperimentConfig``.

    Args:
        yamls: paths, or YAML texts with ``from_string``. Mappings merge deeply, lists replace each other.
        cli_args: ``a.b.c=value``; see ``threestudio.utils.overrides``: text is taken as it stands, the rest is YAML.
        kwargs: further top-level keys, for instance ``n_gpus``.

    Raises:
        UserError: a file cannot be read, a key is unknown, a value is missing or has the wrong type.
    """
    try:
        configs = [OmegaConf.create(y) if from_string else _read_yaml(y) for y in yamls]
        if not all(isinstance(config, DictConfig) for config in configs):
            raise ConfigError("A configuration is a YAML mapping of keys to values, not a list.")
        written = OmegaConf.merge(*configs)
        cfg = OmegaConf.merge(written, parse_overrides(cli_args, written, ExperimentConfig), kwargs)
    except UserError:
        raise
    except OmegaConfBaseException as error:
        raise ConfigError(f"The configuration cannot be merged: {_first_line(error)}") from error
    raw = OmegaConf.to_container(cfg, resolve=False)
    _check_keys(ExperimentConfig, cfg)
    try:
        OmegaConf.resolve(cfg)
    except OmegaConfBaseException as error:
        raise _resolution_error(error, raw) from error
    for key in cfg:
        if OmegaConf.is_missing(cfg, key):
            raise ConfigMissingError(_missing_message(key, raw))
    # what a resolved text holds of "${" is meant as it stands
    return parse_structured(ExperimentConfig, OmegaConf.create(_escaped(OmegaConf.to_container(cfg, resolve=False))))


def config_to_primitive(config: Any, resolve: bool = True) -> Any:
    """Plain lists, dicts and scalars of an OmegaConf node. Plain Python containers are refused with a
    ``ValueError``.
    """
    return OmegaConf.to_container(config, resolve=resolve)


def dump_config(path: str, config: Any) -> None:
    """Write ``config`` as YAML to ``path``."""
    write_text(path, OmegaConf.to_yaml(config))


def parse_structured(fields: Any, cfg: Any = None) -> Any:
    """Check a mapping against a dataclass and return it as a ``DictConfig`` typed by that dataclass.

    Scalars are converted where nothing is lost (int to float, text to float, number to str), then everything is checked
    against the annotations, see ``threestudio.utils.values``.

    Raises:
        ConfigError: ``cfg`` is not a mapping, or has a key that the dataclass lacks (also a ``TypeError``).
        ConfigMissingError: a value is ``???`` (also an OmegaConf ``MissingMandatoryValue``).
        ConfigValueError: a value has the wrong type (also an OmegaConf ``ValidationError``).
    """
    if not isinstance(cfg, (Mapping, DictConfig)):
        raise ConfigError(
            f"{_owner(fields)} needs a mapping of keys to values, not {type(cfg).__name__}; "
            "write {} for the defaults."
        )
    prefix = _path_of(cfg)
    _check_keys(fields, cfg, prefix)
    try:
        values = dict(cfg.items())
    except MissingMandatoryValue as error:
        key = next((k for k in cfg if OmegaConf.is_missing(cfg, k)), "?")
        raise ConfigMissingError(
            f"{_join(prefix, key)} has no value yet ('???'): give it in the YAML file or on the command line "
            f"({_join(prefix, key)}=...)."
        ) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{prefix or _owner(fields)}: {_first_line(error)}") from error
    for key in (f.name for f in dataclasses.fields(fields) if f.init and f.name not in values):
        if _default(fields, key) is dataclasses.MISSING:
            raise ConfigMissingError(f"{_join(prefix, key)} is missing: {_owner(fields)} needs it.")
    hints = annotations(fields)
    containers = {key: value for key, value in values.items() if OmegaConf.is_config(value)}
    for key, value in containers.items():  # OmegaConf takes them as they are
        if section_of(hints[key]) is not None and OmegaConf.is_dict(value):
            parse_structured(section_of(hints[key]), value)
        check_value(_join(prefix, key), value, value, hints[key])
    try:
        result = OmegaConf.structured(_literal(fields(**values)) if OmegaConf.is_config(cfg) else fields(**values))
    except ValidationError as error:
        key = re.split(r"[.\[]", str(getattr(error, "full_key", "") or ""))[0]
        if key not in hints:
            raise ConfigValueError(f"{prefix or _owner(fields)}: {_first_line(error)}") from error
        message = f"{_join(prefix, key)} is {values.get(key)!r}: it must be {describe(hints[key])}."
        raise ConfigValueError(message) from error
    for key in values.keys() - containers.keys():
        check_value(_join(prefix, key), values[key], result[key], hints[key])
    _remember_path(result, prefix)
    return result


def _literal(config: Any) -> Any:
    """An instance of a dataclass whose texts OmegaConf will give back as they are, but for its defaults."""
    for key, value in vars(config).items():
        if isinstance(value, str) and value != _default(config, key):
            vars(config)[key] = escape(value)
    return config


def _default(fields: Any, key: str) -> Any:
    """The default of a key, or what makes it; ``dataclasses.MISSING`` if it must be given."""
    entry = next(f for f in dataclasses.fields(fields) if f.name == key)
    return entry.default if entry.default is not dataclasses.MISSING else entry.default_factory


def _check_keys(fields: Any, cfg: Any, prefix: str = "") -> None:
    known = [f.name for f in dataclasses.fields(fields) if f.init]
    for key in cfg:
        if key in known:
            continue
        near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
        hint = f" Did you mean '{_join(prefix, near[0])}'?" if near else ""
        raise ConfigError(
            f"Unknown config key '{_join(prefix, key)}' (unexpected keyword argument for {_owner(fields)}).{hint} "
            f"Valid keys: {', '.join(sorted(known))}."
        )


def _owner(fields: Any) -> str:
    return getattr(fields, "__qualname__", str(fields))


def _join(prefix: str, key: Any) -> str:
    return f"{prefix}.{key}" if prefix else str(key)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _path_of(cfg: Any) -> str:
    """Dotted path of a node, through the parsed configs it came from; empty for plain dicts and roots."""
    if not isinstance(cfg, DictConfig):
        return ""
    own = cfg._get_full_key(None) or ""
    root = cfg
    while root._get_parent() is not None:
        root = root._get_parent()
    above = getattr(root._metadata, "threestudio_path", "")
    return _join(above, own) if own else above


def _remember_path(cfg: DictConfig, prefix: str) -> None:
    if prefix:
        cfg._metadata.threestudio_path = prefix


def _read_yaml(path: str) -> Any:
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for without end
        raise UserError(f"The config file '{path}' is not a file but a folder, a pipe or a device.")
    try:
        return OmegaConf.load(path)
    except FileNotFoundError as error:
        raise UserError(f"The config file '{path}' does not exist.") from error
    except OSError as error:
        raise UserError(f"The config file '{path}' cannot be read: {error}.") from error
    except OmegaConfBaseException:
        raise
    except Exception as error:  # the YAML parser has its own hierarchy of errors
        raise UserError(f"The config file '{path}' is not valid YAML: {error}") from error


def _escaped(value: Any) -> Any:
    """Plain containers whose texts OmegaConf will give back as they are."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return escape(value) if isinstance(value, str) else value


_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")


def _missing_message(key: str, raw: Any) -> str:
    culprits = [ref for ref in _REFERENCE.findall(str(_raw_value(raw, key))) if _raw_value(raw, ref) in ("???", None)]
    if not culprits:
        return f"{key} has no value yet ('???'): give it in the YAML file or on the command line ({key}=...)."
    first = culprits[0]
    return (
        f"{first} has no value yet, and {key} is made from it: give it in the YAML file or on the command line "
        f"({first}=...)."
    )


def _raw_value(raw: Any, path: str) -> Any:
    for part in path.split("."):
        if not isinstance(raw, Mapping) or part not in raw:
            return None
        raw = raw[part]
    return raw


def _resolution_error(error: OmegaConfBaseException, raw: Any) -> UserError:
    key = str(getattr(error, "full_key", "") or "")
    text = _first_line(error)
    if "MissingMandatoryValue" in text or isinstance(error, MissingMandatoryValue):
        return ConfigMissingError(_missing_message(key, raw))
    if isinstance(error, InterpolationKeyError):
        wanted = re.search(r"'([^']*)'", text)
        known = _all_paths(raw)
        near = difflib.get_close_matches(wanted.group(1), known, n=1) if wanted else []
        hint = f" Did you mean '${{{near[0]}}}'?" if near else ""
        name = wanted.group(1) if wanted else "?"
        key = key or _who_refers_to(name, raw) or "The configuration"
        return ConfigError(f"{key} refers to '${{{name}}}', which the configuration does not have.{hint}")
    return ConfigError(f"{key or 'The configuration'} cannot be resolved: {text}")


def _who_refers_to(name: str, raw: Any) -> str:
    return next((p for p in _all_paths(raw) if name in _REFERENCE.findall(_text(_raw_value(raw, p)))), "")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _all_paths(raw: Any, prefix: str = "") -> list[str]:
    if not isinstance(raw, Mapping):
        return []
    paths = []
    for key, value in raw.items():
        path = _join(prefix, key)
        paths += [path, *_all_paths(value, path)]
    return paths
