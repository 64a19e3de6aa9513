"""The benchmark of text-to-video guidance at toy size."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_quick_run(repository, tmp_path):
    output = tmp_path / "report.json"
    command = [sys.executable, "benchmarks/t2v_step.py", "--device", "cpu", "--quick", "--output", str(output)]
    command += ["--variants", "published", "budget_4"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert {"hardware", "torch", "commit"} <= set(report) and report["frames"] == 16
    assert [(row["variant"], row["width"]) for row in report["results"]] == [
        ("published", 16), ("published", 24), ("budget_4", 16), ("budget_4", 24),
    ]  # fmt: skip
    assert all(row[part]["ms"] > 0 for row in report["results"] for part in ("encode", "unet", "step"))
