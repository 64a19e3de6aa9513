"""``benchmarks/distill_pixels.py`` runs on a toy prior and writes its sheet."""

import subprocess
import sys

import cv2
from tiny_svd import FRAMES, SIZE, tiny_svd


def test_svd(repository, tmp_path):
    tiny_svd().save(tmp_path / "prior")
    sheet = tmp_path / "sheet.png"
    command = [sys.executable, "benchmarks/distill_pixels.py", "svd-guidance", "--steps", "4", "--samples", "2"]
    command += ["--out", str(sheet), "--device", "cpu", "--set", f"pretrained_model_name_or_path={tmp_path / 'prior'}"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    rows = "given, start, 1 steps, 2 steps, 4 steps, sample 1, sample 2"
    assert f"rows are {rows}" in done.stdout and "4 steps: distance to the nearest of 2 samples" in done.stdout
    assert cv2.imread(str(sheet)).shape == (len(rows.split(",")) * SIZE, FRAMES * SIZE, 3)
