"""``key=value`` arguments: text is taken as it stands, everything else is YAML.

Which keys are text is known from the classes that check them. ``null`` stands for no value where a key may have none.
"""

import re
from collections.abc import Mapping, Sequence

from omegaconf import DictConfig, OmegaConf

from threestudio.utils.errors import ConfigError
from threestudio.utils.sections import annotation_of
from threestudio.utils.trainer_arguments import CHECKPOINT, TRAINER
from threestudio.utils.values import fits, is_text

__all__ = ["escape", "parse_overrides"]

#: text wherever they are, also in sections of classes that do not say so
PROMPT_KEYS = frozenset({"prompt", "prompt_front", "prompt_side", "prompt_back", "prompt_overhead", "negative_prompt"})

_ARGUMENTS = {f"trainer.{key}": hint for key, hint in TRAINER.items()}
_ARGUMENTS |= {f"checkpoint.{key}": hint for key, hint in CHECKPOINT.items()}


def parse_overrides(arguments: Sequence[str], written: Mapping, fields: type) -> DictConfig:
    """The arguments as a config.

    Args:
        written: what the YAML files say, among it the names of the classes behind the sections.
        fields: dataclass of the whole config.

    Raises:
        ConfigError: an argument is no ``key=value``, its value is empty, or it is not valid YAML.
    """
    pairs = [_split(argument) for argument in arguments]
    cfg = OmegaConf.create({})
    for key, value in sorted(pairs, key=lambda pair: not pair[0].endswith("_type")):  # they say what the others are
        hint = _ARGUMENTS.get(key) or annotation_of(key, OmegaConf.merge(written, cfg), fields)
        may_be_null = hint is not None and fits(None, hint)
        if (hint is not None and is_text(hint)) or (hint is None and key.split(".")[-1] in PROMPT_KEYS):
            if not value and hint is not None and (may_be_null or not fits("", hint)):
                raise ConfigError(_empty(key, may_be_null))
            absent = value == "null" and may_be_null
            OmegaConf.update(cfg, key, None if absent else escape(value), force_add=True)
        else:
            cfg = OmegaConf.merge(cfg, _read(key, value, may_be_null))
    return cfg


def escape(text: str) -> str:
    """``text`` as OmegaConf must be given it to give it back: ``${`` would be a reference to another key."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", text)


def _split(argument: str) -> tuple[str, str]:
    key, equals, value = argument.partition("=")
    if not equals or not key or key.startswith("-"):
        raise ConfigError(
            f"Cannot read the argument '{argument}': overrides are written key=value, for instance seed=1."
        )
    return key, value


def _read(key: str, value: str, may_be_null: bool) -> DictConfig:
    """The value read as YAML."""
    if not value.strip():
        raise ConfigError(_empty(key, may_be_null))
    if re.search(r"(^|\s)#", value) and not re.search("[\"']", value):
        raise ConfigError(f"Cannot read the argument '{key}={value}': '#' begins a comment in YAML; put quotes around.")
    try:
        return OmegaConf.from_dotlist([f"{key}={value}"])
    except Exception as error:  # YAML and grammar errors have no common base
        raise ConfigError(f"Cannot read the argument '{key}={value}': {str(error).splitlines()[0]}") from error


def _empty(key: str, may_be_null: bool) -> str:
    hint = f" ({key}=null for none)" if may_be_null else ""
    return f"{key} is empty: give a value after the equals sign{hint}, or leave the key out."
