"""Random creatures: the same for the same seed, different otherwise, in the frame of the benchmark, and moving."""

import numpy as np
import pytest
import torch

from threestudio_4d.tiny_priors.assets.bestiary import BUILDERS, Creature, Maker, main, make_creature, rotation
from threestudio_4d.tiny_priors.assets.pack import write_pack
from threestudio_4d.tiny_priors.rendering.rasterise import Shot, render
from threestudio_4d.tiny_priors.rendering.scenes import PosedMeshes


def test_a_seed_stands_for_one_creature():
    one, again, other = make_creature(3, 6), make_creature(3, 6), make_creature(4, 6)
    assert one.name == again.name and np.array_equal(one.rest, again.rest)
    assert np.array_equal(one.matrices, again.matrices)
    assert other.rest.shape != one.rest.shape or not np.array_equal(other.rest, one.rest)


@pytest.mark.parametrize("plan", sorted(BUILDERS))
def test_every_plan_moves_in_a_loop(plan):
    creature = Creature()
    BUILDERS[plan](creature, Maker(np.random.default_rng(0)))
    matrices = creature.poses(8)
    assert matrices.shape == (8, len(creature.parents), 4, 4)
    assert np.allclose(np.linalg.det(matrices[..., :3, :3]), 1.0)  # joints turn and shift, nothing is stretched
    assert np.abs(np.diff(matrices, axis=0)).max() > 0.01
    assert all(parent < joint for joint, parent in enumerate(creature.parents))
    assert max(int(joints.max()) for joints in creature.joints) < len(creature.parents)


def test_creatures_fill_the_benchmarks_sphere_and_are_seen():
    meshes = PosedMeshes.from_assets([make_creature(seed, 4) for seed in range(6)])
    assert meshes.vertices.float().norm(dim=-1).max() == pytest.approx(0.72, abs=0.01)
    images = render(meshes, Shot.of(torch.arange(0, meshes.poses, 4), 40.0, 10.0), 32)
    covered = (images[..., 3] > 0.5).float().mean((1, 2))
    assert (covered > 0.02).all() and (covered < 0.7).all()


def test_packs_are_loaded_together(tmp_path):
    main(["--count", "2", "--frames", "3", "--out", str(tmp_path / "a.npz")])
    write_pack([make_creature(9, 4)], tmp_path / "b.npz")
    meshes = PosedMeshes.load(f"{tmp_path / 'a.npz'},{tmp_path / 'b.npz'}")
    assert len(meshes.names) == 3 and meshes.poses == 10 and all(meshes.animated)
    assert all(name.startswith("bestiary/") for name in meshes.names)


def test_turns_are_right_handed():
    quarter = rotation(2, np.array([np.pi / 2]))[0, :3, :3]
    assert np.allclose(quarter @ [1, 0, 0], [0, 1, 0])
