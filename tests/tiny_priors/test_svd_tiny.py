"""The shipped ``svd-tiny``: its autoencoder, and how it goes on from the demo creature, which it was not trained on."""

import pytest
import torch

from threestudio_4d.diffusion.svd.model import SVDModel, load_svd
from threestudio_4d.tiny_priors.assets.creature import creature_meshes, render_view
from threestudio_4d.tiny_priors.rendering.rasterise import on_white
from threestudio_4d.tiny_priors.svd.evaluation import (
    VideoClips,
    motion,
    one_step_clips,
    pooled_psnr,
    reconstructed_clips,
)

STRIDE = 2  # a loop of 24 frames, every second of them shown: 12 frames a second


@pytest.fixture(scope="module")
def model() -> SVDModel:
    return load_svd("svd-tiny")


@pytest.fixture(scope="module")
def walker(model) -> VideoClips:
    """Every frame of the demo creature's walk, then the frames 2, 4, ... after it."""
    loop = on_white(render_view(creature_meshes(24), 0.0, size=model.image_size))
    return VideoClips(loop[STRIDE * torch.arange(model.num_frames) % len(loop)][None], torch.tensor([12.0]))


def test_size(model, repository):
    assert (model.image_size, model.num_frames, model.latent_shape(64, 64)) == (64, 14, (8, 16, 16))
    files = (repository / "load" / "priors" / "svd-tiny").rglob("*")
    assert sum(path.stat().st_size for path in files if path.is_file()) < 6.7e6


@torch.no_grad()
def test_the_autoencoder_keeps_the_frames(model, walker):
    decoded = reconstructed_clips(model, walker)
    assert pooled_psnr(decoded, walker.video) > 24
    latents = model.encode(walker.video)
    assert 0.7 < latents.square().mean().sqrt() < 1.5


@torch.no_grad()
def test_one_step_is_nearer_to_the_truth_than_standing_still(model, walker):
    """The picture is followed, in its place, and the legs are not where they were."""
    drawn = one_step_clips(model, walker)
    static = walker.video[:, :1].expand_as(walker.video)
    assert pooled_psnr(drawn, walker.video) > pooled_psnr(static, walker.video)
    assert motion(drawn) > 0.1 * motion(walker.video)


@torch.no_grad()
def test_another_picture_makes_another_clip(model, walker):
    """Mirrored, the creature looks the other way: what is drawn from one picture does not fit the other clip."""
    mirrored = VideoClips(walker.video.flip(-1), walker.fps)
    drawn = one_step_clips(model, mirrored)
    assert pooled_psnr(drawn, mirrored.video) > pooled_psnr(drawn, walker.video) + 1
