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
from typing import Any, Optional

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from threestudio.utils.errors import ConfigError, ConfigMissingError, ConfigValueError, UserError

__all__ = [
    "C_max",
    "ExperimentConfig",
    "config_to_primitive",
    "dump_config",
    "load_config",
    "parse_structured",
]

#: values of keys with these names are taken literally from the command line, never parsed as YAML
PROMPT_KEYS = frozenset({"prompt", "prompt_front", "prompt_side", "prompt_back", "prompt_overhead", "negative_prompt"})


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
    "basename": lambda path: os.path.basename(path),
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

    The folder ``<exp_root_dir>/<name>/<tag><timestamp>`` is created when an instance is made.
    """

    name: str = "default"
    description: str = ""
    tag: str = ""
    seed: int = 0
    use_timestamp: bool = True
    timestamp: Optional[str] = None  # noqa: UP045
    exp_root_dir: str = "outputs"
    resume: Optional[str] = None  # noqa: UP045

    exp_dir: str = "outputs/default"
    trial_name: str = "exp"
    trial_dir: str = "outputs/default/exp"
    n_gpus: int = 1

    data_type: str = ""
    data: dict = field(default_factory=dict)
    system_type: str = ""
    system: dict = field(default_factory=dict)
    trainer: dict = field(default_factory=dict)
    checkpoint: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tag and not self.use_timestamp:
            raise UserError(
                "Either `tag` is given or `use_timestamp` is true: without both the run has no folder name."
            )
        if self.timestamp is None:
            self.timestamp = ""
            if self.use_timestamp:
                if int(self.n_gpus) > 1:
                    from threestudio import warn

                    warn("Several devices start at different times: no timestamp is used, give each run its own `tag`.")
                else:
                    self.timestamp = datetime.now().strftime("@%Y%m%d-%H%M%S")
        self.trial_name = f"{self.tag}{self.timestamp}"
        self.exp_dir = os.path.join(str(self.exp_root_dir), str(self.name))
        self.trial_dir = os.path.join(self.exp_dir, self.trial_name)
        os.makedirs(self.trial_dir, exist_ok=True)


def load_config(*yamls: str, cli_args: Sequence[str] = (), from_string: bool = False, **kwargs) -> DictConfig:
    """Merge YAML files, ``key=value`` arguments and keyword arguments (the later wins) into an ``ExperimentConfig``.

    Args:
        yamls: paths, or YAML texts with ``from_string``. Mappings merge deeply, lists replace each other.
        cli_args: ``a.b.c=value``; values are parsed as YAML, except those of prompt keys, which are taken as they
            stand.
        kwargs: further top-level keys, for instance ``n_gpus``.

    Raises:
        UserError: a file cannot be read, a key is unknown, a value is missing or has the wrong type.
    """
    try:
        configs = [OmegaConf.create(y) if from_string else _read_yaml(y) for y in yamls]
        if not all(isinstance(config, DictConfig) for config in configs):
            raise ConfigError("A configuration is a YAML mapping of keys to values, not a list.")
        cfg = OmegaConf.merge(*configs, _parse_cli(cli_args), kwargs)
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
    return parse_structured(ExperimentConfig, cfg)


def config_to_primitive(config: Any, resolve: bool = True) -> Any:
    """Plain lists, dicts and scalars of an OmegaConf node. Plain Python containers are refused with a
    ``ValueError``.
    """
    return OmegaConf.to_container(config, resolve=resolve)


def dump_config(path: str, config: Any) -> None:
    """Write ``config`` as YAML to ``path``."""
    with open(path, "w", encoding="utf-8") as file:
        OmegaConf.save(config=config, f=file)


def parse_structured(fields: Any, cfg: Any = None) -> Any:
    """Check a mapping against a dataclass and return it as a ``DictConfig`` typed by that dataclass.

    Scalars are converted where nothing is lost (int to float, text to float, number to str). A value that already is an
    OmegaConf list or mapping is taken as it is whatever the annotation says; that is how a schedule list reaches a
    field annotated ``float``.

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
    try:
        result = OmegaConf.structured(fields(**values))
    except ValidationError as error:
        raise ConfigValueError(_value_message(fields, values, prefix, error)) from error
    _remember_path(result, prefix)
    return result


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


def _value_message(fields: Any, values: Mapping, prefix: str, error: ValidationError) -> str:
    full_key = str(getattr(error, "full_key", "") or "")
    top = re.split(r"[.\[]", full_key)[0]
    annotation = next((f.type for f in dataclasses.fields(fields) if f.name == top), None)
    if annotation is None:
        return f"{prefix or _owner(fields)}: {_first_line(error)}"
    wanted = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    if not isinstance(annotation, str) and getattr(annotation, "__args__", None):
        wanted = str(annotation).replace("typing.", "")
    given = values.get(top)
    return (
        f"Config key '{_join(prefix, full_key)}' has the value {given!r} ({type(given).__name__}); "
        f"{_owner(fields)} needs {wanted}. ({_first_line(error)})"
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


def _parse_cli(cli_args: Sequence[str]) -> DictConfig:
    cfg = OmegaConf.create({})
    for argument in cli_args:
        key, equals, value = argument.partition("=")
        if not equals or not key or key.startswith("-"):
            raise ConfigError(
                f"Cannot read the argument '{argument}': overrides are written key=value, for instance seed=1."
            )
        if key.split(".")[-1] in PROMPT_KEYS:
            if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            OmegaConf.update(cfg, key, None if value in ("null", "~") else value, force_add=True)
            continue
        try:
            cfg = OmegaConf.merge(cfg, OmegaConf.from_dotlist([argument]))
        except Exception as error:  # YAML and grammar errors have no common base
            raise ConfigError(f"Cannot read the argument '{argument}': {_first_line(error)}") from error
    return cfg


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
