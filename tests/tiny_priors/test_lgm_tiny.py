"""The shipped ``lgm-tiny``: Gaussians from one picture of the demo creature, which it was not trained on."""

import pytest
import torch

from threestudio_4d.diffusion.lgm.checkpoint import load_lgm
from threestudio_4d.guidance.zero123_guidance import load_zero123
from threestudio_4d.tiny_priors.assets.creature import creature_meshes, render_view
from threestudio_4d.tiny_priors.lgm.evaluation import scores, views_of_pictures
from threestudio_4d.tiny_priors.rendering.rasterise import on_white
from threestudio_4d.tiny_priors.zero123.evaluation import NovelViewPairs, baseline_views
from threestudio_4d.tiny_priors.zero123.evaluation import scores as picture_scores

AZIMUTHS = (-75.0, 15.0, 105.0, 195.0)


@pytest.fixture(scope="module")
def prior():
    return load_lgm("lgm-tiny")


@pytest.fixture(scope="module")
def walker(prior) -> NovelViewPairs:
    """One moment of the walk, seen from azimuth 0 and from four others."""
    meshes = creature_meshes(1)
    pictures = [on_white(render_view(meshes, azimuth, size=prior.image_size)) for azimuth in (0.0, *AZIMUTHS)]
    return NovelViewPairs(pictures[0].repeat(len(AZIMUTHS), 1, 1, 1), torch.cat(pictures[1:]), torch.tensor(AZIMUTHS))


def test_size(prior, repository):
    assert prior.image_size == 64 and prior.splat_size == 32
    files = (repository / "load" / "priors" / "lgm-tiny").rglob("*")
    assert sum(path.stat().st_size for path in files if path.is_file()) < 8e6


@pytest.mark.parametrize("sides", ["drawn", "one picture"])
def test_unseen_views_of_its_gaussians_beat_copies_of_the_picture(prior, walker, sides):
    drawn, opacity = views_of_pictures(prior, load_zero123("zero123-tiny") if sides == "drawn" else None, walker)
    found = scores(drawn, opacity, walker)
    for views in baseline_views(walker).values():
        known = picture_scores(views, walker)
        assert found["psnr"] > known["psnr"] + 3.0 and found["iou"] > known["iou"] + 0.05


def test_the_known_view_is_kept(prior, walker):
    """The picture that went in comes out of its own camera."""
    known = NovelViewPairs(walker.pictures[:1], walker.pictures[:1], torch.zeros(1))
    found = scores(*views_of_pictures(prior, None, known), known)
    assert found["psnr"] > 22
