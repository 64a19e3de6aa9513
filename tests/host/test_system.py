"""Hooks, optimizers, resuming and the watch for bad numbers, on systems of a few parameters."""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import threestudio
from threestudio.data.uncond import RandomCameraDataModule
from threestudio.models.renderers.base import Renderer
from threestudio.systems.base import BaseLift3DSystem, BaseSystem
from threestudio.systems.rng import RandomState
from threestudio.systems.utils import parse_optimizer, parse_scheduler, parse_scheduler_to_instance
from threestudio.utils.base import BaseModule, BaseObject, Updateable
from threestudio.utils.errors import NonFiniteError, UserError

EVENTS: list[Any] = []


class Stream(IterableDataset, Updateable):
    def __iter__(self):
        while True:
            yield {}

    def update_step(self, epoch, global_step, on_load_weights=False):
        EVENTS.append(("dataset", global_step))

    def update_step_end(self, epoch, global_step):
        EVENTS.append(("dataset end", global_step))


class One(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return {"index": index}


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Stream(), batch_size=None)

    def val_dataloader(self):
        return DataLoader(One())

    test_dataloader = predict_dataloader = val_dataloader


class Geometry(BaseModule):
    def configure(self):
        self.weight = nn.Parameter(torch.ones(3))
        self.encoding = nn.Linear(2, 2)

    def update_step(self, epoch, global_step, on_load_weights=False):
        EVENTS.append(("geometry", global_step))

    def update_step_end(self, epoch, global_step):
        EVENTS.append(("geometry end", global_step))


class Guidance(BaseObject):
    def update_step(self, epoch, global_step, on_load_weights=False):
        EVENTS.append(("guidance", global_step))


class Tiny(BaseSystem):
    @dataclass
    class Config(BaseSystem.Config):
        bad_step: int = -1
        bad_gradient: bool = False
        optimizer: dict = field(
            default_factory=lambda: {"name": "Adam", "args": {"lr": 0.1, "betas": [0.9, 0.99]}},
        )

    cfg: Config

    def configure(self):
        self.geometry = Geometry({})
        self.guidance = Guidance({})
        self.draws = []

    def update_step(self, epoch, global_step, on_load_weights=False):
        EVENTS.append(("system", global_step))

    def update_step_end(self, epoch, global_step):
        EVENTS.append(("system end", global_step))

    def preprocess_data(self, batch, stage):
        EVENTS.append(("preprocess", stage))

    def training_step(self, batch, batch_idx):
        EVENTS.append(("training_step", self.true_global_step))
        noise = torch.randn(3) + random.random() + np.random.rand()
        self.draws.append(noise)
        loss_fit = (self.geometry.weight - noise).square().sum() + self.geometry.encoding(torch.ones(2)).square().sum()
        loss_reg = self.geometry.weight.square().mean()
        if self.true_global_step == self.cfg.bad_step:
            if self.cfg.bad_gradient:
                loss_reg = loss_reg + torch.sqrt(self.geometry.weight.sum() * 0)
            else:
                loss_reg = loss_reg * float("nan")
        self.log("train/loss_fit", loss_fit)
        self.log("train/loss_reg", loss_reg)
        return {"loss": loss_fit + loss_reg}

    def validation_step(self, batch, batch_idx):
        EVENTS.append(("validation_step", self.true_global_step))

    def on_validation_epoch_end(self):
        EVENTS.append(("validation epoch end", self.true_global_step))

    def test_step(self, batch, batch_idx):
        EVENTS.append(("test_step", self.true_global_step))


def trainer(folder, steps, **kwargs):
    return pl.Trainer(
        default_root_dir=folder,
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"enable_checkpointing": False, **kwargs},
    )


@pytest.fixture(autouse=True)
def _quiet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    EVENTS.clear()


