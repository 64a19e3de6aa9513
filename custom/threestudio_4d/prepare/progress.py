"""Progress bars of the steps, on the standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Steps:
    """One bar for each step of a program.

    with Steps() as steps, steps.bar("reading", 32) as advance:
        advance()
    """

    def __init__(self, quiet: bool = False) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        console = Console(stderr=True)
        self._progress = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=quiet)

    def __enter__(self) -> Steps:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar of ``total`` parts; calling what it gives ends one. A step that ends early fills its bar."""
        task = self._progress.add_task(label, total=total)
        yield lambda: self._progress.advance(task)
        self._progress.update(task, completed=total)
