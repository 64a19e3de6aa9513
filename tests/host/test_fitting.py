"""Weights that do not fit, or are not finite, are refused by name."""

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from test_system import Data, Tiny, trainer
from torch import nn

import threestudio
from threestudio.utils.base import BaseModule
from threestudio.utils.errors import CheckpointError, NonFiniteError
from threestudio.utils.fitting import OptimizersFit, load_fitting


class Planes(nn.Module):
    def __init__(self, size: int, levels: int) -> None:
        super().__init__()
        self.planes = nn.ParameterList([nn.Parameter(torch.ones(2, size)) for _ in range(levels)])
        self.register_buffer("box", torch.full((2,), float("inf")))


def load(module: nn.Module, state: dict, strict: bool = True, source: str | None = None) -> object:
    return load_fitting(module, module.load_state_dict, state, strict, source)


def test_what_fits_is_loaded_and_a_buffer_may_be_infinite():
    module = Planes(3, 2)
    load(module, {name: value * 2 for name, value in Planes(3, 2).state_dict().items()})
    assert module.planes[1][0, 0] == 2
    assert set(load(module, {"planes.0": torch.zeros(2, 3)}, strict=False).missing_keys) == {"box", "planes.1"}
    assert module.planes[0].sum() == 0


def test_other_size_and_own_config(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/parsed.yaml").write_text("")
    with pytest.raises(CheckpointError) as caught:
        load(Planes(4, 1), Planes(3, 1).state_dict(), source=str(tmp_path / "ckpts/last.ckpt"))
    message = str(caught.value)
    assert "planes.0 is [2, 3] in the checkpoint and [2, 4] by this config" in message
    assert f"This run's own config is '{tmp_path}/configs/parsed.yaml'" in message


@pytest.mark.parametrize(
    ("here", "there", "fragment"),
    [(3, 1, "the checkpoint lacks planes.1 [2, 3], planes.2 [2, 3]"), (1, 2, "has no place for planes.1 [2, 3]")],
)
def test_other_number_of_levels(here, there, fragment):
    with pytest.raises(CheckpointError) as caught:
        load(Planes(3, here), Planes(3, there).state_dict())
    assert fragment in str(caught.value)


def test_long_lists_are_cut():
    with pytest.raises(CheckpointError, match="planes.3 is .* by this config; 5 more sizes differ"):
        load(Planes(3, 9), Planes(4, 9).state_dict())


@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "NaN"), (float("-inf"), "infinite")])
def test_values_that_are_not_finite(value, kind):
    state = Planes(3, 2).state_dict()
    state["planes.1"] = state["planes.1"].index_fill(1, torch.tensor([2]), value)
    with pytest.raises(CheckpointError, match=rf"'a.ckpt' holds .*parameter planes.1 \(2 of 6 values, {kind}\)"):
        load(Planes(3, 2), state, source="a.ckpt")
    state = Planes(3, 2).state_dict()
    state["box"] = state["box"] * float("nan")
    with pytest.raises(CheckpointError, match=r"buffer box \(2 of 2 values, NaN\)"):
        load(Planes(3, 2), state)


class Part(BaseModule):
    def configure(self) -> None:
        self.net = nn.Linear(2, 3)


def test_weights_of_a_part(tmp_path):
    torch.save({"state_dict": {"geometry.net.weight": torch.ones(3, 5)}}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"net.weight is \[3, 5\] in the checkpoint and \[3, 2\].*lacks net.bias"):
        Part({"weights": f"{tmp_path}/a.ckpt:geometry"})


def test_weights_of_a_system_without_a_matching_tensor(tmp_path):
    torch.save({"net.weight": torch.ones(2)}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="no tensor .*a.ckpt' .* has net.weight; the system has geometry.weight"):
        Tiny({"weights": str(tmp_path / "a.ckpt")})