def test_order_of_hooks(tmp_path):
    pl.seed_everything(0)
    system = Tiny({})
    trainer(tmp_path, 2, val_check_interval=2).fit(system, Data())
    assert EVENTS == [
        ("preprocess", "train"),
        ("dataset", 0),
        ("dataset", 0),
        ("geometry", 0),
        ("guidance", 0),
        ("system", 0),
        ("training_step", 0),
        ("dataset end", 1),
        ("dataset end", 1),
        ("geometry end", 1),
        ("system end", 1),
        ("preprocess", "train"),
        ("dataset", 1),
        ("dataset", 1),
        ("geometry", 1),
        ("guidance", 1),
        ("system", 1),
        ("training_step", 1),
        ("dataset end", 2),
        ("dataset end", 2),
        ("geometry end", 2),
        ("system end", 2),
        ("preprocess", "validation"),
        ("geometry", 2),
        ("guidance", 2),
        ("system", 2),
        ("validation_step", 2),
        ("geometry end", 2),
        ("system end", 2),
        ("validation epoch end", 2),
    ]


def test_evaluation_uses_the_resumed_step(tmp_path):
    system = Tiny({}, resumed=True)
    system.set_resume_status(1, 70)
    trainer(tmp_path, 2).test(system, Data(), verbose=False)
    assert system.resumed and system.true_current_epoch == 1
    assert ("test_step", 70) in EVENTS and ("geometry", 70) in EVENTS
    assert system.C([0, 0.0, 1.0, 140]) == 0.5


def test_updates_reach_attributes_once_and_survive_cycles():
    class Node(Updateable):
        def __init__(self):
            self.count = 0

        def update_step(self, epoch, global_step, on_load_weights=False):
            self.count += 1

    parent, child, hidden = Node(), Node(), Node()
    parent.child, child.parent, parent._hidden, parent.listed = child, parent, hidden, [hidden]
    parent.do_update_step(0, 0)
    assert (parent.count, child.count, hidden.count) == (1, 1, 0)


def test_optimizer_groups():
    system = Tiny({})
    config = OmegaConf.create(
        {
            "name": "NAdam",
            "args": {"lr": 0.5, "betas": [0.8, 0.9]},
            "params": {"geometry.encoding": {"lr": 0.1}, "geometry.weight": {"lr": 0.2}, "guidance": {}},
        }
    )
    optimizer = parse_optimizer(config, system)
    assert isinstance(optimizer, torch.optim.NAdam)
    groups = {g["name"]: g for g in optimizer.param_groups}
    assert groups["geometry.encoding"]["lr"] == 0.1 and len(groups["geometry.encoding"]["params"]) == 2
    assert groups["geometry.weight"]["params"][0] is system.geometry.weight
    assert groups["guidance"]["params"] == [] and groups["guidance"]["lr"] == 0.5
    assert all(type(g["betas"]) is list for g in optimizer.param_groups)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": "Adam_W"}, "optimizer.name 'Adam_W' is not in torch.optim. Did you mean 'AdamW'? Valid names: ASGD"),
        (
            {"params": {"geometry.encodign": {}}},
            "optimizer.params names 'geometry.encodign', but geometry has no 'encodign'. Did you mean 'encoding'? "
            "It has: encoding, weight.",
        ),
        ({"args": None}, "optimizer.args is missing; write {} for the defaults."),
    ],
)
def test_messages_of_the_optimizer(change, message):
    config = OmegaConf.create({"name": "Adam", "args": {}, **change})
    with pytest.raises(UserError) as caught:
        parse_optimizer(config, Tiny({}))
    assert str(caught.value).startswith(message)


