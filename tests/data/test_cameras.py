"""Camera conventions: z up, azimuth 0 on +x growing toward +y, OpenGL axes, threestudio's rays."""

import math

import pytest
import torch

from threestudio_4d.cameras.sphere import (
    arc_offsets,
    camera_positions,
    camera_rays,
    fixed_cameras,
    focal_length,
    look_at,
    sample_azimuths,
    sample_elevations,
)


def some_cameras(n: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    positions = camera_positions(
        -80 + 160 * torch.rand(n, generator=g), 360 * torch.rand(n, generator=g), 1 + torch.rand(n, generator=g)
    )
    return positions, look_at(positions)


@pytest.mark.parametrize(
    "elevation, azimuth, expected",
    [(0, 0, (2, 0, 0)), (0, 90, (0, 2, 0)), (0, -90, (0, -2, 0)), (90, 0, (0, 0, 2)), (30, 180, (-1.7320508, 0, 1))],
)
def test_positions(elevation: float, azimuth: float, expected: tuple):
    position = camera_positions(torch.tensor([float(elevation)]), torch.tensor([float(azimuth)]), torch.tensor([2.0]))
    torch.testing.assert_close(position, torch.tensor([expected], dtype=torch.float32), atol=1e-6, rtol=0)


@pytest.mark.parametrize("n", [1, 3, 9])
def test_c2w_is_a_rotation_that_looks_at_the_origin(n: int):
    positions, c2w = some_cameras(n)
    rotation = c2w[:, :3, :3]
    torch.testing.assert_close(rotation.transpose(1, 2) @ rotation, torch.eye(3).expand(n, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(n))
    torch.testing.assert_close(rotation[:, :, 2], torch.nn.functional.normalize(positions, dim=-1))
    assert (rotation[:, 2, 1] > 0).all() and rotation[:, 2, 0].abs().max() < 1e-6  # up is up, right is level
    torch.testing.assert_close(c2w[:, 3], torch.tensor([0.0, 0, 0, 1]).expand(n, 4))


def test_axes_at_azimuth_0():
    c2w = look_at(torch.tensor([[2.0, 0, 0]]))[0]
    torch.testing.assert_close(c2w[:3, :3], torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]))


def test_straight_down_still_has_a_camera():
    c2w = look_at(torch.tensor([[0.0, 0, 2]]))
    assert torch.isfinite(c2w).all() and torch.allclose(torch.linalg.det(c2w[:, :3, :3]), torch.ones(1))


def test_focal_length():
    fovy = torch.deg2rad(torch.tensor([49.1]))
    assert focal_length(fovy, 64).item() == pytest.approx(70.06, abs=0.01)
    assert focal_length(fovy, 256).item() == pytest.approx(280.22, abs=0.02)


def test_rays():
    positions, c2w = some_cameras()
    fovy = torch.full((9,), math.radians(49.1))
    rays_o, rays_d = camera_rays(c2w, fovy, 6, 8)
    assert rays_o.shape == rays_d.shape == (9, 6, 8, 3)
    torch.testing.assert_close(rays_d.norm(dim=-1), torch.ones(9, 6, 8))
    torch.testing.assert_close(rays_o, positions[:, None, None].expand(9, 6, 8, 3))
    center = torch.nn.functional.normalize(rays_d.sum((1, 2)), dim=-1)
    torch.testing.assert_close(center, -c2w[:, :3, 2], atol=1e-5, rtol=0)
    assert ((rays_d[:, 0] * c2w[:, None, :3, 1]).sum(-1) > 0).all()  # row 0 looks up
    assert ((rays_d[:, :, -1] * c2w[:, None, :3, 0]).sum(-1) > 0).all()  # last column looks right
    odd = camera_rays(c2w, fovy, 5, 5)[1][:, 2, 2]
    torch.testing.assert_close(odd, -c2w[:, :3, 2], atol=1e-6, rtol=0)


def test_ray_of_one_pixel_by_hand():
    c2w = look_at(torch.tensor([[2.0, 0, 0]]))
    rays_d = camera_rays(c2w, torch.tensor([math.radians(90.0)]), 4, 4)[1]
    expected = torch.nn.functional.normalize(torch.tensor([-1.0, -0.75, 0.75]), dim=0)  # top left: toward -y, up
    torch.testing.assert_close(rays_d[0, 0, 0], expected)


