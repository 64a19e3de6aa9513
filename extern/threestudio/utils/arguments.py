"""Sections of a config that are the arguments of somebody's function: Lightning's trainer, PyTorch's optimizers."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from pytorch_lightning.utilities.exceptions import MisconfigurationException

from threestudio.utils.errors import ConfigError
from threestudio.utils.values import check_value

__all__ = ["check_arguments", "construct"]


def check_arguments(section: str, given: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check values against annotated keys.

    Raises:
        ConfigError: a key is not among ``wanted``, or its value is not what that asks for.
    """
    for key, value in given.items():
        if key not in wanted:
            near = difflib.get_close_matches(str(key), list(wanted), n=1, cutoff=0.5)
            hint = f" Did you mean '{section}.{near[0]}'?" if near else ""
            raise ConfigError(f"Unknown config key '{section}.{key}'.{hint} Valid keys: {', '.join(sorted(wanted))}.")
        check_value(f"{section}.{key}", value, value, wanted[key])


def construct(section: str, make: Callable[..., Any], *args: Any, **arguments: Any) -> Any:
    """``make(*args, **arguments)``; values that it refuses are mistakes in that section of the config."""
    try:
        return make(*args, **arguments)
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise ConfigError(f"{section}: {error}") from error
