"""Which views and times a step sees: frequencies, reach, purity, exact stage switch."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from clip_makers import make_clip, write_folder

from threestudio_4d.data.image_sequence import ImageSequenceDataModule
from threestudio_4d.data.view_time import draw_frames, frame_times, sample_run


def datamodule(folder: Path, frames: int = 6, **cfg):
    path = folder / f"clip{frames}"
    if not path.exists():
        write_folder(path, make_clip(frames, 16, 16))
    return ImageSequenceDataModule({"image_seq_path": str(path), "height": 8, "eval_height": 8, "eval_width": 8, **cfg})


def train(folder: Path, frames: int = 6, **cfg):
    return datamodule(folder, frames, **cfg).train_dataset


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a
    )


def test_times():
    assert frame_times(5, False).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert frame_times(4, True).tolist() == [0, 0.25, 0.5, 0.75]


def test_sds_batch_shapes(tmp_path: Path):
    batch = train(tmp_path, batch_size=4).view_time_batch(1, "sds", "cpu")
    assert batch["rays_o"].shape == batch["rays_d"].shape == (4, 8, 8, 3)
    assert batch["c2w"].shape == (4, 4, 4) and batch["timestamps"].shape == (4, 1)
    assert batch["frame_indices"].shape == (4,) and batch["frame_indices"].dtype == torch.int64
    for key in ("fovy", "elevation", "azimuth", "camera_distances"):
        assert batch[key].shape == (4,)
    assert (batch["height"], batch["width"]) == (8, 8)
    torch.testing.assert_close(batch["fovy"], torch.deg2rad(torch.full((4,), 49.1)))
    assert "rgb" not in batch


def test_reference_batch(tmp_path: Path):
    data = train(tmp_path, ref_batch_size=3, rays_noise_scale=0.0)
    batch = data.view_time_batch(0, "reference", "cpu")
    rgb, alpha = data.frames(8)
    assert batch["relation"] == "reference" and batch["rgb"].shape == (3, 8, 8, 3)
    torch.testing.assert_close(batch["rgb"], rgb[batch["frame_indices"]])
    torch.testing.assert_close(batch["mask"], alpha[batch["frame_indices"]])
    assert ((alpha > 0) & (alpha < 1)).any()
    torch.testing.assert_close(batch["timestamps"][:, 0], data.timestamps[batch["frame_indices"]])
    torch.testing.assert_close(batch["rays_o"][0, 0, 0], torch.tensor([2.0, 0, 0]))
    assert data.frames(8)[0] is rgb


def test_reference_noise_is_drawn_every_step(tmp_path: Path):
    data = train(tmp_path, rays_noise_scale=2e-3)
    origins = torch.stack([data.view_time_batch(i, "reference")["rays_o"][0, 0, 0] for i in range(300)])
    offsets = origins - torch.tensor([2.0, 0, 0])
    assert len(torch.unique(offsets[:, 0])) > 250
    assert offsets.std().item() == pytest.approx(2e-3, rel=0.15)


def test_a_batch_is_a_function_of_seed_step_and_kind(tmp_path: Path):
    data = train(tmp_path)
    first = [data.view_time_batch(i, kind) for i in (7, 3) for kind in ("sds", "reference")]
    torch.rand(5)
    again = [train(tmp_path).view_time_batch(i, kind) for i in (7, 3) for kind in ("sds", "reference")]
    assert all(equal(a, b) for a, b in zip(first, again, strict=True))
    assert not equal(first[0], first[2])
    assert not equal(first[0], train(tmp_path, seed=1).view_time_batch(7, "sds"))
    before = torch.get_rng_state()
    data.view_time_batch(9, "sds")
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match="reference, sds"):
        data.view_time_batch(0, "both")


def test_frequencies_of_relations_and_their_meaning(tmp_path: Path):
    data = train(tmp_path, 32)
    drawn = Counter()
    for step in range(2000):
        batch = data.view_time_batch(step, "sds")
        drawn[batch["relation"]] += 1
        times, azimuth, elevation = batch["timestamps"][:, 0], batch["azimuth"], batch["elevation"]
        if batch["relation"] != "run":
            assert (times == times[0]).all()
        if batch["relation"] != "independent":
            assert (elevation == elevation[0]).all()
        if batch["relation"] == "arc":
            gaps = azimuth.diff()
            torch.testing.assert_close(gaps, gaps[:1].expand(3), atol=1e-3, rtol=0)
            assert 5 - 1e-3 <= gaps[0] <= 15 + 1e-3
        elif batch["relation"] == "run":
            assert (azimuth == azimuth[0]).all() and (batch["frame_indices"].diff() == 2).all()
            torch.testing.assert_close(times, data.timestamps[batch["frame_indices"]])
        elif batch["relation"] == "same":
            assert (azimuth == azimuth[0]).all()
        else:
            assert len(azimuth.unique()) == 4
    shares = {"independent": 0.5, "arc": 0.125, "run": 0.125, "same": 0.25}
    for relation, share in shares.items():
        assert drawn[relation] / 2000 == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("n", [2, 3, 5, 16, 31, 32])
@pytest.mark.parametrize("length", [1, 3, 4, 8])
def test_runs_of_any_clip(n: int, loop: bool, length: int):
    g = torch.Generator().manual_seed(0)
    seen = Counter()
    for _ in range(40 * n):
        times, frames = sample_run(n, length, 1 / 16, loop, g)
        assert times.shape == frames.shape == (length,)
        assert frames.min() >= 0 and frames.max() < n and times.min() >= 0 and times.max() <= 1
        if length <= n:
            assert len(frames.unique()) == length
            torch.testing.assert_close(times, frame_times(n, loop)[frames])
        if not loop and length > 1:
            assert (times.diff() > 0).all()
            torch.testing.assert_close(times.diff(), times.diff()[:1].expand(length - 1), atol=1e-5, rtol=0)
        seen.update(frames.tolist())
    assert sorted(seen) == list(range(n))
    assert min(seen.values()) > (0.5 if loop else 0.25) * sum(seen.values()) / n


def test_frames_of_runs_are_even_enough():
    """Published: frames 30 and 31 of 32 never, frame 0 a quarter as often as the middle."""
    g = torch.Generator().manual_seed(0)
    seen = torch.cat([sample_run(32, 4, 1 / 16, False, g)[1] for _ in range(6000)]).bincount(minlength=32) / 6000
    assert seen.min() > 0.055 and seen.max() < 0.19


def test_a_long_interval_is_shrunk_to_the_clip():
    g = torch.Generator().manual_seed(0)
    runs = {tuple(sample_run(10, 4, 1.0, False, g)[1].tolist()) for _ in range(100)}
    assert runs == {(s, s + 2, s + 4, s + 6) for s in range(4)}


@pytest.mark.parametrize("n", [2, 3, 5])
def test_reference_frames_are_uniform(tmp_path: Path, n: int):
    data = train(tmp_path, n)
    seen = Counter(int(data.view_time_batch(i, "reference")["frame_indices"]) for i in range(600))
    assert sorted(seen) == list(range(n)) and min(seen.values()) > 0.75 * 600 / n


def test_frames_of_a_reference_batch_differ():
    g = torch.Generator().manual_seed(0)
    assert len(draw_frames(8, 8, g).unique()) == 8
    assert sorted(draw_frames(3, 7, g).bincount().tolist()) == [2, 2, 3]


def test_stage_switches_exactly_at_the_milestone(tmp_path: Path):
    data = train(tmp_path, height=[8, 16], batch_size=[4, 1], ref_batch_size=[2, 1], resolution_milestones=[5])
    for step, size, views, references in ((0, 8, 4, 2), (4, 8, 4, 2), (5, 16, 1, 1), (99, 16, 1, 1)):
        sds, reference = data.view_time_batch(step, "sds"), data.view_time_batch(step, "reference")
        assert sds["rays_o"].shape == (views, size, size, 3)
        assert reference["rgb"].shape == (references, size, size, 3)
        assert (sds["height"], reference["height"]) == (size, size)


def test_random_cameras_may_have_their_own_stages(tmp_path: Path):
    camera = {"height": [4, 6], "width": 12, "batch_size": [3, 2], "resolution_milestones": [2]}
    data = train(tmp_path, random_camera=camera)
    assert data.view_time_batch(1, "sds")["rays_o"].shape == (3, 4, 12, 3)
    assert data.view_time_batch(2, "sds")["rays_o"].shape == (2, 6, 12, 3)
    assert data.view_time_batch(2, "reference")["rgb"].shape == (1, 8, 8, 3)


def test_perturbed_cameras(tmp_path: Path):
    data = train(tmp_path, random_camera={"camera_perturb": 0.1, "center_perturb": 0.1, "up_perturb": 0.05})
    for step in range(8):
        batch = data.view_time_batch(step, "sds")
        rotation = batch["c2w"][:, :3, :3]
        torch.testing.assert_close(
            rotation @ rotation.transpose(1, 2), torch.eye(3).expand(4, 3, 3), atol=1e-5, rtol=0
        )
        assert (batch["camera_positions"].norm(dim=-1) - 2).abs().max() < 0.2


@pytest.mark.parametrize(
    "cfg, told",
    [
        ({"mode_section": [0.5, 0.4, 0.7, 1.0]}, "data.mode_section"),
        ({"mode_section": [0.5, 0.6]}, "mode_section is [0.5, 0.6]: it must be a list of 4 numbers"),
        ({"mode_section": [0.5, 0.6, 0.7, 0.9]}, "must end at 1.0"),
        ({"time_interval": 0.0}, "time_interval is 0.0: it must be a number, above 0 and at most 1"),
        ({"height": [8, 16]}, "data.height has 2 values and data.resolution_milestones 0"),
        ({"height": 8.5}, "height is 8.5: it must be a whole number, 1 or more, or a list of whole numbers"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"resolution_milestones": [5, 5], "height": [8, 8, 8]}, "data.resolution_milestones is [5, 5]"),
        ({"resolution_milestones": [0]}, "resolution_milestones is [0]"),
        ({"width": 9}, "data.width is 9 where data.height is 8"),
        ({"rays_noise_scale": -1}, "rays_noise_scale is -1: it must be a number, 0 or more"),
        ({"random_camera": {"elevation_range": [60, -10]}}, "data.random_camera.elevation_range is [60, -10]"),
        ({"random_camera": {"elevation_law": "cone"}}, "elevation_law is 'cone': it must be one of mixed, uniform"),
        ({"random_camera": {"fovy_range": 40}}, "fovy_range is 40: it must be a list of 2 numbers"),
        ({"test_splits": ["orbit", "spin"]}, "it must be a list of names out of orbit, fixed, eval"),
        ({"num_frames": 1}, "num_frames is 1"),
        ({"eval_batch_size": 0}, "eval_batch_size is 0"),
        ({"default_fovy_deg": 180}, "default_fovy_deg"),
        ({"fixed_azimuths": [0, "left"]}, "fixed_azimuths"),
    ],
)
def test_config_errors_name_the_key(tmp_path: Path, cfg: dict, told: str):
    with pytest.raises(ValueError) as caught:
        datamodule(tmp_path, **cfg)
    assert told in str(caught.value)


def test_unknown_keys_are_refused(tmp_path: Path):
    with pytest.raises((TypeError, ValueError), match="elevation_rnage"):
        datamodule(tmp_path, random_camera={"elevation_rnage": [0, 1]})
