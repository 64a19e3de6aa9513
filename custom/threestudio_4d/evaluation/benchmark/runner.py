"""Training what a benchmark lists: which runs are still to do, and doing them."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from .progress import Display
from .runs import DONE, FAILED, QUEUED, Job, RunState, fcntl, has_checkpoint, read_state, settle, write_state
from .schedulers import run_here, run_on_ray, visible_gpus


@dataclass
class Options:
    """How runs are carried out.

    Attributes:
        workers: runs at a time; None is one, or with Ray as many as the cluster takes.
        ray: whether Ray spreads them; ``ray_address`` is a cluster's, None starts Ray on this machine.
        retry_failed: start failed runs again.
        only: patterns; a run is done if its id, config, object or ``s<seed>`` matches one.
    """

    workers: int | None = None
    ray: bool = False
    ray_address: str | None = None
    retry_failed: bool = False
    only: Sequence[str] = ()


def read_states(jobs: Sequence[Job]) -> dict[str, RunState]:
    """State of every run by its id; those without one are ``queued``.

    Raises:
        UserError: a state cannot be read, or a run was made with other settings.
    """
    states, changed = {}, []
    for job in jobs:
        try:
            state = read_state(job.folder)
        except ValueError as error:
            raise UserError(str(error)) from error
        has_results = state is not None and (state.status == DONE or has_checkpoint(job.folder))
        if has_results and state.settings != job.settings:
            changed.append(f"  {job.folder}: {_difference(state.settings, job.settings)}")
        states[job.id] = state or RunState(job.id)
    if changed:
        raise UserError(
            f"{len(changed)} of {len(jobs)} runs were made with other settings:\n" + "\n".join(changed[:5])
            + ("\n  ..." if len(changed) > 5 else "")
            + "\nUse another --out, or remove these folders to run them anew."
        )  # fmt: skip
    return states


def _difference(old: dict, new: dict) -> str:
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return "; ".join(
        f"the content of {new.get('config')} has changed" if key == "config sha256"
        else f"{key} had {_lacking(old[key], new[key])}, have {_lacking(new[key], old[key])}"
        if isinstance(old.get(key), list) and sorted(old[key]) != sorted(new.get(key, []))
        else f"{key} was {old.get(key)!r}, is {new.get(key)!r}"
        for key in keys
    )  # fmt: skip


def _lacking(values: Sequence[str], others: Sequence[str]) -> str:
    """Those that are not among the others."""
    return " ".join(value for value in values if value not in others) or "nothing more"


def choose(jobs: Sequence[Job], patterns: Sequence[str]) -> list[Job]:
    """Jobs that match any of the patterns (shell wildcards), all without patterns.

    Raises:
        UserError: a pattern matches nothing.
    """
    if not patterns:
        return list(jobs)
    kept = set()
    for pattern in patterns:
        found = {
            job.id
            for job in jobs
            if any(fnmatch.fnmatch(text, pattern) for text in (job.id, job.config, job.object, f"s{job.seed}"))
        }
        if not found:
            names = dict.fromkeys(text for job in jobs for text in (job.config, job.object))
            raise UserError(f"--only {pattern} matches no run; configs and objects are: {', '.join(names)}")
        kept |= found
    return [job for job in jobs if job.id in kept]


def run_all(jobs: Sequence[Job], out: Path, options: Options) -> dict[str, RunState]:
    """Do what is still to do of ``jobs``; returns the states of all.

    Raises:
        UserError: see :func:`read_states` and :func:`choose`; another runner works in ``out``; no Ray.
        KeyboardInterrupt: stopped; every run that was going on has saved and is ``queued``.
    """
    with _alone(out):
        states = read_states(jobs)
        for job in jobs:
            settle(job.folder, states[job.id])
        wanted = {QUEUED, FAILED} if options.retry_failed else {QUEUED}
        pending = [job for job in choose(jobs, options.only) if states[job.id].status in wanted]
        for job in pending:
            states[job.id].status = QUEUED
            if Path(job.folder).is_dir():
                write_state(job.folder, states[job.id])
        gpus = [] if options.ray else visible_gpus()
        workers = min(options.workers or 1, max(len(pending), 1))
        before = [state.status for state in states.values()]
        parallel = options.workers or len(pending) if options.ray else workers
        display = Display(jobs, before.count(DONE), before.count(FAILED), parallel)
        resumed = sum(has_checkpoint(job.folder) for job in pending)
        failed = before.count(FAILED)
        display.say(
            f"{len(jobs)} runs in {out}: {before.count(DONE)} done"
            + (f", {failed} failed (--retry-failed starts them again)" if failed else "")
            + f", {len(pending)} to do"
            + (f", {resumed} of them from a checkpoint" if resumed else "")
        )

        def on_end(job: Job, state: RunState) -> None:
            states[job.id] = state
            display.end(job, state)

        if pending:
            with display.watch(pending):
                if options.ray:
                    run_on_ray(pending, options.ray_address, options.workers, on_end, display.tick, display.lost)
                else:
                    run_here(pending, gpus, workers, on_end, display.tick)
    return states


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Refuse a second runner on this machine in the same folder."""
    out.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    with open(out / "runner.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another benchmark runner works in {out}; stop it or use another --out") from None
        yield