def test_schedulers():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    config = OmegaConf.create(
        {
            "name": "SequentialLR",
            "interval": "step",
            "milestones": [2],
            "schedulers": [
                {"name": "LinearLR", "args": {"start_factor": 0.5, "total_iters": 2}},
                {"name": "ExponentialLR", "args": {"gamma": 0.1}},
            ],
        }
    )
    parsed = parse_scheduler(config, optimizer)
    assert parsed["interval"] == "step"
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        parsed["scheduler"].step()
    assert rates == pytest.approx([0.5, 0.75, 1.0, 0.1])
    config.name = "Sequential"
    assert isinstance(parse_scheduler_to_instance(config, optimizer), torch.optim.lr_scheduler.SequentialLR)
    with pytest.raises(UserError, match="'epoch' or 'step', got 'batch'"):
        parse_scheduler(
            OmegaConf.create({"name": "ExponentialLR", "args": {"gamma": 1}, "interval": "batch"}), optimizer
        )


def fit(folder, steps, data, system, ckpt=None, save_at=None):
    callbacks: list[pl.Callback] = [RandomState()]
    if save_at:
        callbacks.append(pl.callbacks.ModelCheckpoint(dirpath=folder, every_n_train_steps=save_at, save_top_k=-1))
    pl.seed_everything(3)
    system = system()
    trainer(folder, steps, callbacks=callbacks, enable_checkpointing=True, limit_val_batches=0).fit(
        system, data, ckpt_path=ckpt
    )
    return system


