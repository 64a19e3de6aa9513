"""What a benchmark shows while it runs: a rich display in a terminal, one line an event elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from .runs import DONE, RUNNING, Job, RunState, read_progress, read_state


class Display:
    """Runs done and failed, the running ones with their step, and the time left.

    Args:
        jobs: all runs of the benchmark.
        done, failed: how many are so already.
        parallel: how many run at a time.
    """

    REFRESH_SECONDS = 1.0

    def __init__(self, jobs: Iterable[Job], done: int, failed: int, parallel: int) -> None:
        self._total = len(list(jobs))
        self._done, self._failed, self._parallel = done, failed, max(parallel, 1)
        self._left: dict[str, Job] = {}
        self._rows: dict[str, TaskID] = {}
        self._shares: dict[str, tuple[float, float]] = {}  # of running ones: share done, seconds so far
        self._seconds: list[float] = []
        self._shown = 0.0
        self.console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"), console=self.console, disable=not self.console.is_terminal,
        )  # fmt: skip
        self._all = self._progress.add_task("runs", total=self._total, completed=done + failed, text="")

    @contextlib.contextmanager
    def watch(self, jobs: Iterable[Job]) -> Iterator[None]:
        """Show the progress of these jobs."""
        self._left = {job.id: job for job in jobs}
        with self._progress:
            self.tick()
            yield

    def say(self, message: str, style: str = "") -> None:
        self.console.print(escape(message), style=style, highlight=False, soft_wrap=True)

    def end(self, job: Job, state: RunState) -> None:
        """A run has ended."""
        self._left.pop(job.id, None)
        self._shares.pop(job.id, None)
        if job.id in self._rows:
            self._progress.remove_task(self._rows.pop(job.id))
        if state.status == DONE:
            self._done += 1
            self._seconds.append(state.seconds)
            self.say(f"done    {job.id}  {state.seconds:.0f} s on {state.device}")
        else:
            self._failed += 1
            self.say(f"{state.status}  {job.id}  {state.reason}", "red")
        self.tick(now=True)
        if not self.console.is_terminal:
            seconds = self.seconds_left() if self._left else None
            left = f", about {duration(seconds)} left" if seconds is not None else ""
            self.say(f"{self._done + self._failed}/{self._total} runs, {self._failed} failed{left}")

    def lost(self, job: Job, reason: str) -> None:
        """A run whose machine died waits for another one."""
        self._shares.pop(job.id, None)
        self.say(f"lost    {job.id}  {reason}; it goes on elsewhere", "yellow")

    def tick(self, now: bool = False) -> None:
        """Look at the states and logs of the runs, at most once a second."""
        if not now and (self._progress.disable or time.monotonic() - self._shown < self.REFRESH_SECONDS):
            return
        self._shown = time.monotonic()
        for job in self._left.values():
            with contextlib.suppress(ValueError):
                self._update(job, read_state(job.folder))
        left = self.seconds_left()
        text = f"{self._failed} failed  " if self._failed else ""
        text += f"left {duration(left)}" if left is not None and self._left else ""
        self._progress.update(self._all, completed=self._done + self._failed, text=text)

    def _update(self, job: Job, state: RunState | None) -> None:
        if state is None or state.status != RUNNING:
            return
        phase, step, steps = read_progress(job.folder) or ("starting", 0, 1)
        if job.id not in self._rows:
            self._rows[job.id] = self._progress.add_task(escape(job.id), total=steps, text="")
        text = f"{phase}  {state.device}"
        self._progress.update(self._rows[job.id], completed=step, total=steps, text=text)
        if phase == "train":
            elapsed = state.seconds + time.time() - (state.started or time.time())
            self._shares[job.id] = (step / max(steps, 1), elapsed)

    def seconds_left(self) -> float | None:
        """From the mean time of finished runs, else from the pace of the running ones; None before there is any."""
        paces = [elapsed / share for share, elapsed in self._shares.values() if share > 0.02]
        known = self._seconds or paces
        if not known:
            return None
        whole = sum(known) / len(known)
        begun = sum(min(share, 1.0) for share, _ in self._shares.values())
        return max(len(self._left) - begun, 0.0) * whole / min(self._parallel, max(len(self._left), 1))


def duration(seconds: float) -> str:
    """``4 s``, ``3 min``, ``2 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