def test_rays_equal_the_hosts():
    ops = pytest.importorskip("threestudio.utils.ops")
    _, c2w = some_cameras(4)
    fovy = torch.full((4,), math.radians(49.1))
    directions = ops.get_ray_directions(H=12, W=16, focal=1.0)[None].repeat(4, 1, 1, 1)
    directions[..., :2] /= focal_length(fovy, 12)[:, None, None, None]
    rays_o, rays_d = ops.get_rays(directions, c2w, keepdim=True)
    ours_o, ours_d = camera_rays(c2w, fovy, 12, 16)
    torch.testing.assert_close(ours_o, rays_o)
    torch.testing.assert_close(ours_d, rays_d, atol=1e-6, rtol=1e-5)
    batch = fixed_cameras(10.0, [0.0, 40.0, 80.0, 170.0], 2.0, 49.1).batch(12, 16)
    projection = ops.get_projection_matrix(batch["fovy"], 16 / 12, 0.01, 100.0)
    torch.testing.assert_close(batch["proj_mtx"], projection)
    torch.testing.assert_close(batch["mvp_mtx"], ops.get_mvp_matrix(batch["c2w"], projection), atol=1e-5, rtol=1e-5)


def test_projection_agrees_with_rays():
    batch = fixed_cameras(20.0, [33.0], 2.0, 49.1).batch(8, 8)
    point = batch["rays_o"][0, 1, 6] + 1.7 * batch["rays_d"][0, 1, 6]
    clip = batch["mvp_mtx"][0] @ torch.cat([point, torch.ones(1)])
    column, row = (clip[:2] / clip[3] + 1) * 4
    assert column.item() == pytest.approx(6.5, abs=1e-3) and row.item() == pytest.approx(1.5, abs=1e-3)


def test_ray_noise_moves_all_rays_alike():
    _, c2w = some_cameras(2)
    fovy = torch.full((2,), 0.8)
    noise = torch.tensor([[0.1, 0, 0], [0, 0.2, 0]])
    rays_o, _ = camera_rays(c2w, fovy, 4, 4, origin_noise=noise)
    torch.testing.assert_close(rays_o - camera_rays(c2w, fovy, 4, 4)[0], noise[:, None, None].expand(2, 4, 4, 3))
    rays_d = camera_rays(c2w, fovy, 4, 4, direction_noise=noise)[1]
    torch.testing.assert_close(rays_d.norm(dim=-1), torch.ones(2, 4, 4))
    assert (rays_d - camera_rays(c2w, fovy, 4, 4)[1]).abs().max() > 0.05


def elevations(law: str) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.cat([sample_elevations(10, -10, 60, law, g) for _ in range(2000)])


def test_elevation_laws():
    uniform, sphere, mixed, published = (elevations(law) for law in ("uniform", "sphere", "mixed", "published"))
    for values in (uniform, sphere, mixed):
        assert values.min() >= -10 and values.max() <= 60 and values.min() < -9.5 and values.max() > 59
    assert uniform.mean().item() == pytest.approx(25.0, abs=0.6)
    z = torch.sin(torch.deg2rad(sphere))
    middle = (math.sin(math.radians(-10)) + math.sin(math.radians(60))) / 2
    assert z.mean().item() == pytest.approx(middle, abs=0.01)
    assert mixed.mean().item() == pytest.approx((uniform.mean() + sphere.mean()).item() / 2, abs=0.8)
    g = torch.Generator().manual_seed(0)
    draws = [sample_elevations(10, -10, 60, "published", g) for _ in range(500)]
    narrow = [d for d in draws if d.min() >= -6.4 and d.max() <= 41.9]
    assert len(narrow) / 500 > 0.45 and published.max() > 59
    with pytest.raises(ValueError, match="allowed: mixed"):
        sample_elevations(1, 0, 1, "cone", g)


def test_azimuths_and_arcs():
    g = torch.Generator().manual_seed(0)
    azimuths = sample_azimuths(4, -180, 180, True, g)
    assert ((azimuths + 180) // 90).tolist() == [0, 1, 2, 3]
    many = sample_azimuths(4000, -180, 180, False, g)
    assert many.min() < -178 and many.max() > 178
    for _ in range(20):
        arc = arc_offsets(4, 5, 15, g)
        assert arc[0] == 0 and 5 <= arc[1] <= 15
        torch.testing.assert_close(arc, arc[1] * torch.arange(4))
