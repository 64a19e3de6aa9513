"""The benchmark script runs at toy size and its builders can be imported."""

import json
import sys

import pytest

from threestudio.utils.misc import set_device


@pytest.fixture
def script(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import zero123_step

    yield zero123_step
    set_device(None)


def test_quick_run(script, tmp_path, monkeypatch, capsys):
    output = tmp_path / "numbers.json"
    options = ["--device", "cpu", "--quick", "--variants", "published", "checkpointing", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["zero123_step.py", *options])
    script.main()
    results = json.loads(output.read_text())["results"]
    assert [(r["variant"], r["views"]) for r in results] == [
        ("published", 1),
        ("published", 4),
        ("checkpointing", 1),
        ("checkpointing", 4),
    ]
    assert all(r[part]["ms"] > 0 for r in results for part in ("encode", "unet", "step"))
    assert "published: levels 2, views 4, render 8: encode" in capsys.readouterr().out
