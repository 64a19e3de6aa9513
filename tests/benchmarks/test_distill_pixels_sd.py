"""``benchmarks/distill_pixels.py`` on a toy Stable Diffusion."""

import subprocess
import sys

import cv2
from tiny_sd import tiny_sd


def test_stable_diffusion(repository, tmp_path):
    tiny_sd("pixels").save(tmp_path / "prior")
    sheet, prior = tmp_path / "sheet.png", tmp_path / "prior"
    command = [sys.executable, "benchmarks/distill_pixels.py", "sd-guidance", "--steps", "4", "--samples", "2"]
    command += ["--out", str(sheet), "--device", "cpu", "--set", f"pretrained_model_name_or_path={prior}"]
    command += [f"text={prior}", "prompt=a red car"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    rows = "start, 1 steps, 2 steps, 4 steps, sample 1, sample 2"
    assert f"rows are {rows}" in done.stdout
    assert cv2.imread(str(sheet)).shape == (len(rows.split(",")) * 16, 4 * 16, 3)
