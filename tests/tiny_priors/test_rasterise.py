"""The batch rasteriser against analytic silhouettes, the camera convention, and its two backends against each other."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from threestudio_4d.tiny_priors.assets.pack import DOUBLE_SIDED, SMOOTH, UNLIT
from threestudio_4d.tiny_priors.rendering.rasterise import Lights, Shot, camera_to_world, on_white, render
from threestudio_4d.tiny_priors.rendering.scenes import PosedMeshes

ROOT = Path(__file__).parents[2]


def from_trimesh(*meshes, colours=None, flags=None, device="cpu"):
    colours = [np.full((len(m.vertices), 3), 0.5) for m in meshes] if colours is None else colours
    flags = None if flags is None else [np.full(len(m.faces), f, np.uint8) for m, f in zip(meshes, flags, strict=True)]
    return PosedMeshes.from_arrays(
        [m.vertices for m in meshes], [m.faces for m in meshes], colours, flags, device=device
    )


def soup(seed=0, device="cpu"):
    """Random triangles of every kind in two poses."""
    rng = np.random.default_rng(seed)
    vertices = rng.normal(size=(2, 40, 3)) * 0.35
    faces = rng.integers(0, 40, (120, 3))
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])]
    flags = rng.integers(0, 8, len(faces)).astype(np.uint8)
    meshes = PosedMeshes.from_arrays([vertices], [faces], [rng.random((40, 3))], [flags], device=device)
    shot = Shot.of(
        [0, 1],
        azimuth=torch.tensor([10.0, 200.0], device=device),
        elevation=torch.tensor([0.0, 30.0], device=device),
        device=device,
        scale=torch.tensor([1.0, 0.8], device=device),
        offset=torch.full((2, 3), 0.05, device=device),
        flip=torch.tensor([False, True], device=device),
        colour=torch.eye(3, device=device).flip(0).repeat(2, 1, 1),
    )
    return meshes, shot


def test_sphere_covers_the_disc_that_perspective_says():
    meshes = from_trimesh(trimesh.creation.icosphere(4, radius=0.72))
    alpha = render(meshes, Shot.of([0]), 128)[0, ..., 3]
    tangent = 0.72 / math.sqrt(2.0**2 - 0.72**2) / math.tan(math.radians(49.1 / 2))
    expected = math.pi * (tangent * 64) ** 2
    assert alpha.sum().item() == pytest.approx(expected, rel=0.01)
    assert torch.allclose(alpha, alpha.flip(0), atol=0.26) and torch.allclose(alpha, alpha.flip(1), atol=0.26)


def test_cube_seen_from_the_front_is_its_near_face():
    meshes = from_trimesh(trimesh.creation.box((0.6, 0.6, 0.6)))
    alpha = render(meshes, Shot.of([0]), 128)[0, ..., 3]
    side = 2 * 64 * 0.3 / 1.7 / math.tan(math.radians(49.1 / 2))
    assert alpha.sum().item() == pytest.approx(side**2, rel=0.03)


def test_what_is_nearer_hides_what_is_behind():
    near, far = trimesh.creation.box((0.1, 0.3, 0.3)), trimesh.creation.box((0.1, 0.8, 0.8))
    near.apply_translation([0.5, 0, 0])
    far.apply_translation([-0.5, 0, 0])
    both = trimesh.util.concatenate([far, near])
    colours = np.repeat([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], 8, 0)
    meshes = from_trimesh(both, colours=[colours], flags=[UNLIT])
    front, behind = render(meshes, Shot.of([0, 0], azimuth=torch.tensor([0.0, 180.0])), 33)
    assert front[16, 16].tolist() == pytest.approx([1, 0, 0, 1], abs=1e-4)
    assert behind[16, 16].tolist() == pytest.approx([0, 0, 1, 1], abs=1e-4)


@pytest.mark.parametrize(
    ("elevation", "azimuth", "distance"), [(0.0, 0.0, 2.0), (30.0, 75.0, 1.8), (-20.0, 195.0, 2.2)]
)
def test_a_point_lands_where_the_pose_matrix_puts_it(elevation, azimuth, distance):
    point = torch.tensor([0.3, -0.2, 0.25])
    ball = trimesh.creation.icosphere(2, radius=0.03)
    ball.apply_translation(point.numpy())
    alpha = render(from_trimesh(ball), Shot.of([0], azimuth, elevation, distance), 256)[0, ..., 3]
    rows, columns = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    seen = torch.stack([(columns * alpha).sum(), (rows * alpha).sum()]) / alpha.sum() + 0.5
    c2w = camera_to_world(*(torch.tensor([v]) for v in (elevation, azimuth, distance)))[0]
    x, y, z, _ = torch.linalg.inv(c2w) @ torch.tensor([*point, 1.0])
    focal = 128 / math.tan(math.radians(49.1 / 2))
    assert torch.allclose(seen, torch.stack([128 + focal * x / -z, 128 - focal * y / -z]), atol=0.7)


def test_azimuth_zero_stands_on_x_and_grows_towards_y():
    pose = camera_to_world(
        torch.tensor([0.0, 0.0, 90.0]), torch.tensor([0.0, 90.0, 0.0])[[0, 1, 0]], torch.full((3,), 2.0)
    )
    assert torch.allclose(pose[0, :3, 3], torch.tensor([2.0, 0, 0]), atol=1e-6)
    assert torch.allclose(pose[1, :3, 3], torch.tensor([0, 2.0, 0]), atol=1e-6)
    assert torch.allclose(pose[2, :3, 3], torch.tensor([0, 0, 2.0]), atol=1e-6)
    assert torch.allclose(pose[0, :3, :3].T @ pose[0, :3, :3], torch.eye(3), atol=1e-6)
    assert torch.linalg.det(pose[1, :3, :3]).item() == pytest.approx(1.0, abs=1e-5)


def test_the_pose_is_the_data_modules():
    from threestudio_4d.cameras.sphere import Cameras

    angles = torch.tensor([0.0, -15.0, 40.0]), torch.tensor([0.0, 200.0, -75.0]), torch.tensor([2.0, 1.7, 2.2])
    theirs = Cameras(*angles, fovy=torch.full((3,), 49.1)).c2w()
    assert torch.allclose(camera_to_world(*angles), theirs, atol=1e-5)


def turned(mesh, degrees):
    copy = mesh.copy()
    copy.apply_transform(trimesh.transformations.rotation_matrix(math.radians(degrees), [0, 0, 1]))
    return copy


def test_moving_the_camera_is_turning_the_object_the_other_way():
    shape = trimesh.util.concatenate(
        [trimesh.creation.box((0.8, 0.2, 0.3)), trimesh.creation.icosphere(2, 0.2).apply_translation([0.4, 0.1, 0.3])]
    )
    moved = render(from_trimesh(shape), Shot.of([0], azimuth=40.0, lights=Lights.standard(1, azimuth=100.0)), 64)
    still = render(from_trimesh(turned(shape, -40)), Shot.of([0], lights=Lights.standard(1, azimuth=60.0)), 64)
    assert (moved - still).abs().mean() < 2e-3


def test_a_flipped_image_shows_the_mirrored_object_from_the_opposite_azimuth():
    shape = trimesh.util.concatenate(
        [trimesh.creation.box((0.8, 0.2, 0.3)), trimesh.creation.icosphere(2, 0.2).apply_translation([0.4, 0.1, 0.3])]
    )
    mirrored = shape.copy()
    mirrored.apply_transform(np.diag([1.0, -1.0, 1.0, 1.0]))  # trimesh turns the faces over, too
    flip = torch.tensor([True])
    flipped = render(
        from_trimesh(shape), Shot.of([0], 40.0, 20.0, lights=Lights.standard(1, azimuth=70.0), flip=flip), 64
    )
    direct = render(from_trimesh(mirrored), Shot.of([0], -40.0, 20.0, lights=Lights.standard(1, azimuth=-70.0)), 64)
    assert (flipped - direct).abs().mean() < 2e-3


def test_back_faces_are_culled_unless_double_sided():
    sheet = trimesh.Trimesh([[0, -0.4, -0.4], [0, 0.4, -0.4], [0, 0, 0.5]], [[0, 1, 2]], process=False)
    meshes = from_trimesh(sheet, sheet, flags=[0, DOUBLE_SIDED])
    turns = torch.tensor([0.0, 180.0, 0.0, 180.0])
    cover = render(meshes, Shot.of([0, 0, 1, 1], azimuth=turns), 32)[..., 3].sum((1, 2))
    assert (
        cover[0] > 50
        and cover[1] == 0
        and cover[2] == cover[0]
        and cover[3] == pytest.approx(cover[0].item(), rel=0.05)
    )


def test_smooth_normals_shade_without_facets():
    ball = trimesh.creation.icosphere(2, radius=0.7)
    flat, smooth = render(from_trimesh(ball, ball, flags=[0, SMOOTH]), Shot.of([0, 1]), 64)[:, 20:44, 20:44, 1]
    assert smooth.diff(dim=1).abs().max() < 0.5 * flat.diff(dim=1).abs().max()


def test_the_sun_side_is_brighter_and_stays_in_the_world():
    meshes = from_trimesh(trimesh.creation.icosphere(3, radius=0.7))
    sunny, shady = render(meshes, Shot.of([0, 0], azimuth=torch.tensor([62.0, 242.0])), 32)[..., :3].sum((1, 2, 3))
    assert sunny > 1.1 * shady


def test_white_composite():
    rgba = torch.zeros(1, 2, 2, 4)
    rgba[0, 0, 0] = torch.tensor([0.2, 0.4, 0.6, 0.5])
    assert torch.allclose(on_white(rgba)[0, :, 0, 0], torch.tensor([0.6, 0.7, 0.8]))
    assert on_white(rgba)[0, :, 1, 1].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.gpu
def test_triton_renders_what_numba_renders():
    for resolution in (16, 64):
        meshes, shot = soup()
        expected = render(meshes, shot, resolution, backend="numba")
        meshes, shot = soup(device="cuda")
        got = render(meshes, shot, resolution, backend="triton").cpu()
        error = (got - expected).abs()
        assert (error > 0.02).float().mean() < 0.01 and error.mean() < 1e-3


def test_triton_kernels_interpreted_on_the_cpu():
    """Runs the kernels in Triton's interpreter, in a process of its own, because that is chosen at import."""
    pytest.importorskip("triton")
    code = (
        "from test_rasterise import soup, render\n"
        "meshes, shot = soup()\n"
        "a, b = (render(meshes, shot, 12, backend=k) for k in ('numba', 'triton'))\n"
        "assert a[..., 3].sum() > 20 and (a - b).abs().max() < 1e-3, (a - b).abs().max()\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(ROOT / "extern"), str(ROOT / "custom"), *sys.path])
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    if "only 0-dimensional arrays" in done.stderr:
        pytest.skip("this Triton's interpreter does not work with this numpy")
    assert done.returncode == 0, done.stderr[-2000:]
