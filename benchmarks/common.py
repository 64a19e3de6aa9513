"""What the benchmark scripts share: import paths, the record of hardware and versions, timing.

Import it before ``threestudio`` or ``threestudio_4d``: it puts both on the import path.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "custom"), str(ROOT / "extern")]


def environment(device: torch.device | str) -> dict[str, Any]:
    """Hardware, versions and commit, for the head of a report.

    A copy of the sources without history takes the commit from the environment variable ``BENCHMARK_COMMIT``.
    """
    device = torch.device(device)
    command = ["git", "-C", str(ROOT), "rev-parse", "--verify", "HEAD"]  # without --verify, no commits reads "HEAD"
    git = subprocess.run(command, capture_output=True, text=True, check=False)
    cpu = platform.processor() or platform.machine()
    return {
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": git.stdout.strip() or os.environ.get("BENCHMARK_COMMIT", "unknown"),
    }


def measure(
    function: Callable[[], Any], device: torch.device | str, repeats: int = 20, warmup: int = 5
) -> dict[str, float]:
    """Median milliseconds of a call after warm-up, by events on a GPU.

    There also ``peak_gib``, the peak of allocated memory, and ``added_gib``, the part of it above what was held before.
    """
    device = torch.device(device)
    for _ in range(warmup):
        function()
    if device.type != "cuda":
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            function()
            times.append(1e3 * (time.perf_counter() - start))
        return {"ms": statistics.median(times)}
    torch.cuda.synchronize(device)
    held = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    events = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(repeats)]
    for start, end in events:
        start.record()
        function()
        end.record()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    return {
        "ms": statistics.median(start.elapsed_time(end) for start, end in events),
        "peak_gib": peak / 2**30,
        "added_gib": (peak - held) / 2**30,
    }


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write a report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {path}")
