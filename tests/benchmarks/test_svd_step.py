"""``benchmarks/svd_step.py`` runs at toy size, and its full size is the published one."""

import importlib
import json
import subprocess
import sys

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection


def test_quick_run(repository, tmp_path):
    output = tmp_path / "report.json"
    command = [sys.executable, "benchmarks/svd_step.py", "--device", "cpu", "--quick", "--output", str(output)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert {row["variant"] for row in report["results"]} == {"published", "half_encoder", "low_memory"}
    assert all(row[part]["ms"] > 0 for row in report["results"] for part in ("encode", "unet", "step"))


def test_networks_have_the_published_size(repository, monkeypatch):
    """Parameters of stable-video-diffusion-img2vid: 1,524.6 M, 97.7 M and 632.1 M."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    configs = importlib.import_module("svd_step").PUBLISHED
    with torch.device("meta"):
        networks = (
            UNetSpatioTemporalConditionModel(in_channels=8, out_channels=4, **configs["unet"]),
            AutoencoderKLTemporalDecoder(latent_channels=4, **configs["vae"]),
            CLIPVisionModelWithProjection(CLIPVisionConfig(**configs["clip"])),
        )
    counts = [sum(p.numel() for p in network.parameters()) / 1e6 for network in networks]
    assert counts == pytest.approx([1524.6, 97.7, 632.1], abs=0.1)
