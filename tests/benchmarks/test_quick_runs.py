"""The benchmark scripts run on a CPU at toy size, as their ``--quick`` promises, and write complete reports."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from threestudio_4d.evaluation.novel_views import score_folders


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


@pytest.fixture
def round_thing(repository, tmp_path):
    """One object that looks the same from every side."""
    for view in ("ref", "az-75", "az15", "az105", "az195"):
        folder = tmp_path / "data" / "thing" / view
        folder.mkdir(parents=True)
        for frame in range(3):
            shutil.copy(repository / "load" / "demo" / "walker" / f"{frame}.png", folder)
    return tmp_path / "data"


@pytest.mark.slow
def test_consistent4d_bench4d(repository, tmp_path, round_thing):
    """The benchmark of the README with one of its configs, two steps, without interpolator."""
    overrides = ["trainer.max_steps=2", "trainer.accelerator=cpu", "data.height=16", "data.resolution_milestones=[]"]
    overrides += ["data.batch_size=1", "data.ref_batch_size=1", "data.eval_height=16", "data.eval_width=16"]
    overrides += ["data.loop=false", "system.eval_frame_size=32", "system.renderer.num_samples_per_ray=16"]
    command = [
        sys.executable,
        "-m",
        "threestudio_4d.evaluation.benchmark",
        "benchmarks/specs/consistent4d_bench4d.yaml",
    ]
    command += ["--data", str(round_thing), "--out", str(tmp_path / "out"), "--only", "no ICL", "--threads", "1"]
    command += ["--metrics", "psnr", "iou", "flicker"]
    paths = os.pathsep.join(str(repository / name) for name in ("custom", "extern"))
    variables = dict(os.environ, CUDA_VISIBLE_DEVICES="", PYTHONPATH=paths)
    done = subprocess.run(
        [*command, *overrides], cwd=repository, env=variables, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {run["id"]: run["status"] for run in report["runs"]} == {
        "full/thing-s0": "queued", "no_ICL/thing-s0": "done", "one_level/thing-s0": "queued",
    }  # fmt: skip
    means = {name: found["0"]["mean"] for name, found in report["scores"].items() if found}
    assert set(means) == {"no ICL", "copy", "mirror"} and set(means["no ICL"]) == {"psnr", "iou", "flicker"}
    assert means["copy"] == pytest.approx({"psnr": 100, "iou": 1, "flicker": 0})
    assert "| copy | **100.00** | **1.000** | **0.00** | 1 of 1 |" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.slow
def test_prior_novel_views(repository, tmp_path, round_thing):
    """What the prior draws has the layout of results."""
    command = [
        sys.executable,
        "benchmarks/prior_novel_views.py",
        str(round_thing),
        str(tmp_path / "out"),
        "--steps",
        "1",
    ]
    variables = dict(os.environ, CUDA_VISIBLE_DEVICES="")
    done = subprocess.run(command, cwd=repository, env=variables, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    for method in ("sampled", "one_step"):
        scores = score_folders(tmp_path / "out" / method / "thing", round_thing / "thing")
        assert scores["psnr"] > 10 and scores["iou"] > 0.3, (method, scores)
