"""Training clips: what a batch says of itself is true, and only the pose changes from frame to frame."""

import numpy as np
import pytest
import torch
import trimesh

from threestudio_4d.errors import UserError
from threestudio_4d.tiny_priors.rendering.scenes import PosedMeshes, is_validation
from threestudio_4d.tiny_priors.sampling.clip_sampler import DRAWS, ClipSampler

POSES = 24


def scene(names=("animals/Fox", "animals/Bird"), count=POSES):
    """A box that turns round once, then rises and stays (one loop, one open clip); a ball with one loop; a still."""
    box, ball = trimesh.creation.box((0.9, 0.3, 0.5)), trimesh.creation.icosphere(1, 0.4)
    phase = 2 * np.pi * np.arange(count) / count
    turn = np.stack([[[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]] for a in phase])
    turning = box.vertices @ turn.transpose(0, 2, 1)
    rising = box.vertices * [0.5, 1, 1] + np.linspace(-0.3, 0.3, count)[:, None, None] * [0, 0, 1]
    swaying = ball.vertices + 0.2 * np.sin(phase)[:, None, None] * np.array([0, 1.0, 0])
    meshes = PosedMeshes.from_arrays(
        [np.concatenate([turning, rising]), swaying, ball.vertices], [box.faces, ball.faces, ball.faces],
        [np.tile([0.8, 0.3, 0.1], (len(m.vertices), 1)) for m in (box, ball, ball)], names=[*names, "nature/Rock"],
    )  # fmt: skip
    meshes.clips = [["Spin", "Rise"], ["Fly"], [""]]
    meshes.pose_clip = [0] * count + [1] * count + [0] * count + [0]
    return meshes


@pytest.fixture(scope="module")
def meshes():
    return scene()


def test_shapes_ranges_and_seeds(meshes):
    sampler = ClipSampler(meshes, 5, 16, seed=3, validation=None)
    batch = sampler(40)
    assert batch.video.shape == (40, 5, 3, 16, 16) and batch.alpha.shape == (40, 5, 1, 16, 16)
    assert batch.pose.shape == (40, 5)
    assert batch.video.isfinite().all() and batch.video.min() >= 0 and batch.video.max() <= 1
    assert (batch.video.amin((1, 2, 3, 4)) < 0.95).all()
    said = {sampler.captions.sentences[i] for i in batch.caption}
    assert said == {"a fox spinning", "a fox rising", "a bird flying"}
    expected = 255 * (batch.video[:, 1:] - batch.video[:, :-1]).abs().mean((1, 2, 3, 4))
    torch.testing.assert_close(batch.motion, expected)
    again = ClipSampler(meshes, 5, 16, seed=3, validation=None)(40)
    assert all(torch.equal(a, b) for a, b in zip(batch.asdict().values(), again.asdict().values(), strict=True))


def test_the_generator_state_resumes(meshes):
    sampler = ClipSampler(meshes, 3, 8, validation=None)
    sampler(4)
    state = sampler.generator.get_state()
    first = sampler(4)
    sampler.generator.set_state(state)
    assert torch.equal(first.video, sampler(4).video)


def test_loops_go_round_and_open_clips_never_jump_back(meshes):
    sampler = ClipSampler(meshes, 14, 4, validation=None)
    assert sampler.clips.loops.tolist() == [True, False, True]
    pose, stride = sampler.poses(torch.rand(6, 600, generator=torch.Generator().manual_seed(0)))
    clip = pose // POSES
    assert (clip == clip[:, :1]).all() and set(clip[:, 0].tolist()) == {0, 1, 2}
    steps = pose.diff(dim=1)
    looping = clip[:, 0] != 1
    assert (steps[looping] % POSES == stride[looping, None]).all()
    assert set(stride[looping].tolist()) == {1, 2, 3} and set(stride[~looping].tolist()) == {1, 2}
    assert (steps[~looping] >= 0).all() and (steps[~looping] <= stride[~looping, None]).all()
    assert (pose[~looping] == 2 * POSES - 1).any(1).any()
    share = torch.tensor([(clip[:, 0] == k).float().mean() for k in range(3)])
    torch.testing.assert_close(share, torch.tensor([0.25, 0.25, 0.5]), atol=0.06, rtol=0)


def test_the_frame_rate_tells_the_stride(meshes):
    sampler = ClipSampler(meshes, 4, 4, validation=None)
    batch = sampler(200)
    looping = batch.pose[:, 0] // POSES != 1
    stride = batch.pose.diff(dim=1)[:, 0] % POSES
    assert torch.equal(batch.fps[looping] * stride[looping], torch.full((int(looping.sum()),), 24.0))


def test_only_the_pose_changes(meshes):
    sampler = ClipSampler(meshes, 4, 16, validation=None, still_share=1.0)
    batch = sampler(12)
    assert (batch.pose == meshes.poses - 1).all()
    assert torch.equal(batch.video, batch.video[:, :1].expand_as(batch.video)) and (batch.motion == 0).all()
    assert len(torch.unique(batch.video[:, 0].flatten(1), dim=0)) == 12  # cameras, lights and colours differ


def test_a_flip_mirrors_the_picture_and_the_azimuth(meshes):
    sampler = ClipSampler(meshes, 4, 32, validation=None)
    u = torch.rand(DRAWS, 8, generator=torch.Generator().manual_seed(5))
    u[11], u[17] = 0.9, 0.9  # as it is, the sun anywhere
    plain = sampler.from_uniform(u)
    v = u.clone()
    v[10], v[11], v[19] = 1 - u[10], 0.1, 1 - u[19]  # camera and sun at the opposite azimuths
    flipped = sampler.from_uniform(v)
    assert torch.allclose(plain.azimuth, -flipped.azimuth, atol=1e-4)
    assert torch.allclose(plain.alpha, flipped.alpha.flip(-1), atol=0.26)  # one of four samples, by rounding
    assert (plain.alpha - flipped.alpha.flip(-1)).abs().mean() < 1e-3
    assert (plain.video - flipped.video.flip(-1)).abs().mean() < 1e-3


def test_held_out_assets_stay_out():
    held = next(f"animals/Thing{'abcdefghijklmnopqrstuvwxyz'[i % 26] * (1 + i // 26)}" for i in range(900)
                if is_validation(f"animals/Thing{'abcdefghijklmnopqrstuvwxyz'[i % 26] * (1 + i // 26)}"))  # fmt: skip
    meshes = scene(("animals/Fox", held))
    for validation, assets in ((False, {0}), (True, {1})):
        poses = ClipSampler(meshes, 3, 4, validation=validation)(30).pose
        assert set(meshes.pose_asset[poses].flatten().tolist()) == assets


def test_a_pack_without_whole_clips_is_refused():
    with pytest.raises(UserError, match="--clip-frames 24"):
        ClipSampler(scene(count=5), 4, 8)
