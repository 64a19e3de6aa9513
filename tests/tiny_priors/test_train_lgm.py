"""Training of the prior from views to Gaussians: its scenes, a few steps that learn and resume, its scores."""

import json

import pytest
import torch
from toy_meshes import toy_meshes

from threestudio_4d.diffusion.lgm.checkpoint import load_lgm
from threestudio_4d.diffusion.lgm.picture import sides_of_pictures
from threestudio_4d.tiny_priors.lgm import train as train_lgm
from threestudio_4d.tiny_priors.lgm.evaluation import level_cameras, scores, views_of_pictures
from threestudio_4d.tiny_priors.lgm.train import LGMTask, LGMTrainingConfig
from threestudio_4d.tiny_priors.rendering.rasterise import Shot, on_white, render
from threestudio_4d.tiny_priors.sampling.splat_sampler import SCENE_DRAWS, SIDES, VIEW_DRAWS, SplatSampler
from threestudio_4d.tiny_priors.training.loop import train
from threestudio_4d.tiny_priors.zero123.evaluation import NovelViewPairs
from threestudio_4d.tiny_priors.zero123.networks import build_zero123_tiny

SIZE = 16


@pytest.fixture(scope="module")
def zero123():
    torch.manual_seed(0)
    return build_zero123_tiny(SIZE, (16, 16, 16), 32, 1).eval()


def sampler(**changes) -> SplatSampler:
    return SplatSampler(toy_meshes(), 3, 24, validation=None, cfg=SplatSampler.Config(**changes))


def test_further_views_are_renders_from_where_they_say():
    """Plain scenes, not mirrored: azimuths count from the first camera."""
    plain = sampler(
        canonical_scale_share=1.0, flip_share=0.0, permute_share=0.0, tint_share=0.0, standard_light_share=0.0
    )
    u = torch.rand(SCENE_DRAWS + 3 * VIEW_DRAWS, 5)
    views = plain.from_uniform(u)
    start = 360 * u[7, :, None] - 180
    shot = Shot(
        plain.poses(u[:3]).repeat_interleave(7), views.elevation.flatten(), (start + views.azimuth).flatten(),
        views.distance.flatten(),
    )  # fmt: skip
    truth = render(plain.meshes, shot, 24)[..., 3].view(5, 7, 24, 24, 1)
    torch.testing.assert_close(views.alpha, truth)
    assert torch.equal(views.azimuth[:, :SIDES], torch.tensor([0.0, 90.0, 180.0, 270.0]).expand(5, -1))
    assert (views.elevation[:, :SIDES] == views.elevation[:, :1]).all()


def test_mirrored_scenes_are_the_mirrored_world():
    """The same numbers, mirrored: pictures of cameras at opposite azimuths are mirrored pictures."""
    u = torch.rand(SCENE_DRAWS + 3 * VIEW_DRAWS, 4)
    mirrored = u.clone()
    mirrored[SCENE_DRAWS + 2 :: VIEW_DRAWS] = 1 - u[SCENE_DRAWS + 2 :: VIEW_DRAWS]
    straight = sampler(flip_share=0.0, canonical_scale_share=1.0).from_uniform(u)
    flipped = sampler(flip_share=1.0, canonical_scale_share=1.0).from_uniform(mirrored)
    torch.testing.assert_close(flipped.azimuth[:, SIDES:], -straight.azimuth[:, SIDES:], atol=1e-3, rtol=0)
    mirror = straight.alpha.flip(-2)
    opposite = [0, 3, 2, 1, 4, 5, 6]  # the side at 90 degrees is the mirror image of that at 270
    assert (flipped.alpha - mirror[:, opposite]).abs().mean() < 2e-3


