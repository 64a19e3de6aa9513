"""Splatting: cameras, compositing and gradients of the specification; on a GPU, gsplat against it."""

import math

import pytest
import torch

from threestudio_4d.cameras.sphere import Cameras
from threestudio_4d.errors import UserError
from threestudio_4d.geometry.gaussians import Gaussians
from threestudio_4d.renderer.gaussian import splat
from threestudio_4d.renderer.gaussian.cameras import intrinsics, world_to_camera
from threestudio_4d.renderer.gaussian.projection import project

FOVY = math.radians(49.1)


def cameras(azimuth: list[float], elevation: float = 0.0, distance: float = 2.0) -> torch.Tensor:
    """Poses [C, 4, 4]."""
    count = len(azimuth)
    full = torch.ones(count)
    return Cameras(full * elevation, torch.tensor(azimuth), full * distance, full * 49.1).c2w()


def blobs(means: list[list[float]], opacity: float = 0.9, scale: float = 0.03, colours=None) -> Gaussians:
    means = torch.tensor(means)
    count = len(means)
    quats = torch.tensor([1.0, 0, 0, 0]).expand(count, 4)
    colours = torch.full((count, 3), 0.2) if colours is None else torch.tensor(colours)
    return Gaussians.with_colours(means, quats, torch.full((count, 3), scale), torch.full((count,), opacity), colours)


def random_scenes(scenes: int, count: int, sh: int = 1, seed: int = 0, device: str = "cpu") -> Gaussians:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(scenes, count, *shape, generator=generator)

    quats = torch.randn(scenes, count, 4, generator=generator)
    harmonics = torch.randn(scenes, count, sh, 3, generator=generator)
    gaussians = Gaussians(uniform(3) * 1.6 - 0.8, quats, 0.01 + 0.08 * uniform(3), uniform(), harmonics)
    return gaussians.map(lambda value: value.to(device).requires_grad_())


def peak(image: torch.Tensor) -> tuple[int, int]:
    """Row and column of the largest value of [H, W]."""
    return divmod(int(image.argmax()), image.shape[1])


def test_cameras_see_the_world_as_rays_do():
    """World +y is on the right of the camera at azimuth 0, +z is up; each picture's axis points at the origin."""
    for mean, row, column in ([0.0, 0.4, 0.0], 32, 46), ([0.0, 0.0, 0.4], 18, 32), ([0.0, 0.0, 0.0], 32, 32):
        found = peak(splat(blobs([mean], scale=0.005), cameras([0.0]), FOVY, 65, 65).opacity[0, ..., 0])
        assert found == pytest.approx((row, column), abs=1)
    pose = cameras([30.0], 20.0)
    ray = pose[0, :3, :3] @ torch.tensor([0.1, -0.05, -1.0])  # right, up, backward
    point = pose[0, :3, 3] + 1.7 * ray
    seen = (
        intrinsics(torch.tensor(FOVY), 48, 64) @ (world_to_camera(pose)[0] @ torch.cat([point, point.new_ones(1)]))[:3]
    )
    focal = 24 / math.tan(FOVY / 2)
    torch.testing.assert_close(seen[:2] / seen[2], torch.tensor([32 + 0.1 * focal, 24 + 0.05 * focal]))
    assert seen[2].item() == pytest.approx(1.7, abs=1e-5)


def test_projection_of_a_ball_is_round_and_of_its_size():
    gaussians = blobs([[0.0, 0.0, 0.0]], scale=0.05)
    camera = intrinsics(torch.tensor(FOVY), 64, 64)
    flat = project(
        gaussians.means, gaussians.covariances(), gaussians.opacities, world_to_camera(cameras([77.0], 30.0))[0],
        camera, 64, 64, eps2d=0.3, near=0.01,
    )  # fmt: skip
    variance = (0.05 * camera[0, 0] / 2) ** 2 + 0.3
    torch.testing.assert_close(
        flat.conics[0], torch.stack([1 / variance, variance * 0, 1 / variance]), atol=1e-5, rtol=1e-4
    )
    assert flat.depths.item() == pytest.approx(2.0, abs=1e-5)


def test_near_things_hide_far_things():
    near, far = [0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]
    red, blue = [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]
    gaussians = blobs([far, near], opacity=0.75, scale=0.1, colours=[blue, red])
    drawn = splat(gaussians, cameras([0.0, 180.0]), FOVY, 33, 33, background=torch.tensor([0.0, 1.0, 0.0]))
    centre = drawn.image[:, 16, 16]
    torch.testing.assert_close(centre[0], torch.tensor([0.75, 0.0625, 0.1875]), atol=2e-3, rtol=0)
    torch.testing.assert_close(centre[1], torch.tensor([0.1875, 0.0625, 0.75]), atol=2e-3, rtol=0)
    assert drawn.depth[0, 16, 16].item() == pytest.approx(0.75 * 1.5 + 0.1875 * 2.5, abs=5e-3)
    assert drawn.opacity[0, 16, 16].item() == pytest.approx(0.9375, abs=2e-3)


