"""The benchmark scripts run on a CPU at toy size, as their ``--quick`` promises, and write complete reports."""

import json
import subprocess
import sys

import pytest


def quick_run(repository, folder, script):
    """Run a script as a user does; returns what it printed and its report."""
    output = folder / "report.json"
    command = [sys.executable, f"benchmarks/{script}.py", "--device", "cpu", "--quick", "--output", str(output)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert {"hardware", "threads", "torch", "python", "commit"} <= set(report)
    return done.stdout, report


@pytest.mark.slow
def test_paper_step(repository, tmp_path):
    printed, report = quick_run(repository, tmp_path, "paper_step")
    assert set(report["stages"]) == {"stage 1", "stage 2"}
    first, second = report["stages"].values()
    assert set(first["kinds"]) == {"reference", "novel view", "novel view with rife"}
    assert set(second["kinds"]) == {"reference", "novel view"}  # nothing lies between the views of a batch of one
    for stage in (first, second):
        assert sum(stage["frequencies"].values()) == pytest.approx(1)
        assert sum(stage["shares"].values()) == pytest.approx(1)
        assert all(share >= 0 for share in stage["shares"].values())
        assert stage["it_per_s"] > 0 and stage["wall_it_per_s"] > 0
        assert all(stage["kinds"]["novel view"][part] > 0 for part in ("geometry and renderer", "vae", "unet"))
        assert stage["kinds"]["reference"]["vae"] == stage["kinds"]["reference"]["unet"] == 0
    assert first["kinds"]["novel view with rife"]["rife"] > 0
    assert "| stage 1, mean step |" in printed


@pytest.mark.slow
def test_renderer_step(repository, tmp_path):
    printed, report = quick_run(repository, tmp_path, "renderer_step")
    assert {row["lookup"] for row in report["lookup"]} >= {"torch"}
    assert all(row["ms"] > 0 and row["max_abs_diff"] < 1e-4 for row in report["steps"])
    assert "image differs by" in printed


@pytest.mark.slow
def test_zero123_step(repository, tmp_path):
    _, report = quick_run(repository, tmp_path, "zero123_step")
    assert {row["variant"] for row in report["results"]} == {"published", "half_encoder"}
    assert all(row[part]["ms"] > 0 for row in report["results"] for part in ("encode", "unet", "step"))