def test_sides_of_a_picture_are_what_the_image_prior_draws(zero123):
    pictures = torch.rand(2, 3, SIZE, SIZE)
    level, two = torch.zeros(2), torch.full((2,), 2.0)
    one = sides_of_pictures(zero123, pictures, level, two, torch.Generator().manual_seed(0))
    again = sides_of_pictures(zero123, pictures.flip(0), level, two, torch.Generator().manual_seed(0))
    sampled = sides_of_pictures(zero123, pictures, level, two, torch.Generator().manual_seed(0), steps=2)
    assert one.shape == sampled.shape == (2, 4, 3, SIZE, SIZE)
    assert torch.equal(one[:, 0], pictures) and not torch.allclose(one[:, 1:], sampled[:, 1:])
    assert not torch.allclose(one[0, 1:], again[0, 1:])


def config(folder, **changes) -> LGMTrainingConfig:
    settings = {
        "pack": "none", "image_size": SIZE, "channels": "32,32,32", "batch_size": 4, "further": 1, "warmup_steps": 5,
        "learning_rate": 4e-3, "ema_decay": 0.9, "max_steps": 24, "compile": False, "jitter_steps": 0, "minutes": 30.0,
        "evaluation_scenes": 4,
    }  # fmt: skip
    return LGMTrainingConfig(out=str(folder), **(settings | changes))


@pytest.fixture
def toys(monkeypatch, zero123):
    meshes = toy_meshes()
    monkeypatch.setattr(train_lgm.PosedMeshes, "load", lambda *args, **rest: meshes)
    monkeypatch.setattr(train_lgm, "load_zero123", lambda *args: zero123)
    return meshes


def test_a_batch_has_drawn_single_and_true_sides(tmp_path, toys):
    task = LGMTask(config(tmp_path), torch.device("cpu"), 0)
    inputs, truth, c2w, background = task.draw(8)
    assert inputs.shape == (8, 4, 9, SIZE, SIZE) and truth.shape == (8, 5, SIZE, SIZE, 4)
    assert c2w.shape == (8, 5, 4, 4) and background.shape == (8, 5, 3)
    empty = (inputs[:, :, :3] == 0).flatten(2).all(-1)
    assert empty[4:6, 1:].all() and not empty[:4].any() and not empty[6:].any() and not empty[:, 0].any()


@pytest.mark.slow
def test_it_learns_saves_and_goes_on(tmp_path, toys):
    train(lambda device, seed: LGMTask(config(tmp_path), device, seed), config(tmp_path))
    task = LGMTask(config(tmp_path, initial=str(tmp_path / "prior")), torch.device("cpu"), 3)
    fresh = LGMTask(config(tmp_path), torch.device("cpu"), 3)
    batch = task.draw(8)
    with torch.no_grad():
        before, after = fresh.loss(fresh.model, *batch).item(), task.loss(task.model, *batch).item()
    assert after < 0.8 * before, (before, after)
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    assert history[-1]["step"] == 24 and history[-1]["held_out"]["unseen_psnr"] > 5
    train(lambda device, seed: LGMTask(config(tmp_path, max_steps=26), device, seed), config(tmp_path, max_steps=26))
    assert json.loads((tmp_path / "training.json").read_text())["history"][-1]["step"] == 26
    assert load_lgm(str(tmp_path / "prior")).config.image_size == SIZE


def test_scores_compare_views_with_the_truth(tmp_path, toys, zero123):
    azimuth = torch.tensor([-75.0, 15.0])
    truth = on_white(render(toys, Shot.of([1, 1], azimuth=azimuth), SIZE))
    pairs = NovelViewPairs(truth, truth, azimuth)
    task = LGMTask(config(tmp_path), torch.device("cpu"), 0)
    for prior in (zero123, None):
        images, opacities = views_of_pictures(task.model.eval(), prior, pairs)
        assert images.shape == (2, 3, SIZE, SIZE) and opacities.shape == (2, SIZE, SIZE)
    perfect = scores(truth, ((1 - truth).amax(1) > 0.05).float(), pairs)
    assert perfect["psnr"] == 100 and perfect["iou"] == perfect["iou_opacity"] == 1
    assert scores(torch.ones_like(truth), torch.zeros(2, SIZE, SIZE), pairs)["iou_opacity"] == 0
    assert level_cameras(azimuth)[0, :3, 3].norm().item() == pytest.approx(2.0)
