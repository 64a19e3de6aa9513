"""What a config value may be, read from the annotation of its key.

``n: Annotated[int, Ge(1)]`` is a whole number from 1 on. What stands first is all that OmegaConf sees; what follows
says more: bounds and lengths of ``annotated_types``, a narrower type (``Annotated[str, Literal["a", "b"]]``,
``Annotated[Any, list[int]]``), the dataclass of a section (``Annotated[dict, OptimizerConfig]``), or a function of
the value that is true for good ones, whose ``str()`` is what it wants.

A key that is annotated as plain ``float`` also takes a schedule (see ``threestudio.utils.misc.C``), as upstream's
classes do; ``Annotated[float, ...]`` takes numbers alone. Numbers are finite everywhere.
"""

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any, Literal, Union

import annotated_types as at
from omegaconf import OmegaConf

from threestudio.utils.errors import ConfigValueError
from threestudio.utils.misc import C

__all__ = [
    *("Count", "NotNegative", "Number", "Pixels", "Positive", "Share", "Text", "Whole"),
    *("annotations", "check_value", "describe", "fits", "is_schedule", "is_text", "section_of"),
]

#: for annotations that many keys share; Number is a finite number and no schedule
Number = at.IsFinite[float]
Positive = Annotated[float, at.Gt(0)]
NotNegative = Annotated[float, at.Ge(0)]
Share = Annotated[float, at.Interval(ge=0, le=1)]
Count = Annotated[int, at.Ge(1)]
Whole = Annotated[int, at.Ge(0)]
Pixels = Annotated[int, at.Interval(ge=1, le=16384)]
Text = Annotated[str, at.MinLen(1)]

_BOUNDS: dict[type, tuple[str, str, Callable[[Any, Any], bool]]] = {
    at.Ge: ("ge", "{} or more", lambda value, bound: value >= bound),
    at.Gt: ("gt", "above {}", lambda value, bound: value > bound),
    at.Le: ("le", "at most {}", lambda value, bound: value <= bound),
    at.Lt: ("lt", "below {}", lambda value, bound: value < bound),
}
_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


