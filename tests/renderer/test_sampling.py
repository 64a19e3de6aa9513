"""Occupancy, marching and compositing, each against a plain computation."""

import pytest
import torch

from threestudio_4d.renderer.volume.compositing import sample_weights, sum_over_rays
from threestudio_4d.renderer.volume.march import march
from threestudio_4d.renderer.volume.march_nerfacc import choose, grown
from threestudio_4d.renderer.volume.occupancy import OccupancyGrid

STEP = 0.07


def random_rays(count=200, device="cpu"):
    generator = torch.Generator().manual_seed(5)
    origins = torch.randn(count, 3, generator=generator) * 1.2
    directions = torch.randn(count, 3, generator=generator)
    directions[0] = torch.tensor([1.0, 0.0, 0.0])  # parallel to two pairs of faces
    origins[0] = torch.tensor([-3.0, 0.1, 0.2])
    origins[1] = torch.tensor([0.05, 0.0, 0.1])  # starts inside
    directions = directions / directions.norm(dim=-1, keepdim=True)
    offsets = torch.rand(count, generator=generator) * STEP
    return origins.to(device), directions.to(device), offsets.to(device)


def patchy_grid(device="cpu", resolution=9, radius=1.0):
    grid = OccupancyGrid(radius, resolution)
    generator = torch.Generator().manual_seed(6)
    binary = torch.rand(resolution, resolution, resolution, generator=generator) < 0.3
    binary[:2] = False
    binary[:, -1] = False
    grid.set_binary(binary)
    return grid.to(device)


def lattice(origins, directions, offsets, grid):
    """All midpoints of all rays, tested one by one."""
    rays, midpoints = [], []
    for ray in range(len(origins)):
        for number in range(200):
            t = offsets[ray] + (torch.tensor(float(number)) + 0.5) * STEP
            point = origins[ray] + t * directions[ray]
            if (point.abs() > grid.radius).any():
                continue
            cell = ((point + grid.radius) / grid.cell_size).long().clamp(max=grid.resolution - 1)
            if grid.binary[tuple(cell)]:
                rays.append(ray)
                midpoints.append(t)
    return torch.tensor(rays), torch.stack(midpoints)


