"""The shipped prior, on a creature that it has never seen: its weights load, and it knows which side is which."""

import pytest
import torch

from threestudio_4d.evaluation.novel_views import NOVEL_VIEWS
from threestudio_4d.guidance.zero123_guidance import load_zero123
from threestudio_4d.tiny_priors.assets.creature import creature_meshes, render_view
from threestudio_4d.tiny_priors.rendering.rasterise import on_white
from threestudio_4d.tiny_priors.training.loop import draw_timesteps
from threestudio_4d.tiny_priors.zero123.evaluation import (
    NovelViewPairs,
    baseline_views,
    one_step_views,
    sampled_views,
    scores,
)
from threestudio_4d.tiny_priors.zero123.networks import build_zero123_tiny
from threestudio_4d.tiny_priors.zero123.train import diffusion_loss


@pytest.fixture(scope="module")
def prior():
    return load_zero123("zero123-tiny")


@pytest.fixture(scope="module")
def walker(prior):
    """The walking creature at three moments from the benchmark's views."""
    meshes = creature_meshes(3)

    def view(azimuth):
        return on_white(render_view(meshes, azimuth, size=prior.image_size))

    azimuths = torch.tensor(list(NOVEL_VIEWS.values())).repeat_interleave(meshes.poses)
    return NovelViewPairs(
        view(0.0).repeat(len(NOVEL_VIEWS), 1, 1, 1),
        torch.cat([view(azimuth) for azimuth in NOVEL_VIEWS.values()]),
        azimuths,
    )


def test_the_posterior_mean_beats_copying_the_picture(prior, walker):
    drawn = scores(one_step_views(prior, walker), walker)
    known = {name: scores(views, walker) for name, views in baseline_views(walker).items()}
    assert drawn["psnr"] > known["mirror"]["psnr"] + 1.0
    assert drawn["psnr"] > known["copy"]["psnr"] + 1.0


def test_samples_depend_on_the_camera(prior, walker):
    """Samples fit the view that was asked for better than the view from the opposite side."""
    views = sampled_views(prior, walker, steps=8)
    turned = NovelViewPairs(walker.pictures, walker.targets.roll(6, 0), walker.azimuth)
    assert scores(views, walker)["psnr"] > scores(views, turned)["psnr"] + 1.0
    assert scores(views, walker)["iou"] > 0.4


def test_training_learns():
    """A few steps on four pictures lower the loss."""
    torch.manual_seed(0)
    model = build_zero123_tiny(image_size=16, channels=(16, 32, 32), encoder_width=32, encoder_layers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    images = on_white(render_view(creature_meshes(4), 0.0, size=16))
    losses = []
    for _ in range(40):
        t = draw_timesteps(4, model.num_train_timesteps - 1, 0.25, torch.device("cpu"))
        noise = torch.randn(4, *model.latent_shape)
        loss = diffusion_loss(model, images, images, torch.zeros(4, 4), t, noise, torch.zeros(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