def test_resume_is_exact(tmp_path):
    config = OmegaConf.create({"optimizer": {"name": "NAdam", "args": {"lr": 0.1, "betas": [0.9, 0.99]}}})
    straight = fit(tmp_path / "a", 10, Data(), lambda: Tiny(config))
    fit(tmp_path / "b", 5, Data(), lambda: Tiny(config), save_at=5)
    checkpoint = next((tmp_path / "b").glob("*step=5.ckpt"))
    resumed = fit(tmp_path / "c", 10, Data(), lambda: Tiny(config, resumed=True), ckpt=checkpoint)
    for a, b in zip(straight.draws[5:], resumed.draws, strict=True):
        assert torch.equal(a, b)
    for (name, a), (_, b) in zip(straight.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


class Cameras(Tiny):
    def training_step(self, batch, batch_idx):
        self.draws.append((batch["azimuth"], batch["rays_d"].shape, batch["c2w"]))
        return {"loss": (self.geometry.weight - batch["camera_positions"]).square().sum()}


def test_resume_continues_with_the_same_cameras(tmp_path):
    config = {"height": [4, 8], "width": [4, 8], "batch_size": [2, 3], "resolution_milestones": [3], "n_val_views": 1}
    config |= {"eval_height": 4, "eval_width": 4, "progressive_until": 6}
    straight = fit(tmp_path / "a", 8, RandomCameraDataModule(config), lambda: Cameras({}))
    assert [shape[1] for _, shape, _ in straight.draws] == [4, 4, 4, 4, 4, 8, 8, 8]
    fit(tmp_path / "b", 4, RandomCameraDataModule(config), lambda: Cameras({}), save_at=4)
    checkpoint = next((tmp_path / "b").glob("*step=4.ckpt"))
    resumed = fit(tmp_path / "c", 8, RandomCameraDataModule(config), lambda: Cameras({}, resumed=True), ckpt=checkpoint)
    for (azimuth, shape, c2w), (azimuth2, shape2, c2w2) in zip(straight.draws[4:], resumed.draws, strict=True):
        assert shape == shape2 and torch.equal(azimuth, azimuth2) and torch.equal(c2w, c2w2)
    assert torch.equal(straight.geometry.weight, resumed.geometry.weight)


def test_a_bad_loss_names_its_term_and_step(tmp_path):
    system = Tiny({"bad_step": 3})
    with pytest.raises(NonFiniteError) as caught:
        trainer(tmp_path, 10).fit(system, Data())
    message = str(caught.value)
    assert message.startswith(
        "The loss of step 3 is nan. Terms that are not finite: train/loss_reg = nan. Finite terms: train/loss_fit."
    )
    assert torch.isfinite(system.geometry.weight).all()


def test_a_bad_gradient_names_its_parameter(tmp_path):
    system = Tiny({"bad_step": 2, "bad_gradient": True})
    with pytest.raises(NonFiniteError, match=r"Step 2 has gradients that are not finite: geometry.weight = (nan|inf)"):
        trainer(tmp_path, 10).fit(system, Data())
    assert torch.isfinite(system.geometry.weight).all()


@pytest.mark.gpu
def test_a_bad_loss_on_a_gpu_is_seen_before_it_is_saved(tmp_path):
    system = Tiny({"bad_step": 3})
    system.training_step = None
    from threestudio.systems.health import FiniteWatch

    watch = FiniteWatch()
    watch.note("train/loss_a", torch.tensor(float("inf"), device="cuda"))
    watch.check_loss(torch.tensor(float("inf"), device="cuda"), 7)
    with pytest.raises(NonFiniteError, match="The loss of step 7 is inf.*train/loss_a = inf"):
        watch.flush()


@pytest.fixture
def parts():
    @threestudio.register("test-renderer")
    class FlatRenderer(Renderer):
        def forward(self, rays_d, **kwargs):
            return {"comp_rgb": self.background(rays_d)}

    yield {
        "geometry_type": "implicit-volume",
        "geometry": {"isosurface_method": "mc-cpu", "isosurface_resolution": 16, "isosurface_threshold": 5.0},
        "material_type": "no-material",
        "background_type": "solid-color-background",
        "renderer_type": "test-renderer",
        "exporter": {"fmt": "obj", "save_uv": False},
        "optimizer": {"name": "SGD", "args": {"lr": 0.1}, "params": {"geometry": {}}},
    }
    del threestudio.__modules__["test-renderer"]


class Lift(BaseLift3DSystem):
    def training_step(self, batch, batch_idx):
        out = self.renderer(**batch)
        return {"loss": out["comp_rgb"].mean() + self.geometry(batch["rays_o"])["density"].mean()}

    def validation_step(self, batch, batch_idx):
        self.save_rgb_image(f"it{self.true_global_step}-{batch['index'][0]}.png", self.renderer(**batch)["comp_rgb"][0])

    def on_validation_epoch_end(self):
        pass

    test_step = validation_step


def test_lift_system_trains_saves_and_exports(tmp_path, parts):
    system = Lift(parts)
    system.set_save_dir(str(tmp_path / "save"))
    prefixes = {k.split(".")[0] for k in system.state_dict()}
    assert prefixes == {"geometry", "background", "renderer"}
    assert "renderer.bbox" in system.state_dict() and not any("sub_modules" in k for k in system.state_dict())
    data = RandomCameraDataModule({"height": 4, "width": 4, "eval_height": 6, "eval_width": 6, "n_test_views": 2})
    runner = trainer(tmp_path, 2, val_check_interval=2)
    runner.fit(system, data)
    assert (tmp_path / "save/it2-0.png").is_file()
    trainer(tmp_path, 2).predict(system, data)
    exported = tmp_path / "save/it0-export/model.obj"
    vertices = [line for line in exported.read_text().splitlines() if line.startswith("v ")]
    assert len(vertices) > 20 and len(vertices[0].split()) == 7


def test_weights_of_a_checkpoint(tmp_path, parts):
    first = Lift(parts)
    torch.save({"state_dict": first.state_dict(), "epoch": 1, "global_step": 9}, tmp_path / "a.ckpt")
    torch.manual_seed(5)
    second = Lift({**parts, "weights": str(tmp_path / "a.ckpt")})
    third = Lift({**parts, "geometry": {**parts["geometry"], "weights": f"{tmp_path}/a.ckpt:geometry"}})
    for other in (second, third):
        for (name, a), b in zip(first.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.equal(a, b), name
    with pytest.raises(UserError, match="no weights for the module 'material'; it has background, geometry, renderer"):
        Lift({**parts, "material": {"weights": f"{tmp_path}/a.ckpt:material"}})