def test_weights_of_a_system_with_few_matching_tensors(tmp_path, monkeypatch):
    torch.save({"geometry.weight": torch.full((3,), 5.0), "other": torch.ones(1)}, tmp_path / "a.ckpt")
    said: list[str] = []
    monkeypatch.setattr(threestudio, "warn", said.append)
    system = Tiny({"weights": str(tmp_path / "a.ckpt")})
    assert system.geometry.weight[0] == 5
    text = said[0]
    assert "loaded 1 tensors (geometry.weight); 2 keep their initial values (geometry.encoding.weight" in text
    assert "1 of the file are not used (other)" in text


class Leaping(Tiny):
    """Its first step leads to infinity."""

    def configure_optimizers(self):
        configured = super().configure_optimizers()
        configured["optimizer"].param_groups[0]["lr"] = float("inf")
        return configured


def run(folder, config, steps, ckpt=None, system_class=Tiny):
    system = system_class(OmegaConf.create(config))
    saver = pl.callbacks.ModelCheckpoint(dirpath=folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    runner = trainer(folder, steps, callbacks=[OptimizersFit(), saver], enable_checkpointing=True, limit_val_batches=0)
    runner.fit(system, Data(), ckpt_path=ckpt)
    return system


def adam(**args):
    return {"optimizer": {"name": "Adam", "args": {"lr": 0.1, **args}}}


def test_other_optimizer_groups_are_refused(tmp_path):
    run(tmp_path, adam(), 1)
    config = adam()
    config["optimizer"]["params"] = {"geometry.weight": {"lr": 0.2}}
    with pytest.raises(CheckpointError, match=r"groups of \[\[3\]\] parameters, that of this config of \[\[1\]\]"):
        run(tmp_path, config, 2, str(tmp_path / "step=1.ckpt"))


def test_a_bad_step_leaves_the_last_good_checkpoint(tmp_path):
    run(tmp_path, adam(), 1)
    before = (tmp_path / "step=1.ckpt").read_bytes()
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path, adam(), 3, system_class=Leaping)
    assert str(caught.value).startswith("After 1 steps these are not finite, so they are not saved: parameter geometry")
    assert [p.name for p in tmp_path.glob("*.ckpt")] == ["step=1.ckpt"]
    assert (tmp_path / "step=1.ckpt").read_bytes() == before


def test_optimizer_state_is_looked_at_before_a_save(tmp_path):
    class Sneaky(Tiny):
        def on_before_optimizer_step(self, optimizer):
            super().on_before_optimizer_step(optimizer)
            self.geometry.weight.grad.fill_(1e30)  # finite, but its square is not: Adam would stand still for ever

    runner = trainer(tmp_path, 1, enable_checkpointing=False, limit_val_batches=0)
    runner.fit(Sneaky(OmegaConf.create(adam())), Data())
    with pytest.raises(NonFiniteError, match=r"optimizer state exp_avg_sq of geometry.weight \(3 of 3 values, inf"):
        runner.save_checkpoint(tmp_path / "a.ckpt")
    assert not list(tmp_path.glob("*.ckpt"))


def test_parameter_that_a_step_spoils_is_named_before_the_next(tmp_path):
    with pytest.raises(NonFiniteError) as caught:
        trainer(tmp_path, 5, limit_val_batches=0).fit(Leaping(OmegaConf.create(adam())), Data())
    message = str(caught.value)
    assert message.startswith("The optimizer step 0 made parameters that are not finite (largest values: geometry")
    assert "There is no checkpoint yet" in message


def test_infinite_weight_of_a_term_is_named(tmp_path):
    class Weighted(Tiny):
        def training_step(self, batch, batch_idx):
            out = super().training_step(batch, batch_idx)
            weight = float("inf") if self.true_global_step == 2 else 1.0
            self.log("train_params/lambda_fit", weight)
            return {"loss": out["loss"] * weight}

    with pytest.raises(NonFiniteError, match="loss of step 2 is inf. .*not finite: train_params/lambda_fit = inf"):
        trainer(tmp_path, 5, limit_val_batches=0).fit(Weighted(OmegaConf.create(adam())), Data())
