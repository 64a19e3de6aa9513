"""With what a report was made: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "pytorch-lightning", "diffusers", "numpy", "opencv-python-headless", "torchmetrics", "ray")


def commit(folder: Path) -> str:
    """Commit of the checkout, with a remark if files differ from it.

    A copy without history takes it from the environment variable ``BENCHMARK_COMMIT``.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    found = git("rev-parse", "--verify", "HEAD")
    if not found:
        given = os.environ.get("BENCHMARK_COMMIT")
        return f"{given} (a copy without history)" if given else "unknown"
    return found + (" with changes" if git("status", "--porcelain", "--untracked-files=no") else "")


def cpu_name() -> str:
    """Model of the processor and how many logical cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def gpu_names() -> list[str]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_name(index) for index in range(count)]


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def provenance(folder: Path) -> dict[str, Any]:
    """All of it as plain values."""
    return {"commit": commit(folder), "cpu": cpu_name(), "gpus": gpu_names(), "system": platform.platform(),
            "versions": versions()}  # fmt: skip
