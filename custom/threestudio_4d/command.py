"""How every command line of the extension ends: with one message, and an exit status that says whose turn it is."""

from __future__ import annotations

import atexit
import functools
import gc
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence

from .atomic import no_room
from .errors import UserError

EXIT_OK, EXIT_INTERNAL, EXIT_USER, EXIT_INTERRUPTED = 0, 1, 2, 130

Main = Callable[[list[str] | None], int | None]


def command(interrupted: str = "interrupted") -> Callable[[Main], Callable[..., int]]:
    """Decorator of a ``main(argv)``, which then returns the exit status, however it ends.

    0 or what ``main`` returns; 2 with one message for what the user can mend: a ``UserError``, a file that the command
    line names and that cannot be read, a full disk; 130 when interrupted; 1 for a fault of ours, whose traceback is
    kept in a file. ``SystemExit`` passes, so that ``argparse`` ends as everywhere.

    Args:
        interrupted: what is said after Ctrl-C.
    """

    def decorate(main: Main) -> Callable[..., int]:
        @functools.wraps(main)
        def run(argv: list[str] | None = None) -> int:
            atexit.register(gc.freeze)  # else the interpreter searches half a million objects for cycles before it ends
            try:
                return main(argv) or EXIT_OK
            except KeyboardInterrupt:
                return _end(EXIT_INTERRUPTED, interrupted)
            except UserError as error:
                return _end(EXIT_USER, f"error: {error}")
            except Exception as error:  # the one place where every failure becomes a message and an exit status
                message = _of_the_surroundings(error, sys.argv[1:] if argv is None else argv)
                if message is not None:
                    return _end(EXIT_USER, f"error: {message}")
                return _end(EXIT_INTERNAL, _internal(error))

        return run

    return decorate


def _end(status: int, message: str) -> int:
    print(message.encode(errors="backslashreplace").decode(), file=sys.stderr, flush=True)
    return status


def _of_the_surroundings(error: Exception, argv: Sequence[str]) -> str | None:
    """The message, if a disk is full or the system refuses a file that the command line names."""
    if not isinstance(error, OSError):
        return None
    if reason := no_room(error):
        return f"cannot write{f' {error.filename}' if error.filename else ''}: {reason}. Free some space."
    if not isinstance(error.filename, (str, bytes, os.PathLike)):
        return None
    path = os.path.abspath(os.fsdecode(error.filename))
    values = (part for argument in argv for part in (argument, argument.partition("=")[2]) if part)
    named = (os.path.abspath(os.path.expanduser(value)) for value in values if "\0" not in value)
    if not any(path == place or path.startswith(place + os.sep) for place in named):
        return None
    return f"{os.fsdecode(error.filename)}: {error.strerror or error}"


def _internal(error: Exception) -> str:
    trace = "".join(traceback.format_exception(error))
    first = (str(error).strip().splitlines() or [""])[0]
    message = f"internal error: {type(error).__name__}: {first}"
    try:
        descriptor, log = tempfile.mkstemp(prefix="threestudio4d-error-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(trace)
    except OSError:  # no room
        return f"{trace}{message}"
    return f"{message} (the traceback is in {log})"
