"""``--typecheck``: while the program runs, check the annotated shapes and types of everything it calls.

jaxtyping's import hook decorates the functions of the packages; a mismatch raises and shows the expected shape beside
the value received. Dimension names bind within one call: ``"B H W 3"`` twice means the same ``B``, ``H`` and ``W``.
"""

import functools
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NEVER_CHECKED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def install_type_checks(packages: list[Path]) -> None:
    """Check the functions of packages (folders or single files) imported from now on, but for what numba compiles."""
    from jaxtyping import install_import_hook

    modules = [module for package in packages for module in checked_modules(package)]
    install_import_hook(modules, f"{__name__}.checked")


def checked_modules(package: Path) -> list[str]:
    """What the import hook is told: the package's name, which stands for everything below it, or its modules' names.

    Functions in ``*_numba`` are left alone, since numba must see them undecorated. A package that has such modules is
    told module by module, without its ``__init__`` files.
    """
    files = sorted(package.rglob("*.py"))
    if not any(path.stem.endswith("_numba") for path in files):
        return [package.stem]
    return [
        ".".join(path.relative_to(package.parent).with_suffix("").parts)
        for path in files
        if path.stem != "__init__" and not path.stem.endswith("_numba")
    ]


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
