"""``--typecheck``: while the program runs, check the annotated shapes and types of everything it calls.

jaxtyping's import hook decorates the functions of the packages; a mismatch raises and shows the expected shape beside
the value received. Dimension names bind within one call: ``"B H W 3"`` twice means the same ``B``, ``H`` and ``W``.
"""

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

_NEVER_CHECKED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def install_type_checks(packages: list[str]) -> None:
    """Check every function of ``packages`` that is imported from now on."""
    from jaxtyping import install_import_hook

    install_import_hook(packages, f"{__name__}.checked")


def checked(function: Callable) -> Callable:
    """``function`` with its annotated arguments and its result checked by typeguard at every call.

    Annotations that cannot be evaluated here, and ``*args`` and ``**kwargs``, are not checked.

    Raises:
        TypeError: (at the call) names the function, the argument, the annotation and what was given.
    """
    if not inspect.isfunction(function) or function.__qualname__.endswith("Config.__init__"):
        return function  # configs hold OmegaConf's containers, and have a check of their own
    signature = inspect.signature(function)
    hints = _hints(function)
    if not hints:
        return function

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if name in hints and signature.parameters[name].kind not in _NEVER_CHECKED:
                _check(function, f"argument '{name}'", value, hints[name])
        result = function(*args, **kwargs)
        plain = not (inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function))
        if "return" in hints and plain:
            _check(function, "result", result, hints["return"])
        return result

    return wrapper


def _hints(function: Callable) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # names known to type checkers only, or shapes written as text
        return {k: v for k, v in function.__annotations__.items() if not isinstance(v, str)}


def _check(function: Callable, what: str, value: Any, hint: Any) -> None:
    from typeguard import TypeCheckError, check_type

    try:
        check_type(value, hint)
    except TypeCheckError as error:
        shape = f" of shape {tuple(value.shape)} and type {value.dtype}" if hasattr(value, "shape") else ""
        where = f"{function.__module__}.{function.__qualname__}"
        raise TypeError(f"{where}: the {what}{shape} does not fit {hint}: {error}") from error
