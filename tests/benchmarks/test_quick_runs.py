"""The benchmark scripts run on a CPU at toy size, as their ``--quick`` promises, and write complete reports."""

import json
import os
import shutil
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


@pytest.mark.slow
def test_data_engine(repository, tmp_path):
    printed, report = quick_run(repository, tmp_path, "data_engine")
    kinds = {(row["size"], row["kind"]) for row in report["results"]}
    assert kinds == {(s, k) for s in (64, 128) for k in ("pairs", "single", "views", "clips of 14", "clips of 16")}
    assert all(row["images_per_s"] >= row["samples_per_s"] > 0 for row in report["results"])
    assert "clips/s" in printed and report["jitter by asset"]["ms"] > 0


@pytest.mark.slow
def test_mvdream_step(repository, tmp_path):
    _, report = quick_run(repository, tmp_path, "mvdream_step")
    assert [row["views"] for row in report["results"]] == [4, 1, 1]
    assert all(row[part]["ms"] > 0 for row in report["results"] for part in ("encode", "unet", "step"))


@pytest.mark.slow
def test_consistent4d_bench4d(repository, tmp_path):
    """One object that looks the same from every side, two steps, without interpolator and without prior baseline."""
    for view in ("ref", "az-75", "az15", "az105", "az195"):
        folder = tmp_path / "data" / "thing" / view
        folder.mkdir(parents=True)
        for frame in range(3):
            shutil.copy(repository / "load" / "demo" / "walker" / f"{frame}.png", folder)
    output = tmp_path / "report.json"
    overrides = ["trainer.max_steps=2", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
    overrides += ["data.height=16", "data.resolution_milestones=[]", "data.batch_size=1", "data.ref_batch_size=1"]
    overrides += ["data.eval_height=16", "data.eval_width=16", "data.loop=false", "system.eval_frame_size=32"]
    overrides += ["system.video_fps=0", "system.renderer.num_samples_per_ray=16"]
    command = [sys.executable, "benchmarks/consistent4d_bench4d.py", str(tmp_path / "data"), "--out", str(output)]
    command += ["--runs", str(tmp_path / "runs"), "--variants", "no ICL", "--prior", "", "--threads", "1"]
    variables = dict(os.environ, CUDA_VISIBLE_DEVICES="")
    done = subprocess.run(
        [*command, "--", *overrides], cwd=repository, env=variables, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert list(report) == ["hardware", "torch", "commit", "config", "overrides", "workers", "size", "results"]
    assert report["overrides"] == overrides
    assert set(report["results"]) == {"no ICL", "copy", "mirror"}
    trained, copied = report["results"]["no ICL"]["thing"], report["results"]["copy"]["thing"]
    assert set(trained) == {"psnr", "iou", "flicker", "seconds"}, trained
    assert copied == pytest.approx({"psnr": 100, "iou": 1, "flicker": 0})
    assert "| copy | 100.00 | 1.000 | 0.00 | 100.00 / 1.000 |" in done.stdout
