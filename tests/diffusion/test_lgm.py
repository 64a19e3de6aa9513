"""LGM: published names and shapes load strictly; cameras, missing views and files."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from threestudio_4d.cameras.sphere import Cameras
from threestudio_4d.diffusion.lgm.checkpoint import load_lgm, load_published, published_config, save_lgm
from threestudio_4d.diffusion.lgm.model import LGMModel
from threestudio_4d.errors import UserError
from threestudio_4d.renderer.gaussian import splat
from threestudio_4d.tiny_priors.lgm.networks import build_lgm_tiny

FOVY = math.radians(49.1)
SMALL = {
    "image_size": 16,
    "down_channels": [32, 64, 64],
    "down_attention": [False, True, True],
    "mid_attention": True,
    "up_channels": [64, 64],
    "up_attention": [True, False],
}


def cameras(distance: float = 2.0, elevation: float = 0.0, azimuth: float = 0.0) -> torch.Tensor:
    """Poses of four views, [1, 4, 4, 4]."""
    full = torch.ones(4)
    turns = azimuth + torch.tensor([0.0, 90.0, 180.0, 270.0])
    return Cameras(full * elevation, turns, full * distance, full * 49.1).c2w()[None]


def fovy() -> torch.Tensor:
    return torch.full((1, 4), FOVY)


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of ``model_fp16_fixrot.safetensors``, the large model."""
    lines = Path(__file__).with_name("lgm_big_shapes.txt").read_text().split("\n")
    return {name: tuple(map(int, shape.split("x"))) for name, shape in (line.split() for line in lines if line)}


def test_the_default_is_the_published_large_model():
    with torch.device("meta"):
        model = LGMModel()
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == published_shapes()
    assert model.splat_size == 128 and model.views * model.splat_size**2 == 65536


def test_the_shapes_of_a_checkpoint_tell_its_network():
    state = {name: torch.empty(shape, device="meta") for name, shape in published_shapes().items()}
    config = published_config(state)
    with torch.device("meta"):
        default = LGMModel().config
    assert config == {key: list(default[key]) if isinstance(default[key], tuple) else default[key] for key in config}


def test_published_checkpoints_load_strictly(tmp_path):
    model = LGMModel(**SMALL)
    state = {name: value.half() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "lgm.safetensors")
    loaded = load_lgm(str(tmp_path / "lgm.safetensors"))
    assert {key: loaded.config[key] for key in published_config(state)} == published_config(state)
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, state[name].float())
    state.pop("unet.mid_block.nets.1.norm2.bias")
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(UserError, match=r"less.safetensors does not hold the weights of an LGM.*norm2.bias"):
        load_published(tmp_path / "less.safetensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="other.safetensors does not hold the weights of an LGM"):
        load_published(tmp_path / "other.safetensors")


@pytest.mark.parametrize("int8", [False, True])
def test_a_folder_reads_as_it_was_written(tmp_path, int8):
    model = build_lgm_tiny(16, (32, 64, 64)).eval()
    save_lgm(model, tmp_path, int8=int8)
    loaded = load_lgm(str(tmp_path))
    inputs = model.inputs(torch.rand(1, 4, 3, 16, 16), cameras(), fovy())
    with torch.no_grad():
        before, after = model(inputs), loaded(inputs)
    for name in vars(before):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), atol=0.03 if int8 else 2e-3, rtol=0.02)


def test_gaussians_of_the_published_world_come_back_to_ours():
    """The network sees the same whatever the distance: Gaussians grow with it, and front stays front."""
    torch.manual_seed(1)
    model = LGMModel(**SMALL).eval()
    pictures = torch.rand(1, 4, 3, 16, 16)
    with torch.no_grad():
        near = model.gaussians(pictures, cameras(1.5), fovy())
        far = model.gaussians(pictures, cameras(3.0), fovy())
        torch.testing.assert_close(far.means, 2 * near.means)
        drawn = [splat(g, cameras(d)[:, 1:2], FOVY, 16, 16).image for g, d in ((near, 1.5), (far, 3.0))]
    torch.testing.assert_close(drawn[0], drawn[1], atol=1e-4, rtol=0)
    # Published cameras: y up, azimuth 0 on +z, growing toward +x.
    raw = LGMModel(**SMALL, y_up_distance=None).eval()
    raw.load_state_dict(model.state_dict())
    poses = torch.eye(4).repeat(1, 4, 1, 1)
    for view, angle in enumerate((0.0, 90.0, 180.0, 270.0)):
        a = math.radians(angle)
        back = torch.tensor([math.sin(a), 0.0, math.cos(a)])
        up = torch.tensor([0.0, 1.0, 0.0])
        poses[0, view, :3] = torch.stack([torch.linalg.cross(up, back), up, back, 1.5 * back], -1)
    with torch.no_grad():
        theirs = raw.gaussians(pictures, poses, fovy())
    torch.testing.assert_close(near.means, theirs.means[..., [2, 0, 1]], atol=1e-5, rtol=1e-4)


def test_a_fresh_network_puts_a_pixel_where_its_ray_passes_the_middle():
    model = build_lgm_tiny(16, (32, 64, 64)).eval()
    poses = cameras(2.0, elevation=20.0, azimuth=40.0)
    with torch.no_grad():
        model.unet.conv_out.weight.zero_()
        model.unet.conv_out.bias.zero_()
        gaussians = model.gaussians(torch.rand(1, 4, 3, 16, 16), poses, fovy())
    centre = poses[0, 0, :3, 3]
    first = gaussians.means[0, : model.splat_size**2].view(model.splat_size, model.splat_size, 3)
    to_camera = torch.nn.functional.normalize(centre - first, dim=-1)
    assert (to_camera * first).sum(-1).abs().max() < 0.02  # nearest to the origin
    upper_left = poses[0, 0, :3, :3].T @ first[0, 0]
    assert upper_left[0] < -0.5 and upper_left[1] > 0.5


def test_views_that_are_left_out_are_not_looked_at():
    model = build_lgm_tiny(16, (32, 64, 64)).eval()
    pictures, present = torch.rand(1, 4, 3, 16, 16), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    other = pictures.clone()
    other[:, 1:] = torch.rand(1, 3, 3, 16, 16)
    with torch.no_grad():
        first, second = (model.gaussians(p, cameras(), fovy(), present) for p in (pictures, other))
        seen = model.gaussians(other, cameras(), fovy())
    assert torch.equal(first.means, second.means) and not torch.allclose(first.means, seen.means)
    with pytest.raises(UserError, match="takes 4 views, got 3"):
        model.gaussians(pictures[:, :3], cameras()[:, :3], fovy()[:, :3])
