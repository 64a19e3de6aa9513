"""The loop that trains priors: it learns, averages, goes on where it stopped, and leaves frozen parts alone."""

import json
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from threestudio_4d.tiny_priors.training.loop import Trainer, TrainingConfig, draw_timesteps, parse_config, train


class Line:
    """Fits y = 2 x with a frozen offset of 1 that must stay."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.model = nn.Linear(1, 1).to(device)
        nn.init.zeros_(self.model.weight)
        nn.init.ones_(self.model.bias)
        self.model.bias.requires_grad_(False)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.refreshed: list[int] = []

    def draw(self, count: int) -> tuple[torch.Tensor, ...]:
        x = torch.rand(count, 1, generator=self.generator)
        return x, 2 * x + 1

    def loss(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (model(x) - y).square().mean()

    def refresh(self, step: int) -> None:
        self.refreshed.append(step)

    def evaluate(self, average: nn.Module, final: bool) -> dict:
        return {"slope": average.weight.item(), "final": final}

    def save(self, average: nn.Module, folder) -> None:
        folder.mkdir(exist_ok=True)
        torch.save(average.state_dict(), folder / "line.pt")


def config(folder, **changes) -> TrainingConfig:
    settings = {"batch_size": 64, "learning_rate": 0.05, "warmup_steps": 5, "max_steps": 200, "compile": False}
    return TrainingConfig(out=str(folder), weight_decay=0.0, ema_decay=0.9, **(settings | changes))


def test_it_learns_and_leaves_frozen_parts_alone(tmp_path):
    train(Line, config(tmp_path))
    line = torch.load(tmp_path / "prior" / "line.pt", weights_only=True)
    record = json.loads((tmp_path / "training.json").read_text())
    assert abs(line["weight"].item() - 2) < 0.05 and line["bias"].item() == 1
    assert record["parameters"] == 1 and record["history"][-1]["step"] == 200
    assert record["history"][-1]["final"] and record["history"][-1]["slope"] == pytest.approx(line["weight"].item())


def test_a_second_call_goes_on(tmp_path):
    train(Line, config(tmp_path, max_steps=20))
    first = json.loads((tmp_path / "training.json").read_text())["history"][-1]
    trainer = Trainer(Line, config(tmp_path, max_steps=150))
    assert trainer.step == 20 and trainer.average.weight.item() == pytest.approx(first["slope"])
    assert trainer.optimizer.state_dict()["state"]
    trainer.run()
    assert trainer.task.refreshed[0] == 20
    last = json.loads((tmp_path / "training.json").read_text())["history"][-1]
    assert last["step"] == 150 and abs(last["slope"] - 2) < abs(first["slope"] - 2)


def test_a_call_with_one_step_left_saves_it(tmp_path):
    train(Line, config(tmp_path, max_steps=20))
    train(Line, config(tmp_path, max_steps=21))
    assert json.loads((tmp_path / "training.json").read_text())["history"][-1]["step"] == 21


def test_the_rate_warms_up_and_falls(tmp_path):
    trainer = Trainer(Line, config(tmp_path, learning_rate=1.0, warmup_steps=10, minutes=2.0))
    assert trainer.learning_rate(0.0) == pytest.approx(0.1)
    trainer.step = 100
    assert trainer.learning_rate(0.0) == pytest.approx(1.0)
    assert trainer.learning_rate(1.0) == pytest.approx(0.505)
    assert trainer.learning_rate(3.0) == pytest.approx(0.01)


def test_timesteps_are_stratified_and_hold_the_last_one():
    torch.manual_seed(0)
    t = draw_timesteps(1000, 999, 0.1, torch.device("cpu"))
    assert t.min() >= 0 and t.max() == 999
    assert 60 < (t == 999).sum() < 140
    assert torch.histc(t[t < 999].float(), 10, 0, 999).min() > 70


def test_settings_come_from_the_command_line(monkeypatch, capsys):
    @dataclass(kw_only=True)
    class Settings(TrainingConfig):
        pack: str
        share: float = 0.5

    arguments = ["train", "--out", "run", "--pack", "a.npz", "--batch-size", "8", "--no-compile", "--share", ".25"]
    monkeypatch.setattr(sys, "argv", arguments)
    settings = parse_config(Settings, "help", minutes=3.0)
    assert (settings.out, settings.pack, settings.batch_size, settings.share) == ("run", "a.npz", 8, 0.25)
    assert settings.compile is False and settings.minutes == 3.0
    monkeypatch.setattr(sys, "argv", ["train", "--out", "run"])
    with pytest.raises(SystemExit):
        parse_config(Settings, "help")
    assert "--pack" in capsys.readouterr().err
