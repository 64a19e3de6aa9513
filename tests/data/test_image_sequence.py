"""The datamodule: registration, loaders, the pictures of validation and test, Lightning."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from clip_makers import make_clip, write_folder
from test_view_time import datamodule

from threestudio_4d.data.image_sequence import ImageSequenceDataModule


def test_it_is_registered():
    import threestudio

    assert threestudio.find("image-seq-datamodule") is ImageSequenceDataModule


def test_datasets_are_updateable_and_know_the_clip(tmp_path: Path):
    from threestudio.utils.base import Updateable

    dm = datamodule(tmp_path, 5)
    for loader in (dm.train_dataloader(), dm.val_dataloader(), dm.test_dataloader(), dm.predict_dataloader()):
        data = loader.dataset
        assert isinstance(data, Updateable)
        data.do_update_step(0, 3)
        assert data.num_frames == 5 and data.timestamps.shape == (5,) and data.frames(8)[0].shape == (5, 8, 8, 3)
        assert data.frame_names == [f"{i}.png" for i in range(5)]


def test_train_loader_yields_empty_batches(tmp_path: Path):
    batches = iter(datamodule(tmp_path).train_dataloader())
    assert [next(batches) for _ in range(3)] == [{}, {}, {}]


@pytest.mark.parametrize("loop", [False, True])
def test_orbit(tmp_path: Path, loop: bool):
    data = datamodule(tmp_path, 5, loop=loop, n_test_views=8, orbit_loops=2, test_splits=["orbit"]).test_dataset
    assert len(data) == 8
    batches = [data[i] for i in range(8)]
    assert [b["azimuth"].item() for b in batches] == [45.0 * k for k in range(8)]
    assert all(b["elevation"].item() == 15 and b["split_name"] == ["orbit"] for b in batches)
    assert [b["frame_index"].item() for b in batches] == list(range(8))
    times = torch.stack([b["timestamps"][0, 0] for b in batches])
    expected = torch.arange(8) * 2 / (8 if loop else 7)
    expected = torch.where(expected >= 2, torch.ones(8), expected % 1)
    torch.testing.assert_close(times, expected)


def test_eval_and_fixed_views(tmp_path: Path):
    data = datamodule(tmp_path, 5, test_splits=["fixed", "eval"], fixed_azimuths=[0, 90], eval_width=12).test_dataset
    order = [f"{split}#{i}" for split in
             ("fixed-0", "fixed-90", "eval/ref", "eval/az-75", "eval/az15", "eval/az105", "eval/az195")
             for i in range(5)]  # fmt: skip
    batches = [data[i] for i in range(len(data))]
    assert [f"{b['split_name'][0]}#{b['frame_index'].item()}" for b in batches] == order
    assert [b["index"].item() for b in batches] == list(range(35))
    for b in batches:
        assert b["rays_o"].shape == (1, 8, 12, 3) and b["timestamps"].shape == (1, 1)
        assert b["elevation"].item() == 0 and b["camera_distances"].item() == 2
        assert b["timestamps"].item() == pytest.approx(b["frame_index"].item() / 4)
    torch.testing.assert_close(batches[15]["azimuth"], torch.tensor([-75.0]))


def test_eval_views_follow_the_camera_of_the_clip(tmp_path: Path):
    data = datamodule(tmp_path, default_azimuth_deg=30, default_elevation_deg=10, test_splits=["eval"]).test_dataset
    assert data[0]["azimuth"].item() == 30 and data[6]["azimuth"].item() == -45 and data[0]["elevation"].item() == 10


def test_eval_batches_stay_within_a_split(tmp_path: Path):
    data = datamodule(tmp_path, 5, test_splits=["fixed"], fixed_azimuths=[0, 90], eval_batch_size=3).test_dataset
    sizes = [(data[i]["split_name"][0], len(data[i]["split_name"]), tuple(data[i]["rays_o"].shape)) for i in range(4)]
    assert sizes == [
        ("fixed-0", 3, (3, 8, 8, 3)), ("fixed-0", 2, (2, 8, 8, 3)),
        ("fixed-90", 3, (3, 8, 8, 3)), ("fixed-90", 2, (2, 8, 8, 3)),
    ]  # fmt: skip
    assert data[1]["frame_index"].tolist() == [3, 4]


@pytest.mark.parametrize("frames, loop, expected", [(9, False, [0, 4, 8]), (9, True, [0, 3, 6]), (2, False, [0, 1])])
def test_validation_views(tmp_path: Path, frames: int, loop: bool, expected: list[int]):
    data = datamodule(tmp_path, frames, loop=loop, n_val_views=2, n_val_times=3).val_dataset
    got = [(data[i]["split_name"][0], data[i]["frame_index"].item()) for i in range(len(data))]
    assert got == [(f"val-{a}", f) for a in (0, 180) for f in expected]


def test_notes_and_warnings_are_told(tmp_path: Path, caplog):
    frames = make_clip(4)
    for frame in frames:
        frame[-40:, 20:40, 3] = 255
    (write_folder(tmp_path / "c", frames) / "readme.md").write_text("x")
    with caplog.at_level("INFO", logger="pytorch_lightning"):
        ImageSequenceDataModule({"image_seq_path": str(tmp_path / "c")})
    assert "touches the bottom border" in caplog.text


def test_under_lightning(tmp_path: Path):
    """Sizes follow the step although loaders fetch ahead; validation and test see every picture once."""

    class Probe(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.sizes, self.seen = [], []

        def training_step(self, batch, _):
            data = self.trainer.train_dataloader.dataset
            made = data.view_time_batch(self.global_step, "sds", self.device)
            self.sizes.append((self.global_step, made["height"]))
            return self.weight * made["rays_d"].mean()

        def validation_step(self, batch, _):
            self.seen.append(batch["index"].item())

        def test_step(self, batch, _):
            self.seen += batch["index"].tolist()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    dm = datamodule(tmp_path, height=[8, 16], resolution_milestones=[3], n_test_views=5, eval_batch_size=1)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_steps=6, num_sanity_val_steps=0, val_check_interval=6, **options)
    probe = Probe()
    trainer.fit(probe, datamodule=dm)
    assert probe.sizes == [(0, 8), (1, 8), (2, 8), (3, 16), (4, 16), (5, 16)]
    assert probe.seen == list(range(len(dm.val_dataset)))
    probe.seen = []
    trainer.test(probe, datamodule=dm, verbose=False)
    assert probe.seen == list(range(len(dm.test_dataset.samples)))
