"""Sets of views: cameras are where the batch says, mirrored or not, and the light stands in the world."""

import numpy as np
import pytest
import torch
import trimesh

from threestudio_4d.tiny_priors.rendering.rasterise import FOVY_DEG
from threestudio_4d.tiny_priors.rendering.scenes import PosedMeshes
from threestudio_4d.tiny_priors.sampling.view_sampler import DRAWS, ViewSampler

SPOT = np.array([0.40, 0.22, 0.12])


def ball(radius, centre=(0, 0, 0)):
    mesh = trimesh.creation.icosphere(2, radius)
    colours = np.full((len(mesh.vertices), 3), 0.5)
    return PosedMeshes.from_arrays([mesh.vertices + centre], [mesh.faces], [colours], names=["animals/Fox"])


def test_shapes_ranges_and_seeds():
    meshes = ball(0.5)
    sampler = ViewSampler(meshes, 4, 16, seed=3, validation=None)
    batch = sampler(32)
    assert batch.images.shape == (32, 4, 3, 16, 16) and batch.alpha.shape == (32, 4, 1, 16, 16)
    assert batch.c2w.shape == (32, 4, 4, 4) and batch.pose.shape == batch.caption.shape == (32,)
    assert batch.images.isfinite().all() and batch.images.min() >= 0 and batch.images.max() <= 1
    assert {sampler.captions.sentences[i] for i in batch.caption} == {"a fox"}
    assert batch.elevation.min() >= -10 and batch.elevation.max() <= 45
    assert (batch.elevation == batch.elevation[:, :1]).all() and (batch.distance == batch.distance[:, :1]).all()
    assert torch.allclose(batch.azimuth.diff(dim=1) % 360, torch.tensor(90.0), atol=1e-3)
    assert batch.azimuth.min() >= -180 and batch.azimuth.max() <= 180
    again = ViewSampler(meshes, 4, 16, seed=3, validation=None)(32)
    assert all(torch.equal(a, b) for a, b in zip(batch.asdict().values(), again.asdict().values(), strict=True))
    assert ViewSampler(meshes, 1, 8, validation=None)(2).images.shape == (2, 1, 3, 8, 8)


@pytest.mark.parametrize("flipped", [False, True])
def test_a_spot_is_seen_where_the_cameras_say(flipped):
    size = 64
    sampler = ViewSampler(ball(0.06, SPOT), 4, size, validation=None)
    u = torch.rand(DRAWS, 6, generator=torch.Generator().manual_seed(1))
    u[8], u[9] = 0.0 if flipped else 0.9, 0.1  # in its own place and size
    batch = sampler.from_uniform(u)
    point = torch.tensor([*SPOT, 1.0]) * torch.tensor([1.0, -1.0 if flipped else 1.0, 1.0, 1.0])  # the mirrored world
    local = torch.linalg.inv(batch.c2w) @ point.float()
    focal = 0.5 * size / np.tan(np.deg2rad(FOVY_DEG) / 2)
    x = size / 2 + focal * local[..., 0] / -local[..., 2]
    y = size / 2 - focal * local[..., 1] / -local[..., 2]
    grid = torch.arange(size) + 0.5
    alpha = batch.alpha[:, :, 0]
    mass = alpha.sum((-1, -2))
    assert (mass > 4).all()
    torch.testing.assert_close((alpha.sum(-2) * grid).sum(-1) / mass, x, atol=0.4, rtol=0)
    torch.testing.assert_close((alpha.sum(-1) * grid).sum(-1) / mass, y, atol=0.4, rtol=0)
    torch.testing.assert_close(batch.c2w[..., :3, 3].norm(dim=-1), batch.distance)


@pytest.mark.parametrize("flipped", [False, True])
def test_the_sun_stands_still_while_cameras_go_round(flipped):
    sampler = ViewSampler(ball(0.6), 12, 16, validation=None)
    u = torch.full((DRAWS, 3), 0.5)
    u[3], u[5], u[9] = 0.1, 0.1, 0.1  # level, near, in its own size
    u[7] = torch.tensor([0.5, 0.6, 0.7])
    u[8] = 0.0 if flipped else 0.9
    u[14] = 0.1  # the sun at azimuth 62
    batch = sampler.from_uniform(u)
    brightness = (batch.images.mean(2) * batch.alpha[:, :, 0]).sum((-1, -2))
    best = batch.azimuth.gather(1, brightness.argmax(1, keepdim=True))[:, 0]
    assert ((best - 62.0 + 180) % 360 - 180).abs().max() <= 20
