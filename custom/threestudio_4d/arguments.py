"""Values of command lines, checked while they are parsed: ``add_argument("--size", type=checked(Pixels))``."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from annotated_types import Ge, GroupedMetadata, Gt, Interval, Le, Lt

__all__ = [
    *("Amount", "Bucket", "Count", "Degrees", "Frames", "Rows", "Scale", "Seed", "Share", "Side", "Steps"),
    *("checked", "pack_file", "picture_file", "result_file"),
]

#: names for annotations that several commands share; bounds are those of what can be meant
Count = Annotated[int, Interval(ge=1, lt=2**31)]
Amount = Annotated[int, Interval(ge=0, lt=2**31)]
Rows = Annotated[int, Interval(ge=1, le=10_000)]
Side = Annotated[int, Interval(ge=8, le=4096)]
Bucket = Annotated[float, Interval(ge=0, le=1000)]
Degrees = Annotated[float, Interval(ge=-360, le=360)]
Share = Annotated[float, Interval(ge=0, le=1)]
Frames = Annotated[int, Interval(ge=2, le=1000)]
Steps = Annotated[int, Interval(ge=1, le=1000)]
Seed = Annotated[int, Interval(ge=0, lt=2**62)]
Scale = Annotated[float, Interval(ge=-100, le=100)]

_BOUNDS: dict[type, tuple[str, str, Callable[[Any, Any], bool]]] = {
    Ge: ("ge", "{} or more", lambda value, bound: value >= bound),
    Gt: ("gt", "above {}", lambda value, bound: value > bound),
    Le: ("le", "at most {}", lambda value, bound: value <= bound),
    Lt: ("lt", "below {}", lambda value, bound: value < bound),
}
_NAMES = {int: "a whole number", float: "a finite number"}


def checked(hint: Any) -> Callable[[str], Any]:
    """A ``type`` for ``argparse`` that reads what an annotation asks for.

    Args:
        hint: ``int``, ``float``, ``str``, or ``Annotated`` of one of them with bounds of ``annotated_types`` or a
            function that is true for good values, whose ``str()`` says what it wants.
    """
    base, marks = (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())
    marks = tuple(_flat(marks))
    wanted = ", ".join([*filter(None, [_NAMES.get(base)]), *map(_words, marks)])

    def read(text: str) -> Any:
        try:
            value = base(text)
        except ValueError:
            value = None
        finite = not isinstance(value, float) or math.isfinite(value)
        if value is None or not finite or not all(_holds(value, mark) for mark in marks):
            raise argparse.ArgumentTypeError(f"{text!r} must be {wanted}")
        return value

    return read


def _flat(marks: tuple[Any, ...]) -> Iterator[Any]:
    for mark in marks:
        yield from mark if isinstance(mark, GroupedMetadata) else (mark,)


def _holds(value: Any, mark: Any) -> bool:
    if type(mark) not in _BOUNDS:
        return mark(value)
    name, _, test = _BOUNDS[type(mark)]
    return test(value, getattr(mark, name))


def _words(mark: Any) -> str:
    if type(mark) not in _BOUNDS:
        return str(mark)
    name, words, _ = _BOUNDS[type(mark)]
    return words.format(getattr(mark, name))


def result_file(text: str, *suffixes: str) -> Path:
    """The path of a file to write, if it can be written; minutes of work are not lost to one that cannot.

    Args:
        suffixes: what its name may end in; anything by default.
    """
    path = Path(os.path.expanduser(text))
    if suffixes and path.suffix.lower() not in suffixes:
        raise argparse.ArgumentTypeError(f"{text!r} must end in {' or '.join(suffixes)}")
    try:
        if path.is_dir():
            raise argparse.ArgumentTypeError(f"{text!r} is a folder: the name of a file is needed")
        if os.path.lexists(path) and not path.is_file():
            raise argparse.ArgumentTypeError(f"{text!r} is not a regular file")
        parent = next(place for place in path.absolute().parents if os.path.lexists(place))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {getattr(error, 'strerror', error)}") from error
    if not parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {parent} is not a folder")
    if not os.access(parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {parent} is not writable")
    return path


def picture_file(text: str) -> Path:
    """The path of a picture to write; see :func:`result_file`."""
    return result_file(text, ".png", ".jpg", ".jpeg", ".webp")


def pack_file(text: str) -> Path:
    """The path of a pack of assets to write; see :func:`result_file`."""
    return result_file(text, ".npz")
