"""Jittered shapes: finite, of the old size, new each time, and the kept ones untouched."""

import torch

from threestudio_4d.tiny_priors.assets.creature import creature_meshes
from threestudio_4d.tiny_priors.rendering.rasterise import Shot, render
from threestudio_4d.tiny_priors.sampling.jitter import ShapeJitter


def pose(meshes, index):
    ends = [*meshes.pose_vertex.tolist()[1:], len(meshes.vertices)]
    return meshes.vertices[meshes.pose_vertex[index] : ends[index]].float()


def test_shapes_change_and_keep_their_radius():
    meshes = creature_meshes(4)
    before = [pose(meshes, i).clone() for i in range(4)]
    jitter = ShapeJitter(meshes, seed=1, kept_share=0.0)
    jitter.refresh()
    for i in range(4):
        assert pose(meshes, i).isfinite().all()
        assert (pose(meshes, i) - before[i]).abs().max() > 0.01
        torch.testing.assert_close(pose(meshes, i).norm(dim=-1).max(), before[i].norm(dim=-1).max(), atol=2e-3, rtol=0)
    once = pose(meshes, 0).clone()
    jitter.refresh()
    assert (pose(meshes, 0) - once).abs().max() > 0.01


def test_poses_of_an_asset_can_change_together():
    meshes = creature_meshes(3)
    for i in range(3):  # the same pose three times over
        start = int(meshes.pose_vertex[i])
        meshes.vertices[start : start + len(pose(meshes, 0))] = pose(meshes, 0).to(meshes.vertices.dtype)
    before = pose(meshes, 0).clone()
    ShapeJitter(meshes, seed=1, kept_share=0.0, by_asset=True).refresh()
    assert (pose(meshes, 0) - before).abs().max() > 0.01
    assert torch.equal(pose(meshes, 0), pose(meshes, 1)) and torch.equal(pose(meshes, 0), pose(meshes, 2))
    torch.testing.assert_close(pose(meshes, 0).norm(dim=-1).max(), before.norm(dim=-1).max(), atol=2e-3, rtol=0)


def test_a_bulge_changes_one_place_and_leaves_the_far_side():
    meshes = creature_meshes(1)
    before = pose(meshes, 0).clone()
    still = {"stretch": 0.0, "shear": 0.0, "tilt_deg": 0.0, "wave": 0.0, "kept_share": 0.0}
    ShapeJitter(meshes, seed=0, bulge=0.0, **still).refresh()
    torch.testing.assert_close(pose(meshes, 0), before, atol=1e-3, rtol=0)
    ShapeJitter(meshes, seed=2, bulge=0.3, **still).refresh()
    moved = (pose(meshes, 0) - before).norm(dim=-1)
    assert moved.max() > 0.02 and moved.min() < 0.3 * moved.max()


def test_kept_shapes_and_palettes_stay():
    meshes = creature_meshes(2)
    vertices, colours = meshes.vertices.clone(), meshes.colours.clone()
    ShapeJitter(meshes, kept_share=1.0, recoloured_share=0.0).refresh()
    torch.testing.assert_close(meshes.vertices, vertices, atol=1e-3, rtol=0)
    assert torch.equal(meshes.colours, colours)


def test_recolouring_keeps_equal_colours_equal():
    meshes = creature_meshes(1)
    keys = meshes.colours.float().mul(15).round()
    ShapeJitter(meshes, seed=3, recoloured_share=1.0).refresh()
    _, groups = keys.unique(dim=0, return_inverse=True)
    for group in range(int(groups.max()) + 1):
        members = meshes.colours[groups == group]
        assert (members == members[0]).all()


def test_chunks_do_not_change_the_shapes(monkeypatch):
    whole, parts = creature_meshes(5), creature_meshes(5)
    ShapeJitter(whole, seed=2, by_asset=True).refresh()
    monkeypatch.setattr("threestudio_4d.tiny_priors.sampling.jitter.CHUNK_VERTICES", 2 * len(pose(parts, 0)))
    jitter = ShapeJitter(parts, seed=2, by_asset=True)
    assert [rows.stop - rows.start for rows, _ in jitter.chunks] == [2, 2, 1]
    jitter.refresh()
    torch.testing.assert_close(parts.vertices, whole.vertices, atol=1e-3, rtol=0)


def test_a_jittered_scene_is_drawn_in_its_new_shape():
    meshes = creature_meshes(1)
    shot = Shot.of([0])
    before = render(meshes, shot, 32)
    ShapeJitter(meshes, seed=1, kept_share=0.0).refresh()
    assert (render(meshes, shot, 32) - before).abs().max() > 0.1
