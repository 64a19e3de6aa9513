"""Where runs go: one after the other, over the GPUs or CPU cores of this machine, or through Ray.

A scheduler starts every job once, calls ``on_end`` in the calling thread as each ends, and ``on_tick`` about twice a
second in between. When it is interrupted it stops its runs, which save first, and lets the interrupt through; a second
interrupt does not wait for them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from queue import Queue
from typing import Any

from ...errors import UserError
from . import runs
from .runs import FAILED, Job, RunState

TICK_SECONDS = 0.5

OnEnd = Callable[[Job, RunState], None]
OnTick = Callable[[], None]


def visible_gpus() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` can be set to for one GPU each; empty without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return []
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return given or [str(index) for index in range(torch.cuda.device_count())]


def failed(job: Job, error: Exception) -> RunState:
    """State of a run that could not even be started, or whose end could not be recorded."""
    return RunState(job.id, FAILED, reason=f"{type(error).__name__}: {error}")


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


def run_on_ray(jobs: Sequence[Job], address: str | None, workers: int | None, on_end: OnEnd, on_tick: OnTick) -> None:
    """Run jobs as Ray tasks, on this machine (no address) or on a cluster that sees the same files at the same paths.

    Every run gets one GPU if there are any, and ``job.threads`` CPUs (1 if not said). More workers than GPUs share
    them evenly; ``workers`` also limits how many runs there are at a time.

    Raises:
        UserError: Ray is missing, or there is nothing at the address.
    """
    ray = import_ray()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        here = {"include_dashboard": False} if address is None else {}
        ray.init(address=address, log_to_driver=False, logging_level="warning", **here)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot reach a Ray cluster at {address or 'this machine'}: {error}") from error
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)  # Ray's own abort this process; these stop the runs in order
        # the workers need no installation of this package: the module travels with the task
        ray.cloudpickle.register_pickle_by_value(runs)
        gpus = ray.cluster_resources().get("GPU", 0)
        share = min(1.0, gpus / workers) if gpus and workers else float(min(1, gpus))
        share = int(share * 1000) / 1000 if share < 1 else 1
        cpus = jobs[0].threads or 1 if jobs else 1
        task = ray.remote(runs.execute).options(num_cpus=cpus, num_gpus=share, max_retries=0)
        waiting, flying = list(jobs), {}
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


def _await_stopped(ray: Any, references: list[Any]) -> None:
    end = time.monotonic() + runs.GRACE_SECONDS
    while references and time.monotonic() < end:
        _, references = ray.wait(references, num_returns=len(references), timeout=TICK_SECONDS)
