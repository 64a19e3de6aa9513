"""What the benchmark scripts share: import paths, the record of hardware and versions, timing.

Import it before ``threestudio`` or ``threestudio_4d``: it puts both on the import path.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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


@dataclass
class Case:
    """One thing to time: entries of the report that describe it, and the function that builds its named parts.

    The networks live in what ``build`` returns, and go when that goes.
    """

    row: dict[str, Any]
    build: Callable[[], dict[str, Callable[[], None]]]


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


def benchmark_guidance(
    description: str | None,
    networks: str,
    variants: Sequence[str],
    default: Sequence[str],
    cases: Callable[[str, torch.device, bool], Iterator[Case]],
    repeats: int = 20,
    warmup: int = 5,
    head: dict[str, Any] | None = None,
) -> None:
    """The command line of a script that times a guidance at the published size.

    Args:
        description: of the script.
        networks: what is timed, for the report.
        variants: names to choose from; ``default``: those that run if none is named.
        cases: ``(variant, device, quick) -> cases``; ``quick`` asks for toy networks.
        head: more entries of the report's head.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="toy networks and few repeats, to see that it runs")
    parser.add_argument("--variants", nargs="+", choices=list(variants), default=list(default))
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--output", type=Path, help="write the numbers as JSON here too")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    timing = {"repeats": 1, "warmup": 1} if arguments.quick else {"repeats": arguments.repeats, "warmup": warmup}
    results: list[dict[str, Any]] = []
    for variant in arguments.variants:
        for case in cases(variant, device, arguments.quick):
            row = {"variant": variant, **case.row}
            try:
                numbers = {name: measure(part, device, **timing) for name, part in case.build().items()}
                cells = ", ".join(
                    f"{name} {number['ms']:.1f} ms" + (f" {number['peak_gib']:.1f} GiB" if "peak_gib" in number else "")
                    for name, number in numbers.items()
                )
            except torch.cuda.OutOfMemoryError:
                numbers, cells = {"out_of_memory": True}, "out of memory"
            results.append({**row, **numbers})
            print(f"{variant}: {', '.join(f'{key} {value}' for key, value in case.row.items())}: {cells}", flush=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    if arguments.output is not None:
        named = "toy" if arguments.quick else f"{networks}, random weights"
        write_report({**environment(device), "networks": named, **(head or {}), "results": results}, arguments.output)


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write a report as JSON."""
    from threestudio_4d.atomic import write_text  # found once the script that calls has set its path

    write_text(path, json.dumps(report, indent=1) + "\n")
    print(f"wrote {path}")
