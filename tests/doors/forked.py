"""Calls of a command line in a fork, watched from outside: exit status, output, and what it left behind.

Importing torch and the model libraries takes seconds, so each call is a fork of the test process, which has them. What
waits without end, even in C code, is killed and shows as a hang. Where there is a GPU the tests do not run: CUDA does
not survive a fork.
"""

import contextlib
import importlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HANG = -999


@dataclass
class Ended:
    """How a call ended."""

    code: int
    out: str
    err: str
    seconds: float
    left: list[str]

    def faults(self, *names: str, code: int = 2) -> list[str]:
        """What is wrong with it as an answer to a mistake; ``names``: one of them must be in the message."""
        text = self.out + self.err
        messages = [
            line for line in self.err.splitlines() if line.startswith(("error: ", "blank: ")) or ": error: " in line
        ]
        found = {
            f"hung ({self.seconds:.1f} s)": self.code == HANG,
            f"exit status {self.code}": self.code not in (code, HANG),
            "traceback": "Traceback" in text,
            "internal error": "internal error" in text,
            f"{len(messages)} messages": len(messages) != 1,
            f"left {self.left[:3]}": bool(self.left),
            f"names none of {names}": bool(names) and not any(name in "".join(messages) for name in names),
        }
        return [fault for fault, is_so in found.items() if is_so]


def call(main: Callable[[], int | None], folder: Path, argv: Sequence[str], seconds: float = 20) -> Ended:
    """``main()`` with ``argv`` in ``folder``, killed after ``seconds``."""
    before = _listing(folder)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place, name) for name in ("out", "err")]
        pid = os.fork()
        if pid == 0:
            _be_the_command(main, folder, argv, files)
        code = _wait(pid, start + seconds)
        out, err = (path.read_text(errors="replace") if path.exists() else "" for path in files)
    left = sorted(name for name, state in _listing(folder).items() if before.get(name) != state)
    return Ended(code, out, err, time.monotonic() - start, left)


def door(name: str) -> Callable[[], int | None]:
    """The ``main`` of ``python -m threestudio_4d.<name>``."""
    return importlib.import_module(f"threestudio_4d.{name}").main


def _wait(pid: int, end: float) -> int:
    pause = 0.002
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return HANG
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what it started
    return os.waitstatus_to_exitcode(status)


def _be_the_command(main: Callable[[], int | None], folder: Path, argv: Sequence[str], files: list[Path]) -> None:
    code = 99
    try:
        os.setsid()
        for descriptor, path in zip((1, 2), files, strict=True):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
        sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="surrogateescape")
        sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
        sys.stdin = open(os.devnull)  # noqa: SIM115 - as long as the process
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        sys.argv = ["command", *argv]
        code = main() or 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # as the interpreter would: print and end
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every entry below a folder, with size and time; folders by name alone."""
    found = {}
    for base, folders, files in os.walk(os.fsencode(folder)):
        for name in folders + files:
            path = os.path.join(base, name)
            state = os.lstat(path)
            relative = os.fsdecode(os.path.relpath(path, os.fsencode(folder)))
            found[relative] = (0, 0) if os.path.isdir(path) else (state.st_size, state.st_mtime_ns)
    return found
