"""Training pairs: shapes, ranges, determinism, and that what a pair says about its cameras is true."""

import numpy as np
import pytest
import torch
import trimesh

from threestudio_4d.tiny_priors.rendering.scenes import PosedMeshes
from threestudio_4d.tiny_priors.sampling.pairs import EVAL_AZIMUTHS, PairSampler, eval_pairs


@pytest.fixture(scope="module")
def meshes():
    box = trimesh.creation.box((0.9, 0.3, 0.5))
    ball = trimesh.creation.icosphere(1, 0.5)
    moving = np.stack([box.vertices * [1, 1, s] for s in (0.6, 1.0, 1.4)])
    colours = [np.tile([0.8, 0.3, 0.1], (len(m.vertices), 1)) for m in (box, ball)]
    return PosedMeshes.from_arrays([moving, ball.vertices], [box.faces, ball.faces], colours, names=["box", "ball"])


def test_shapes_ranges_and_seeds(meshes):
    batch = PairSampler(meshes, 16, seed=3, validation=None)(64)
    assert batch.cond.shape == batch.target.shape == (64, 3, 16, 16)
    assert batch.cond_alpha.shape == batch.target_alpha.shape == (64, 1, 16, 16)
    for image in (batch.cond, batch.target):
        assert image.min() >= 0 and image.max() <= 1 and torch.isfinite(image).all()
        assert (image.amin((1, 2, 3)) < 0.95).all()
    level = batch.cond_elevation == 0
    assert 0.5 < level.float().mean() < 0.95 and (batch.cond_distance[level] == 2).all()
    assert batch.elevation.min() >= -15 and batch.elevation.max() <= 60
    again = PairSampler(meshes, 16, seed=3, validation=None)(64)
    assert all(torch.equal(a, b) for a, b in zip(batch.asdict().values(), again.asdict().values(), strict=True))


def test_the_generator_state_resumes(meshes):
    sampler = PairSampler(meshes, 8, seed=0, validation=None)
    sampler(4)
    state = sampler.generator.get_state()
    first = sampler(4)
    sampler.generator.set_state(state)
    assert torch.equal(first.target, sampler(4).target)


def test_a_flip_mirrors_both_images_and_the_signs_of_the_azimuths(meshes):
    sampler = PairSampler(meshes, 32, validation=None)
    u = torch.rand(40, 6, generator=torch.Generator().manual_seed(5))
    u[12] = 0.9  # as it is
    u[18], u[19] = 0.9, 0.5  # sun anywhere
    plain = sampler.from_uniform(u)
    v = u.clone()
    v[12] = 0.1  # flipped
    v[20] = (2 * u[6] - u[20]) % 1.0  # any sun: silhouettes are compared
    flipped = sampler.from_uniform(v)
    assert torch.equal(plain.cond_alpha, flipped.cond_alpha.flip(-1))
    assert torch.equal(plain.target_alpha, flipped.target_alpha.flip(-1))
    assert torch.allclose(plain.azimuth, -flipped.azimuth) and torch.allclose(plain.cond_azimuth, -flipped.cond_azimuth)


def test_evaluation_pairs_are_the_benchmarks(meshes):
    batch = eval_pairs(meshes, 8, 16, validation=None)
    turn = batch.azimuth - batch.cond_azimuth
    assert turn.tolist() == pytest.approx(list(EVAL_AZIMUTHS) * 2, abs=1e-3)
    assert (batch.elevation == 0).all() and (batch.cond_distance == 2).all()
    assert torch.equal(batch.target, eval_pairs(meshes, 8, 16, validation=None).target)


def test_permuted_colours_are_shared_by_both_images(meshes):
    sampler = PairSampler(meshes, 16, validation=None)
    u = torch.full((40, 6), 0.4)
    u[1], u[5], u[27], u[29] = 0.1, 0.5, 0.1, 0.9  # one pose, permuted, no tint
    u[28] = (torch.arange(6) + 0.5) / 6
    u[6] = u[11] = 0.3
    batch = sampler.from_uniform(u)
    assert torch.allclose(batch.cond[:, :, 8, 8], batch.target[:, :, 8, 8], atol=1e-5)
    assert len({tuple(c) for c in batch.cond[:, :, 8, 8].mul(100).round().tolist()}) == 6