def assert_same_samples(found, expected, n_rays, slack=0.002):
    """Equal up to candidates that rounding puts on the other side of a cell face."""
    counts = [torch.bincount(rays.cpu(), minlength=n_rays) for rays in (found.ray_indices, expected.ray_indices)]
    assert (counts[0] != counts[1]).sum() <= max(1, slack * n_rays)
    same = counts[0] == counts[1]
    kept = [m.cpu()[same[r.cpu()]] for r, m in ((found.ray_indices, found.midpoints), expected)]
    torch.testing.assert_close(kept[0], kept[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampler", ["torch", "numba"])
@pytest.mark.parametrize("stratified", [True, False])
def test_march_is_the_lattice(sampler, stratified):
    origins, directions, offsets = random_rays()
    grid = patchy_grid()
    found = march(origins, directions, grid, STEP, offsets if stratified else None, sampler)
    rays, midpoints = lattice(origins, directions, offsets if stratified else torch.zeros(200), grid)
    assert torch.equal(found.ray_indices, rays)
    torch.testing.assert_close(found.midpoints, midpoints)


@pytest.mark.parametrize("sampler", ["torch", "numba"])
def test_march_of_nothing(sampler):
    grid = patchy_grid()
    origins, directions, _ = random_rays()
    assert len(march(origins[:0], directions[:0], grid, STEP, sampler=sampler).midpoints) == 0
    grid.set_binary(torch.zeros_like(grid.binary))
    assert len(march(origins, directions, grid, STEP, sampler=sampler).midpoints) == 0


def test_numba_march_equals_torch_march_on_many_rays():
    origins, directions, offsets = random_rays(3000)
    grid = patchy_grid(resolution=32)
    found, expected = (march(origins, directions, grid, 0.02, offsets, sampler) for sampler in ("numba", "torch"))
    assert_same_samples(found, expected, 3000)


@pytest.mark.gpu
@pytest.mark.parametrize("sampler", ["torch", "nerfacc"])
def test_cuda_march_equals_cpu_march(sampler):
    if sampler == "nerfacc":
        pytest.importorskip("nerfacc")
    origins, directions, offsets = random_rays(3000)
    expected = march(origins, directions, patchy_grid(resolution=32), 0.02, offsets, "torch")
    cuda = (x.cuda() for x in (origins, directions))
    found = march(*cuda, patchy_grid("cuda", resolution=32), 0.02, offsets.cuda(), sampler)
    assert_same_samples(found, expected, 3000, slack=0.01)


@pytest.mark.gpu
@pytest.mark.parametrize("stratified", [True, False])
def test_nerfacc_march_is_the_torch_march(stratified):
    pytest.importorskip("nerfacc")
    origins, directions, offsets = random_rays(20000, "cuda")
    grid = patchy_grid("cuda", resolution=32)
    found, expected = (
        march(origins, directions, grid, 0.02, offsets if stratified else None, sampler)
        for sampler in ("nerfacc", "torch")
    )
    assert torch.equal(found.ray_indices, expected.ray_indices)
    assert torch.equal(found.midpoints, expected.midpoints)


def test_candidates_of_a_traversal_become_the_lattice():
    """Midpoints off the lattice by rounding, of all cells at and around the occupied ones."""
    origins, directions, offsets = random_rays(2000)
    grid = patchy_grid(resolution=32)
    around = OccupancyGrid(grid.radius + grid.cell_size, 34)
    around.set_binary(grown(grid.binary))
    near = march(origins, directions, around, 0.02, offsets, "torch")
    drift = 1e-5 * torch.randn(len(near.midpoints), generator=torch.Generator().manual_seed(7))
    found = choose(near.ray_indices, near.midpoints + drift, origins, directions, grid, 0.02, offsets)
    expected = march(origins, directions, grid, 0.02, offsets, "torch")
    assert torch.equal(found.ray_indices, expected.ray_indices)
    assert torch.equal(found.midpoints, expected.midpoints)


def test_grown_grid():
    binary = torch.zeros(5, 5, 5, dtype=torch.bool)
    binary[0, 2, 4] = True
    larger = grown(binary)
    assert larger.shape == (7, 7, 7) and larger.sum() == 27
    assert larger[0:3, 2:5, 4:7].all()  # cell (i, j, k) is cell (i + 1, j + 1, k + 1) of the larger grid


def test_unknown_sampler():
    with pytest.raises(ValueError, match="unknown sampler 'dda'"):
        march(*random_rays()[:2], patchy_grid(), STEP, sampler="dda")


def packed(n_rays=7, levels=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(8)
    counts = torch.tensor([3, 0, 5, 1, 0, 8, 2])[:n_rays]
    rays = torch.repeat_interleave(torch.arange(n_rays), counts)
    density = torch.rand(levels, len(rays), generator=generator, dtype=dtype) * 30
    return density, rays


def test_weights_equal_a_loop_over_rays():
    density, rays = packed()
    weights = sample_weights(density, STEP, rays, 7)
    for level in range(2):
        for ray in range(7):
            light = 1.0
            for index in torch.nonzero(rays == ray).flatten():
                absorbed = 1 - torch.exp(-density[level, index] * STEP)
                torch.testing.assert_close(weights[level, index], light * absorbed)
                light = light * (1 - absorbed)


def test_weights_gradcheck():
    density, rays = packed()
    assert torch.autograd.gradcheck(lambda d: sample_weights(d, STEP, rays, 7), density.requires_grad_())


def test_weights_stay_exact_behind_opaque_rays():
    counts = torch.tensor([200] * 400 + [2])
    rays = torch.repeat_interleave(torch.arange(401), counts)
    density = torch.full((1, len(rays)), 1e4)
    density[0, -2:] = torch.tensor([1e-3, 2e-3])
    weights = sample_weights(density, STEP, rays, 401)
    torch.testing.assert_close(weights[0, -2:], torch.tensor([1e-3, 2e-3]) * STEP, rtol=1e-3, atol=0)
    assert torch.isfinite(weights).all()


def test_sum_over_rays():
    density, rays = packed()
    values = torch.rand(2, len(rays), 4, dtype=torch.float64, requires_grad=True)
    total = sum_over_rays(values, rays, 7)
    for ray in range(7):
        torch.testing.assert_close(total[:, ray], values[:, rays == ray].sum(dim=1))
    assert torch.autograd.gradcheck(lambda v: sum_over_rays(v, rays, 7), values)
    assert sum_over_rays(values[:, :0], rays[:0], 7).shape == (2, 7, 4)


class OnlyThere:
    """A field whose matter exists at one level and for a short time."""

    def __init__(self, level=None, window=None):
        self.level, self.window = level, window

    def __call__(self, points, timestamps):
        density = torch.zeros(2, len(points), 1)
        there = (points - 0.5).norm(dim=-1, keepdim=True) < 0.3
        if self.window:
            there = there & (timestamps > self.window[0]) & (timestamps < self.window[1])
        density[slice(None) if self.level is None else self.level] = 20.0 * there
        return density


@pytest.mark.parametrize("field", [OnlyThere(level=1), OnlyThere(level=0), OnlyThere(window=(0.4, 0.5))])
def test_occupancy_sees_one_level_and_one_moment(field):
    grid = OccupancyGrid(1.0, 16)
    for step in range(0, 16 * 24, 16):
        grid.refresh(field, 0.0135, step)
    inside = torch.full((1, 3), 0.5)
    assert grid.contains(inside).all()
    assert not grid.contains(-inside).any()
    assert grid.binary.float().mean() < 0.05
    low, high = grid.occupied_box
    assert (low > 0).all() and (low < 0.3).all() and (high > 0.7).all() and (high < 0.95).all()


def test_occupancy_forgets_what_is_gone():
    grid = OccupancyGrid(1.0, 8, warmup_steps=0)
    there = OnlyThere()
    grid.refresh(there, 0.0135, 0)
    for step in range(400):
        grid.refresh(lambda points, times: there(-points, times), 0.0135, step + 1)  # the matter has moved
    assert grid.contains(torch.full((1, 3), -0.5)).all()
    assert not grid.contains(torch.full((1, 3), 0.5)).any()


def test_occupancy_keeps_what_is_not_a_number():
    """Else a broken part of the field would vanish, and nothing would say so."""
    grid = OccupancyGrid(radius=1.0, resolution=8)

    def density(points, times):
        right = points[None, :, :1] > 0
        return torch.where(right, torch.nan, torch.where(points[None, :, 1:2] > 0, 10.0, 0.0))

    grid.refresh(density, 0.1, 0)
    assert grid.binary[4:].all() and grid.binary[:4, 4:].all() and not grid.binary[:4, :4].any()


def test_occupancy_survives_a_checkpoint():
    grid = patchy_grid()
    other = OccupancyGrid(1.0, 9)
    other.load_state_dict(grid.state_dict())
    assert torch.equal(other.binary, grid.binary) and torch.equal(other.occupied_box, grid.occupied_box)


def test_a_ray_without_direction_stays_bounded():
    grid = OccupancyGrid(1.0, 4)
    samples = march(torch.zeros(1, 3), torch.zeros(1, 3), grid, STEP, sampler="torch")
    assert len(samples.midpoints) < 100
