"""One training run as a process of its own: its state on disk, how it is started, stopped and gone on with.

A run's folder is the trial folder of ``launch.py``; beside what that writes there are

==============  ====================================================================
``run.json``    :class:`RunState`, replaced as a whole, so it is readable at all times
``run.log``     what all starts of the run printed
``run.lock``    held by the process that trains, however its parent ended
==============  ====================================================================

Only the standard library is imported: Ray sends this module to its workers as it is.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ...atomic import write_text

try:
    import fcntl
except ImportError:  # Windows: no protection against two processes in one folder
    fcntl = None

QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"
STATE_FILE, LOG_FILE, LOCK_FILE = "run.json", "run.log", "run.lock"
TAIL_LINES = 15
GRACE_SECONDS = 120  # for a run to finish its step and save after it was asked to stop
POLL_SECONDS = 0.1

_PROGRESS = re.compile(r"^(train|validate|test|export) (\d+)/(\d+)\b", re.MULTILINE)


@dataclass(frozen=True)
class Job:
    """What to run.

    Attributes:
        id: ``<config>/<object>-s<seed>``, also the path of the folder below ``runs``.
        config, object, seed: what the id is made of.
        folder: the trial folder, absolute.
        command: the call of the launcher, without ``resume``.
        cwd: working directory of the call.
        settings: what decides about the result; a run is only gone on with if they are still the same.
        threads: CPU threads (``OMP_NUM_THREADS``); None leaves the environment as it is.
        commit: of the code that runs, for the record.
    """

    id: str
    config: str
    object: str
    seed: int
    folder: str
    command: tuple[str, ...]
    cwd: str
    settings: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None
    commit: str = ""


@dataclass
class RunState:
    """What is known of a run; times are seconds since 1970, ``seconds`` the sum over all its starts, ``commits`` the
    different ones of its starts.
    """

    id: str
    status: str = QUEUED
    settings: dict[str, Any] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    starts: int = 0
    started: float | None = None
    finished: float | None = None
    seconds: float = 0.0
    exit_code: int | None = None
    reason: str = ""
    log_tail: list[str] = field(default_factory=list)
    device: str = ""
    host: str = ""
    commits: list[str] = field(default_factory=list)
    pid: int | None = None


class RunBusyError(RuntimeError):
    """Another process trains in the run's folder and cannot be stopped from here."""


def write_json(path: Path, content: Any) -> None:
    """Write JSON under a temporary name, sync, rename: readers see the old file or the new one."""
    write_text(path, json.dumps(content, indent=1) + "\n", sync=True)


def read_state(folder: str | Path) -> RunState | None:
    """State of the run in a folder, None if it has none.

    Raises:
        ValueError: ``run.json`` is not one of ours.
    """
    path = Path(folder) / STATE_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = {f.name for f in fields(RunState)}
        return RunState(**{key: value for key, value in content.items() if key in known})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the state of a run ({error}); remove it to start that run anew") from error


def write_state(folder: str | Path, state: RunState) -> None:
    write_json(Path(folder) / STATE_FILE, asdict(state))


def settle(folder: str | Path, state: RunState) -> RunState:
    """A run that is ``running`` on disk though nobody watches it was cut off: it goes back to ``queued``.

    Its time is counted up to the last line of its log.
    """
    if state.status == RUNNING:
        with contextlib.suppress(OSError):
            state.seconds += max(0.0, (Path(folder) / LOG_FILE).stat().st_mtime - (state.started or 0.0))
        state.status, state.reason = QUEUED, "cut off"
    return state


def has_checkpoint(folder: str | Path) -> bool:
    return any(Path(folder).glob("ckpts/*.ckpt"))


def read_progress(folder: str | Path) -> tuple[str, int, int] | None:
    """Phase, step and number of steps from the end of the log, as the launcher prints them every few seconds."""
    try:
        with open(Path(folder) / LOG_FILE, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4096))
            found = _PROGRESS.findall(file.read().decode(errors="replace"))
    except OSError:
        return None
    return (found[-1][0], int(found[-1][1]), int(found[-1][2])) if found else None


