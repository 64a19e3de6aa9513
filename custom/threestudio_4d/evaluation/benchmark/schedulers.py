"""Where runs go: one after the other, over the GPUs or CPU cores of this machine, or through Ray.

A scheduler starts every job once, calls ``on_end`` in the calling thread as each ends, and ``on_tick`` about twice a
second in between. When it is interrupted it stops its runs, which save first, and lets the interrupt through; a second
interrupt does not wait for them.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from queue import Queue
from typing import Any

from ...errors import UserError
from . import runs
from .runs import FAILED, Job, RunState

TICK_SECONDS = 0.5
RESTARTS = 2  # of a run whose machine died

OnEnd = Callable[[Job, RunState], None]
OnTick = Callable[[], None]


def visible_gpus() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` can be set to for one GPU each; empty without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return []
    count = torch.cuda.device_count()
    given = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    # CUDA sees a mask up to the first entry that is no device of this machine, so what follows is none either
    return given[:count] or [str(index) for index in range(count)]


def failed(job: Job, error: Exception) -> RunState:
    """Record a run that could not even be started, or whose end could not be recorded; what its folder knows stays,
    so that it can be gone on with.
    """
    state = None
    with contextlib.suppress(ValueError, OSError):
        state = runs.read_state(job.folder)
    state = runs.settle(job.folder, state) if state else RunState(job.id)
    state.status, state.reason = FAILED, f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):
        os.makedirs(job.folder, exist_ok=True)
        runs.write_state(job.folder, state)
    return state


def run_here(jobs: Sequence[Job], gpus: Sequence[str], workers: int, on_end: OnEnd, on_tick: OnTick) -> None:
    """Run jobs on this machine, ``workers`` at a time, each on the next of ``gpus`` (none: on the CPU)."""
    stop, kill = threading.Event(), threading.Event()
    devices: Queue[str | None] = Queue()
    for worker in range(workers):
        devices.put(gpus[worker % len(gpus)] if gpus else None)

    def work(job: Job) -> RunState | None:
        if stop.is_set():
            return None
        device = devices.get()
        try:
            return runs.execute(job, device, stop.is_set, kill.is_set)
        except Exception as error:  # one run that fails in any way does not stop the others
            return failed(job, error)
        finally:
            devices.put(device)

    with ThreadPoolExecutor(workers, thread_name_prefix="run") as pool:
        pending: dict[Future[RunState | None], Job] = {pool.submit(work, job): job for job in jobs}
        try:
            while pending:
                done, _ = wait(pending, TICK_SECONDS, FIRST_COMPLETED)
                for future in done:
                    job, state = pending.pop(future), future.result()
                    if state is not None:
                        on_end(job, state)
                on_tick()
        except BaseException:
            stop.set()
            try:
                wait(pending)
            except KeyboardInterrupt:
                kill.set()
                wait(pending)
            raise


def import_ray() -> Any:
    """Ray, which is optional.

    Raises:
        UserError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "--ray needs Ray: pip install 'ray>=2.40' (or leave --ray out: --workers N spreads over this machine)"
        ) from error
    return ray


def gpu_share(gpus: float, workers: int | None) -> float:
    """The GPUs of one Ray task: one if there are any, or the part of one that lets all workers run at a time."""
    if gpus < 1 or workers is None or workers <= gpus:
        return 1 if gpus >= 1 else 0
    on_each = math.ceil(workers / int(gpus))  # a task's part lies on one GPU: .66 each would leave .34 of it idle
    return int(1000 / on_each) / 1000 if on_each > 1 else 1


def run_on_ray(
    jobs: Sequence[Job],
    address: str | None,
    workers: int | None,
    on_end: OnEnd,
    on_tick: OnTick,
    on_lost: Callable[[Job, str], None] = lambda job, reason: None,
) -> None:
    """Run jobs as Ray tasks, on this machine (no address) or on a cluster that sees the same files at the same paths.

    Every run gets one GPU if there are any, and ``job.threads`` CPUs (1 if not said). More workers than GPUs share
    them evenly; ``workers`` also limits how many runs there are at a time. A run whose machine or Ray worker died goes
    on elsewhere, at most ``RESTARTS`` times; ``on_lost`` is told.

    Raises:
        UserError: Ray is missing, there is nothing at the address, or no machine is large enough for a run.
    """
    ray = import_ray()
    _check_address(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # without "local", Ray would join a cluster that runs here or that RAY_ADDRESS names
        here = {"address": "local", "include_dashboard": False} if address is None else {"address": address}
        ray.init(log_to_driver=False, logging_level="warning", **here)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot reach a Ray cluster at {address or 'this machine'}: {error}") from error
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)  # Ray's own abort this process; these stop the runs in order
        # the workers need no installation of this package: the module travels with the task
        ray.cloudpickle.register_pickle_by_value(runs)
        share = gpu_share(ray.cluster_resources().get("GPU", 0), workers)
        cpus = jobs[0].threads or 1 if jobs else 1
        most = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
        if cpus > most:  # Ray would wait for such a machine for ever
            raise UserError(f"a run takes {cpus} CPUs, and no machine of Ray's has more than {most}: give --threads N")
        task = ray.remote(runs.execute).options(num_cpus=cpus, num_gpus=share, max_retries=0)
        waiting, flying = list(jobs), {}
        restarts: Counter[str] = Counter()
        try:
            while waiting or flying:
                while waiting and (workers is None or len(flying) < workers):
                    job = waiting.pop(0)
                    flying[task.remote(job)] = job
                done, _ = ray.wait(list(flying), num_returns=1, timeout=TICK_SECONDS)
                for reference in done:
                    job = flying.pop(reference)
                    try:
                        state = ray.get(reference)
                    except Exception as error:  # a worker that died takes only its own run with it
                        lost = isinstance(error, (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError))
                        if lost and restarts[job.id] < RESTARTS:
                            restarts[job.id] += 1
                            waiting.append(job)
                            on_lost(job, type(error).__name__)
                            continue
                        state = failed(job, error)
                    on_end(job, state)
                on_tick()
        except BaseException:
            for reference in flying:
                ray.cancel(reference, force=False)  # raises KeyboardInterrupt inside the task, which stops its run
            _await_stopped(ray, list(flying))
            raise
    finally:
        ray.shutdown()


def _check_address(address: str | None) -> None:
    """Refuse a ``host:port`` at which nothing listens; Ray itself tries for minutes."""
    found = re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", address or "")
    if found is None:
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot reach a Ray cluster at {address}: {error}") from error


def _await_stopped(ray: Any, references: list[Any]) -> None:
    end = time.monotonic() + runs.GRACE_SECONDS
    while references and time.monotonic() < end:
        _, references = ray.wait(references, num_returns=len(references), timeout=TICK_SECONDS)