def annotations(owner: Any) -> dict[str, Any]:
    """Keys that a dataclass, or the arguments that a function, takes, with their annotations; a mapping is itself."""
    if isinstance(owner, Mapping):
        return dict(owner)
    if dataclasses.is_dataclass(owner):
        hints = typing.get_type_hints(owner, include_extras=True)
        return {f.name: hints[f.name] for f in dataclasses.fields(owner) if f.init}
    function = inspect.unwrap(owner)
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError:  # names that exist for type checkers only
        hints = {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(function).parameters.values()
    return {p.name: hints.get(p.name, Any) for p in parameters if p.kind in named and p.name != "self"}


def check_value(key: str, given: Any, converted: Any, hint: Any) -> None:
    """Raise a ``ConfigValueError`` that names ``key`` unless its value is what its annotation asks for.

    Args:
        given: the value as it was written; containers are taken from here.
        converted: the scalar that OmegaConf made of it.
    """
    value = OmegaConf.to_container(given, resolve=True) if OmegaConf.is_config(given) else converted
    value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    items = _items_of(hint)
    if items is not None and isinstance(value, dict):
        for name, item in value.items():
            check_value(f"{key}.{name}", item, item, items)
        return
    kinds = (type(given), type(converted))
    if kinds == (bool, str) or (kinds == (int, bool) and given not in (0, 1)):
        value = given  # OmegaConf would make text, or "true", of it
    schedule = _is_plain_float(hint)
    if not fits(value, hint) and not (schedule and isinstance(value, list) and is_schedule(value)):
        also = ", or a schedule [start step, value, value, end step]" if schedule and isinstance(value, list) else ""
        raise ConfigValueError(f"{key} is {given!r}: it must be {describe(hint)}{also}.")


def fits(value: Any, hint: Any) -> bool:
    """Whether plain lists, mappings and scalars are what an annotation asks for; ``???`` waits for its value."""
    if value == "???":
        return True
    if hint is Any or isinstance(hint, typing.TypeVar):
        return _is_finite(value)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return fits(value, arguments[0]) and all(_satisfies(value, mark) for mark in _marks(arguments[1:]))
    if origin in (Union, types.UnionType):
        return any(fits(value, alternative) for alternative in arguments)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if hint in (int, float):
        number = (int, float) if hint is float else int
        return isinstance(value, number) and not isinstance(value, bool) and math.isfinite(value)
    if hint is None or hint is type(None):
        return value is None
    kind = origin or hint
    if kind is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        if len(arguments) == 2 and arguments[1] is ...:
            arguments = (arguments[0],) * len(value)
        same = not arguments or len(value) == len(arguments)
        return same and all(map(fits, value, arguments or [Any] * len(value)))
    if kind in (list, Sequence) and isinstance(value, Sequence) and not isinstance(value, str):
        return all(fits(item, arguments[0] if arguments else Any) for item in value)
    if kind in (dict, Mapping) and isinstance(value, Mapping):
        return all(fits(item, arguments[1] if arguments else Any) for item in value.values())
    if dataclasses.is_dataclass(kind):
        return isinstance(value, (Mapping, kind))
    if kind is PurePath or (inspect.isclass(kind) and issubclass(kind, PurePath)):
        return isinstance(value, (str, PurePath))
    return not inspect.isclass(kind) or isinstance(value, kind)


def describe(hint: Any) -> str:
    """What an annotation asks for, in words that follow "it must be"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _describe_marked(arguments[0], list(_marks(arguments[1:])))
    if origin in (Union, types.UnionType):
        alternatives = sorted(_writable(arguments), key=lambda a: a is type(None))
        return ", or ".join(dict.fromkeys(describe(a) for a in alternatives))
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(str(choice) for choice in arguments)
    if hint in _NAMES:
        return _NAMES[hint]
    kind = origin or hint
    if kind is tuple and arguments and arguments[-1] is not ...:
        same = all(a == arguments[0] for a in arguments)
        return f"a list of {len(arguments)} {_plural(arguments[0])}" if same else f"a list of {len(arguments)} items"
    if kind in (list, tuple, Sequence):
        return f"a list of {_plural(arguments[0])}" if arguments else "a list"
    if kind in (dict, Mapping) or dataclasses.is_dataclass(kind):
        return "a mapping of keys to values"
    if hint is Any:
        return "a finite value"
    return inspect.formatannotation(hint).replace("typing.", "")


def is_text(hint: Any) -> bool:
    """Whether a key takes text and nothing else (or null)."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return is_text(arguments[0])
    if origin in (Union, types.UnionType):
        alternatives = [a for a in _writable(arguments) if a is not type(None)]
        return bool(alternatives) and all(map(is_text, alternatives))
    if origin is Literal:
        return all(isinstance(choice, str) for choice in arguments)
    return hint is str or (inspect.isclass(hint) and issubclass(hint, PurePath))


def section_of(hint: Any) -> type | None:
    """The dataclass that describes the keys of a section, ``Annotated[dict, Section]``.

    A key whose own type is a dataclass has none: upstream lets it hold the keys of a subclass.
    """
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        stated = next((m for m in arguments[1:] if inspect.isclass(m) and dataclasses.is_dataclass(m)), None)
        return stated or section_of(arguments[0])
    return next((s for s in map(section_of, arguments) if s is not None), None)


def _items_of(hint: Any) -> Any:
    """Annotation of the values of a mapping whose keys are free; None for anything else."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        return next((item for item in map(_items_of, arguments) if item is not None), None)
    return arguments[1] if typing.get_origin(hint) is dict and arguments else None


def is_schedule(value: Any) -> bool:
    """Whether ``C`` can read it: a finite number, or a list of them of a length that it knows."""
    try:
        C(value, 0, 0)
    except (TypeError, ValueError, AssertionError):
        return False
    return _is_finite(value) and not isinstance(value, bool)


def _marks(metadata: Sequence[Any]) -> typing.Iterator[Any]:
    for mark in metadata:
        if isinstance(mark, at.GroupedMetadata):
            yield from mark
        else:
            yield mark


def _satisfies(value: Any, mark: Any) -> bool:
    if type(mark) in _BOUNDS:
        name, _, holds = _BOUNDS[type(mark)]
        # text and null stand beside numbers in unions, which have no say over them
        return not isinstance(value, (int, float)) or holds(value, getattr(mark, name))
    if isinstance(mark, at.MinLen):
        return not hasattr(value, "__len__") or len(value) >= mark.min_length
    if isinstance(mark, at.MaxLen):
        return not hasattr(value, "__len__") or len(value) <= mark.max_length
    if isinstance(mark, at.Predicate):
        return value is None or bool(mark.func(value))
    if inspect.isclass(mark) and dataclasses.is_dataclass(mark) and value is None:
        return True  # a section that there may be none of: dict | None stands first
    if isinstance(mark, type) or typing.get_origin(mark) is not None:
        return fits(value, mark)
    return not callable(mark) or bool(mark(value))


def _describe_marked(hint: Any, marks: list[Any]) -> str:
    narrower = [m for m in marks if isinstance(m, type) or typing.get_origin(m) is not None]
    wishes = [str(m) for m in marks if callable(m) and m not in narrower]
    bounds = [_BOUNDS[type(m)][1].format(getattr(m, _BOUNDS[type(m)][0])) for m in marks if type(m) in _BOUNDS]
    if any(isinstance(m, at.MinLen) and m.min_length > 0 for m in marks):
        bounds.append("not empty")
    if hint is not Any or narrower or not wishes:
        wishes.insert(0, describe(narrower[-1] if narrower else hint))
    return ", ".join([*wishes, *([" and ".join(bounds)] if bounds else [])])


def _writable(alternatives: Sequence[Any]) -> list[Any]:
    """Those that a YAML file can hold: an ``Accelerator`` or a ``Tensor`` is none (but a ``Path`` is text)."""
    plain = (bool, int, float, str, list, tuple, dict, PurePath, type(None))
    return [a for a in alternatives if not inspect.isclass(a) or typing.get_origin(a) or issubclass(a, plain)]


def _plural(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        bare = _PLURALS.get(arguments[0])
        return f"{bare}, each {describe(hint).partition(', ')[2]}" if bare else "items"
    if origin is Literal:
        return "names out of " + ", ".join(str(choice) for choice in arguments)
    return _PLURALS.get(hint, f"items, each {describe(hint)}")


def _is_plain_float(hint: Any) -> bool:
    if typing.get_origin(hint) in (Union, types.UnionType):
        return any(map(_is_plain_float, typing.get_args(hint)))
    return hint is float


def _is_finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