def execute(
    job: Job,
    device: str | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    should_kill: Callable[[], bool] = lambda: False,
) -> RunState:
    """Start the launcher, or let it go on from its checkpoint, and wait for its end.

    Args:
        job: what to run.
        device: value of ``CUDA_VISIBLE_DEVICES``; None leaves the environment as it is.
        should_stop: asked several times a second; True asks the run to save and leave, and leaves it ``queued``.
        should_kill: the same, for a stop that does not wait for the run to save.

    Returns:
        The state that is also in the folder: ``done``, ``failed`` with a reason, or ``queued`` if stopped.

    Raises:
        RunBusyError: the folder is in use.
        KeyboardInterrupt: the calling process was interrupted; the run has been stopped as by ``should_stop``.
    """
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    previous = read_state(folder)
    with _locked(folder, previous) as lock:
        state = settle(folder, previous) if previous else RunState(job.id)
        resume = [f"resume={folder}"] if has_checkpoint(folder) else []
        state.settings, state.command = dict(job.settings), [*job.command, *resume]
        state.status, state.reason, state.log_tail, state.exit_code = RUNNING, "", [], None
        state.starts, state.started, state.finished = state.starts + 1, time.time(), None
        state.host = socket.gethostname()
        state.commits = list(dict.fromkeys([*state.commits, job.commit]))
        environment = _environment(job, device)
        state.device = name_device(environment.get("CUDA_VISIBLE_DEVICES", ""))
        with open(folder / LOG_FILE, "ab") as log:
            offset = log.tell()
            held = {"pass_fds": (lock,)} if lock is not None else {}
            # a session of its own: Ctrl-C in the terminal reaches the runner alone, which then stops its runs in order
            process = subprocess.Popen(
                state.command, cwd=job.cwd, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True, **held,
            )  # fmt: skip
            state.pid = process.pid
            stopped = True
            try:
                write_state(folder, state)
                stopped = _watch(process, should_stop)
            finally:
                if process.poll() is None:
                    _stop(process, should_kill)
                state.pid, state.exit_code, state.finished = None, process.returncode, time.time()
                state.seconds += state.finished - state.started
                state.log_tail = _tail(folder / LOG_FILE, offset)
                if stopped:
                    state.status, state.reason = QUEUED, "stopped; goes on at the next start"
                elif process.returncode == 0:
                    state.status = DONE
                else:
                    state.status, state.reason = FAILED, explain(process.returncode, state.log_tail)
                write_state(folder, state)
    return state


def explain(code: int, tail: list[str]) -> str:
    """Why a run failed: its own error message if it printed one, else the signal, else its last line."""
    marks = [i for i, line in enumerate(tail) if re.match(r"(internal )?error: |\w*(Error|Exception)\b.*: ", line)]
    if marks:
        return "\n".join(tail[marks[-1] :])
    if code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return tail[-1] if tail else f"exit status {code} without a message"


def name_device(visible: str) -> str:
    """``GPU 0, NVIDIA H200`` for a value of ``CUDA_VISIBLE_DEVICES``, ``CPU`` for one that hides all GPUs."""
    if visible in ("", "-1"):
        return "CPU"
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", f"--id={visible}"]
    name = ""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        name = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    return f"GPU {visible}" + (f", {name.splitlines()[0]}" if name else "")


def _environment(job: Job, device: str | None) -> dict[str, str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if job.threads:
        environment["OMP_NUM_THREADS"] = str(job.threads)
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    elif environment.get("CUDA_VISIBLE_DEVICES") == "":  # no GPU, says CUDA; the launcher takes it for "not set"
        environment["CUDA_VISIBLE_DEVICES"] = "-1"
    return environment


def _watch(process: subprocess.Popen[bytes], should_stop: Callable[[], bool]) -> bool:
    """Wait for the end; whether it was asked to stop before."""
    while process.poll() is None:
        if should_stop():
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)
    return False


def _stop(process: subprocess.Popen[bytes], should_kill: Callable[[], bool]) -> None:
    """SIGTERM, upon which the launcher saves and leaves; SIGKILL if that takes too long or is not wanted."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    end = time.monotonic() + GRACE_SECONDS
    while process.poll() is None and time.monotonic() < end and not should_kill():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)
    if process.poll() is None:
        process.kill()
        process.wait()


def _tail(path: Path, offset: int) -> list[str]:
    """The last lines of a log, of what was written after ``offset``."""
    with open(path, "rb") as file:
        file.seek(max(offset, os.fstat(file.fileno()).st_size - 20_000))
        text = file.read().decode(errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()][-TAIL_LINES:]


@contextlib.contextmanager
def _locked(folder: Path, state: RunState | None) -> Iterator[int | None]:
    """Hold the folder's lock; yields its descriptor, which the run inherits.

    If the last runner was killed, its run may still be training: it is asked to save and leave.
    """
    if fcntl is None:
        yield None
        return
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        end, asked = time.monotonic() + GRACE_SECONDS, False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pid, host = (state.pid, state.host) if state else (None, "")
                if pid is None or host != socket.gethostname() or time.monotonic() > end:
                    where = f" (process {pid} on {host})" if pid else ""
                    raise RunBusyError(f"{folder} is in use by another process{where}: stop that first") from None
                if not asked:
                    asked = True
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
                time.sleep(POLL_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)
