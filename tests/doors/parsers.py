"""What the parser of a command line takes: seen by stopping the command as it parses."""

import argparse
import contextlib
import io
import random
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from forked import Ended

NOT_NUMBERS = ("abc", "1e", "nan", "", "[]", "0x10", "1;2", "٣x")
OUT_OF_RANGE = ("inf", "-inf", "1e300", "-1e300")
WRONG_WHOLE = ("1.5", "999999999999999999999", "-999999999999999999999", "inf", "nan")


class _Seen(Exception):
    pass


def parser_of(main: Callable[[list[str]], Any]) -> argparse.ArgumentParser:
    """The parser that ``main`` builds."""
    seen: list[argparse.ArgumentParser] = []

    def stop(self: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        seen.append(self)
        raise SystemExit

    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", stop), contextlib.suppress(SystemExit):
        main([])
    return seen[0]


def flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Its options, but for ``--help``."""
    return [a for a in parser._actions if a.option_strings and "--help" not in a.option_strings]


def refusal(parser: argparse.ArgumentParser, argv: list[str]) -> Ended | None:
    """How parsing ends the command, or None if the parser has nothing against the values."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        try:
            parser.parse_args(argv)
        except SystemExit as leaving:
            return Ended(leaving.code, "", err.getvalue(), 0.0, [])
    return None


def _kind(action: argparse.Action) -> type:
    """Number or text, found by what the option's type makes of "1.5" and "2"."""
    read = action.type or str
    for text, kind in (("1.5", float), ("2", int), ("64", int)):
        try:
            value = read(text)
        except (ValueError, TypeError, argparse.ArgumentTypeError):
            continue
        if type(value) in (int, float):
            return kind
    return str


def bad_flags(parser: argparse.ArgumentParser, rng: random.Random, each: int) -> Iterator[tuple[str, list[str]]]:
    """Options with values that nobody can mean: at most ``each`` of an option, with the option's name."""
    for action in flags(parser):
        name = max(action.option_strings, key=len)
        if action.nargs == 0:
            yield name, [f"{name}=yes"]
            continue
        if action.choices:
            values = ["nonsense", ""]
        elif (kind := _kind(action)) is str:
            continue
        else:
            values = [*NOT_NUMBERS, *(OUT_OF_RANGE if kind is float else WRONG_WHOLE)]
            if "seed" not in name and "scale" not in name:
                values += ["-1e7" if kind is float else "-7"]
        for value in rng.sample(values, min(each, len(values))):
            yield name, [f"{name}={value}"]
        if action.nargs is None:
            yield name, [name]
    yield "--nonsense", ["--nonsense"]
    yield "--nonsense", ["--nonsense=3"]
