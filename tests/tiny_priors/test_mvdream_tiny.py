"""The shipped ``mvdream-tiny``: its weights load by name, and sentence, cameras and the other views count."""

import pytest
import torch

from threestudio_4d.diffusion.mvdream.model import camera_condition
from threestudio_4d.diffusion.weights.resolve import built_in_priors
from threestudio_4d.guidance.mvdream_guidance import load_mvdream
from threestudio_4d.tiny_priors.assets.bestiary import make_creature
from threestudio_4d.tiny_priors.assets.captions import Captions
from threestudio_4d.tiny_priors.mvdream import evaluation
from threestudio_4d.tiny_priors.rendering.rasterise import DISTANCE, camera_to_world
from threestudio_4d.tiny_priors.rendering.scenes import PosedMeshes

pytestmark = pytest.mark.skipif(
    not {"clip-tiny", "mvdream-tiny"} <= set(built_in_priors()), reason="load/priors has no clip-tiny or mvdream-tiny"
)


@pytest.fixture(scope="module")
def model():
    return load_mvdream("mvdream-tiny", text=True)


@pytest.fixture(scope="module")
def losses(model) -> dict[str, float]:
    """Denoising losses of six creatures that no training saw: twelve groups of four views at four noise levels."""
    meshes = PosedMeshes.from_assets([make_creature(seed, frames=3) for seed in range(1000, 1006)])
    captions = Captions.from_meshes(meshes)
    views = evaluation.level_views(meshes, 12, model.image_size, validation=None)
    caption = captions.asset_caption_index[meshes.pose_asset[views.caption].long()]
    groups = evaluation.ViewGroups(views.images, views.camera, caption)
    with torch.no_grad():
        embed = {i: model.embed([captions.sentences[i]])[0] for i in caption.unique().tolist()}
        shown = evaluation.variants(
            groups, lambda numbers: torch.stack([embed[i] for i in numbers.tolist()]), model.embed([""])
        )
    return evaluation.denoising_losses(model, shown, levels=4, batch_groups=4)


def test_the_prior_denoises_creatures_that_it_has_not_seen(losses):
    assert 0.03 < losses["right"] < 0.06


def test_sentence_cameras_and_the_other_views_help(losses):
    """A wrong sentence, turned cameras, and each picture among views of other creatures all raise the loss."""
    assert losses["wrong_text"] > 1.005 * losses["right"]
    assert losses["wrong_cameras"] > 1.003 * losses["right"]
    assert losses["unrelated_views"] > 1.02 * losses["right"]


@torch.no_grad()
def test_animals_are_longer_from_the_side(model):
    """What is drawn in one step from noise, the mean of all views that fit: the cameras alone tell the four apart."""
    azimuth = torch.arange(4) * 90.0
    camera = camera_condition(camera_to_world(azimuth * 0, azimuth, azimuth * 0 + DISTANCE))
    noise = torch.randn(1, *model.latent_shape).expand(4, -1, -1, -1)
    last = torch.full((4,), model.num_train_timesteps - 1)

    def ink(prompt: str) -> torch.Tensor:
        mean = model.decode(model.predict(noise, last, model.embed([prompt]).expand(4, -1, -1), None, camera)[1])
        assert (mean[:, :, :4, :4].mean((1, 2, 3)) > 0.95).all()  # corners are white
        return (1 - mean).amax(1).sum((1, 2))

    for animal in ("a horse", "a fox", "a shark"):
        front, left, back, right = ink(animal).tolist()
        assert min(left, right) > 1.2 * max(front, back)
    tree = ink("a pine tree")
    assert tree.max() < 1.1 * tree.min()