def test_what_is_behind_the_camera_or_faint_is_not_drawn():
    drawn = splat(blobs([[3.0, 0.0, 0.0]]), cameras([0.0]), FOVY, 16, 16)
    assert drawn.opacity.max() == 0 and torch.equal(drawn.image, torch.ones_like(drawn.image))
    assert splat(blobs([[0.0, 0, 0]], opacity=1 / 300), cameras([0.0]), FOVY, 16, 16).opacity.max() == 0


def test_batches_are_scenes_one_by_one_and_backgrounds_are_per_picture():
    scenes = random_scenes(2, 30, sh=4).map(torch.detach)
    poses = torch.stack([cameras([0.0, 100.0, 200.0], 10.0), cameras([30.0, 40.0, 50.0])])
    background = torch.rand(2, 3, 3)
    together = splat(scenes, poses, FOVY, 20, 24, background)
    assert together.image.shape == (2, 3, 20, 24, 3) and together.depth.shape == (2, 3, 20, 24, 1)
    for scene in range(2):
        alone = splat(scenes.map(lambda value, s=scene: value[s]), poses[scene], FOVY, 20, 24, background[scene])
        torch.testing.assert_close(together.image[scene], alone.image)
    black = splat(scenes, poses, FOVY, 20, 24, 0.0)
    torch.testing.assert_close(black.image + (1 - black.opacity) * background[:, :, None, None], together.image)


def test_gradients_are_those_of_finite_differences():
    """Of large Gaussians one behind the other, which are over the threshold in every pixel."""
    along = torch.linspace(-0.6, 0.6, 5)[:, None]
    means = torch.cat([along, 0.1 * torch.randn(5, 2)], 1)
    scenes = Gaussians(
        means, torch.randn(5, 4), 0.5 + 0.3 * torch.rand(5, 3), 0.3 + 0.4 * torch.rand(5), torch.randn(5, 4, 3)
    )
    scenes = scenes.map(lambda value: value.requires_grad_())
    pose, weights = cameras([20.0], 15.0), torch.randn(1, 12, 12, 5)

    def value() -> torch.Tensor:
        drawn = splat(scenes, pose, FOVY, 12, 12)
        return (torch.cat([drawn.image, drawn.opacity, drawn.depth], -1) * weights).sum()

    value().backward()
    for name, tensor in vars(scenes).items():
        direction = torch.randn_like(tensor)
        expected = (tensor.grad * direction).sum().item()
        step = 2e-3
        with torch.no_grad():
            tensor.add_(step * direction)
            above = value().item()
            tensor.sub_(2 * step * direction)
            below = value().item()
            tensor.add_(step * direction)
        assert (above - below) / (2 * step) == pytest.approx(expected, rel=0.01, abs=0.01), name


def test_turning_the_world_turns_cameras_and_gaussians_alike():
    scenes = random_scenes(1, 40).map(torch.detach)
    turn = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    pose = cameras([20.0], 15.0)
    moved = pose.clone()
    moved[:, :3] = turn @ pose[:, :3]
    moved[:, :3, 3] *= 0.75
    before = splat(scenes, pose[None], FOVY, 24, 24)
    after = splat(scenes.turned(turn, 0.75), moved[None], FOVY, 24, 24)
    torch.testing.assert_close(after.image, before.image, atol=2e-5, rtol=0)
    torch.testing.assert_close(after.depth, 0.75 * before.depth, atol=5e-5, rtol=0)


def test_a_backend_that_cannot_run_says_so():
    with pytest.raises(UserError, match="unknown splatting backend 'opengl'"):
        splat(blobs([[0.0, 0, 0]]), cameras([0.0]), FOVY, 8, 8, backend="opengl")
    with pytest.raises(UserError, match="CUDA only"):
        splat(blobs([[0.0, 0, 0]]), cameras([0.0]), FOVY, 8, 8, backend="gsplat")


@pytest.mark.gpu
@pytest.mark.parametrize("sh", [1, 9])
def test_gsplat_draws_and_differentiates_as_the_specification(sh):
    pytest.importorskip("gsplat")
    poses = torch.stack([cameras([0.0, 100.0, 200.0], 10.0), cameras([30.0, 40.0, 50.0], distance=1.2)]).cuda()
    weights = torch.randn(2, 3, 48, 40, 5, device="cuda")
    found = {}
    for backend in ("torch", "gsplat"):
        scenes = random_scenes(2, 400, sh, device="cuda")
        drawn = splat(scenes, poses, FOVY, 48, 40, 0.3, backend)
        pictures = torch.cat([drawn.image, drawn.opacity, drawn.depth], -1)
        (pictures * weights).mean().backward()
        found[backend] = (pictures.detach(), {name: value.grad for name, value in vars(scenes).items()})
    error = (found["torch"][0] - found["gsplat"][0]).abs()
    assert error.mean() < 2e-5 and (error > 5e-3).float().mean() < 1e-3, (error.mean(), error.max())
    for name, expected in found["torch"][1].items():
        actual = found["gsplat"][1][name]
        assert (actual - expected).norm() < 0.01 * expected.norm(), (name, (actual - expected).norm() / expected.norm())
