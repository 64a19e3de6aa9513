"""The benchmark script of Stable Diffusion runs at toy size, and its builders can be imported."""

import json
import sys

import pytest

from threestudio.utils.misc import set_device


@pytest.fixture
def script(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import sd_step

    yield sd_step
    set_device(None)


def test_quick_run(script, tmp_path, monkeypatch, capsys):
    output = tmp_path / "numbers.json"
    options = ["--device", "cpu", "--quick", "--variants", "published", "checkpointing"]
    monkeypatch.setattr(sys, "argv", ["sd_step.py", *options, "--output", str(output)])
    script.main()
    results = json.loads(output.read_text())["results"]
    assert [(r["variant"], r["images"]) for r in results] == [
        ("published", 1),
        ("published", 4),
        ("checkpointing", 1),
        ("checkpointing", 4),
    ]
    assert all(r[part]["ms"] > 0 for r in results for part in ("encode", "unet", "step"))
    assert "published: images 4, render 16: encode" in capsys.readouterr().out
