"""The volume renderer against a brute-force picture, and its behaviour at the edges."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import threestudio
from threestudio_4d.geometry.cascade_kplanes import CascadeKPlanes
from threestudio_4d.renderer.volume.dynerf_volume_renderer import DyNeRFVolumeRenderer

SMALL = {"grid_size": [[8, 7, 6, 3], [12, 13, 14, 5]], "n_grid_dims": 4}


class Sigmoid(nn.Module):
    requires_normal = False

    def forward(self, features, **kwargs):
        return features.sigmoid()


class White(nn.Module):
    def forward(self, dirs):
        return torch.ones_like(dirs)


def camera_rays(batch=2, size=12, device="cpu"):
    """Rays of cameras at distance 2 around the z axis, fovy 49.1 degrees."""
    focal = 0.5 * size / math.tan(math.radians(49.1) / 2)
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    rays = []
    for azimuth in torch.arange(batch) * 0.7:
        position = torch.stack([azimuth.cos(), azimuth.sin(), torch.tensor(0.3)])
        position = 2 * position / position.norm()
        forward = -position / 2
        right = F.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0])), dim=0)
        up = torch.linalg.cross(right, forward)
        x, y = (column + 0.5 - size / 2) / focal, -(row + 0.5 - size / 2) / focal
        rays.append(F.normalize(x[..., None] * right + y[..., None] * up + forward, dim=-1))
    rays_d = torch.stack(rays).to(device)
    origin = [2 * F.normalize(torch.tensor([math.cos(0.7 * i), math.sin(0.7 * i), 0.3]), dim=0) for i in range(batch)]
    return torch.stack(origin).to(device)[:, None, None].expand_as(rays_d), rays_d


def make_renderer(geometry=None, device="cpu", **config):
    geometry = (geometry or CascadeKPlanes(SMALL)).to(device)
    config = {"num_samples_per_ray": 32, **config}
    return DyNeRFVolumeRenderer(config, geometry=geometry, material=Sigmoid(), background=White()).to(device)


def set_ball(renderer, radius=0.45):
    """Occupy the cells whose centres lie within ``radius``."""
    n = renderer.occupancy.resolution
    centre = (torch.arange(n, device=renderer.occupancy.occs.device) + 0.5) / n * 2 - 1
    x, y, z = torch.meshgrid(centre, centre, centre, indexing="ij")
    renderer.occupancy.set_binary(x**2 + y**2 + z**2 <= radius**2)


def brute_force(renderer, rays_o, rays_d, timestamps):
    """Every lattice point of every ray, dense, one level at a time."""
    step, count = renderer.step, 400
    t = (torch.arange(count) + 0.5) * step
    points = rays_o[..., None, :] + t[:, None] * rays_d[..., None, :]  # [B, H, W, K, 3]
    keep = renderer.occupancy.contains(points)
    times = timestamps[:, None, None, None].expand(*points.shape[:-1], 1)
    field = renderer.geometry(points, times)
    pictures = []
    for density, features in zip(field["density"], field["features"], strict=True):
        depth = density[..., 0] * keep * step
        passed = torch.exp(-(depth.cumsum(-1) - depth))
        w = passed * (1 - torch.exp(-depth))
        opacity = w.sum(-1, keepdim=True)
        distance = (w * t).sum(-1, keepdim=True)
        colour = (w[..., None] * features.sigmoid()).sum(-2) + 1 - opacity
        variance = (w * (t - distance) ** 2).sum(-1, keepdim=True)
        pictures.append((colour, opacity, distance, variance))
    return [torch.stack(parts) for parts in zip(*pictures, strict=True)]


@pytest.mark.parametrize("pruned", [True, False])
@torch.no_grad()
def test_picture_equals_brute_force(pruned):
    renderer = make_renderer().eval()
    if pruned:
        set_ball(renderer)
    rays_o, rays_d = camera_rays()
    timestamps = torch.tensor([[0.1], [0.8]])
    out = renderer(rays_o=rays_o, rays_d=rays_d, timestamps=timestamps, height=12, width=12)
    colour, opacity, depth, variance = brute_force(renderer, rays_o, rays_d, timestamps)
    torch.testing.assert_close(out["comp_rgb_levels"], colour, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out["opacity_levels"], opacity, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out["depth_levels"], depth, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out["z_variance_levels"], variance, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(out["z_variance"], variance[-1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(out["comp_rgb"], colour[-1], rtol=1e-4, atol=1e-5)
    assert out["comp_normal"].shape == (2, 12, 12, 3)
    assert out["opacity"].max() > 0.5 and out["comp_normal"].min() >= 0 and out["comp_normal"].max() <= 1


@torch.no_grad()
def test_chunked_evaluation_equals_unchunked():
    geometry = CascadeKPlanes(SMALL)
    rays_o, rays_d = camera_rays()
    timestamps = torch.tensor([[0.0], [1.0]])
    whole = make_renderer(geometry).eval()(rays_o, rays_d, timestamps)
    parts = make_renderer(geometry, eval_chunk_size=501).eval()(rays_o, rays_d, timestamps)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cap", [0, 8])
def test_empty_grid_renders_the_background(training, cap):
    renderer = make_renderer(return_normal_perturb=True, return_comp_normal=True, max_normal_samples=cap)
    renderer.train(training)
    renderer.occupancy.set_binary(torch.zeros_like(renderer.occupancy.binary))
    rays_o, rays_d = camera_rays()
    out = renderer(rays_o, rays_d, torch.zeros(2, 1))
    assert (out["comp_rgb_levels"] == 1).all() and (out["opacity"] == 0).all()
    assert all(torch.isfinite(value).all() for value in out.values() if value.is_floating_point())
    if training:
        out["comp_rgb_levels"].sum().backward()  # a graph without samples is still a graph


def test_rays_that_miss_show_the_given_background():
    renderer = make_renderer().eval()
    rays_o, rays_d = camera_rays()
    out = renderer(rays_o, -rays_d, torch.zeros(2, 1), bg_color=torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    assert (out["comp_rgb"][0, ..., 0] == 1).all() and (out["comp_rgb"][1, ..., 1] == 1).all()
    assert (out["comp_rgb"][..., 2] == 0).all()


def test_gradient_reaches_every_parameter_and_is_finite():
    renderer = make_renderer(return_normal_perturb=True, return_comp_normal=True)
    renderer.train()
    set_ball(renderer)
    out = renderer(*camera_rays(), torch.tensor([[0.2], [0.9]]))
    samples = out["points"].shape[0]
    assert out["weights"].shape == (2, samples, 1) and out["t_dirs"].shape == (samples, 3)
    assert out["normal"].shape == out["normal_perturb"].shape == (2, samples, 3)
    loss = out["comp_rgb_levels"].square().mean() + (out["normal"] - out["normal_perturb"]).abs().mean()
    assert torch.equal(out["comp_normal_levels"][-1], out["comp_normal"])
    loss = loss + out["z_variance_levels"].mean() + out["comp_normal_levels"].mean()
    loss.backward()
    for name, parameter in renderer.geometry.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0, name


def test_state_holds_the_grid_and_nothing_of_the_geometry():
    keys = set(make_renderer().state_dict())
    assert {"occupancy.occs", "occupancy.binary", "occupancy.occupied_box"} <= keys
    assert not any("grids" in key for key in keys)


def test_normals_of_a_part_of_the_samples_keep_the_expected_sums():
    renderer = make_renderer(max_normal_samples=200)
    renderer.train()
    set_ball(renderer)
    rays = camera_rays()
    out = renderer(*rays, torch.zeros(2, 1))
    assert out["normal"].shape == (2, 200, 3) and out["points"].shape == out["t_dirs"].shape == (200, 3)
    torch.testing.assert_close(out["weights"].sum(), out["opacity_levels"].sum(), rtol=0.3, atol=0)
    half = make_renderer(renderer.geometry, normal_fraction=0.5)
    half.train()
    set_ball(half)
    every = make_renderer(renderer.geometry, output_normal=False)
    every.train()
    set_ball(every)
    assert (
        abs(2 * len(half(*rays, torch.zeros(2, 1))["points"]) / len(every(*rays, torch.zeros(2, 1))["points"]) - 1)
        < 0.05
    )


def test_training_is_stratified_and_evaluation_is_not():
    renderer = make_renderer()
    rays = camera_rays()
    renderer.eval()
    assert torch.equal(renderer(*rays, torch.zeros(2, 1))["depth"], renderer(*rays, torch.zeros(2, 1))["depth"])
    renderer.train()
    first, second = (renderer(*rays, torch.zeros(2, 1))["depth"] for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(7)
    again = renderer(*rays, torch.zeros(2, 1))["depth"]
    torch.manual_seed(7)
    assert torch.equal(again, renderer(*rays, torch.zeros(2, 1))["depth"])


def test_occupancy_is_refreshed_in_training_only_and_once_a_step():
    renderer = make_renderer(occupancy_resolution=8)
    calls = []
    renderer.occupancy.refresh = lambda density, step, global_step: calls.append(global_step)
    for global_step in (0, 0, 1, 15, 16, 16):
        renderer.update_step(0, global_step)
    assert calls == [0, 16]
    renderer.eval()
    renderer.update_step(0, 32)
    renderer.train()
    renderer.update_step(0, 48, on_load_weights=True)
    assert calls == [0, 16]
    unpruned = make_renderer(grid_prune=False)
    unpruned.update_step(0, 0)
    assert unpruned.occupancy.binary.all()


def test_refresh_prunes_the_initial_blob():
    renderer = make_renderer()
    renderer.train()
    renderer.update_step(0, 0)
    share = renderer.occupancy.binary.float().mean()
    assert 0.03 < share < 0.6
    assert renderer.occupancy.contains(torch.zeros(1, 3)).all()
    assert not renderer.occupancy.contains(torch.full((1, 3), 0.97)).any()


@pytest.mark.parametrize(("key", "value"), [("sampler", "dda"), ("normal_fraction", 0.0)])
def test_wrong_values_are_named(key, value):
    with pytest.raises(ValueError, match=f"{key} is"):
        make_renderer(**{key: value})


def test_a_name_that_no_batch_has_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'output_normals'"):
        make_renderer()(None, None, None, elevation=None, output_normals=False)


def picture_and_gradients(state, device, planes, sampler, normals="finite_difference_laplacian"):
    """The image of every level and the gradients of a loss on images, normals and orientation."""
    geometry = CascadeKPlanes({"plane_backend": planes, "normal_type": normals})
    geometry.load_state_dict(state)
    renderer = make_renderer(geometry, device, randomized=False, sampler=sampler)
    renderer.train()
    set_ball(renderer)
    rays_o, rays_d = camera_rays(size=24)
    out = renderer(rays_o.to(device), rays_d.to(device), torch.tensor([[0.2], [0.7]]).to(device))
    facing = (out["normal"] * out["t_dirs"]).sum(-1, keepdim=True).clamp(min=0)
    loss = out["comp_rgb_levels"].square().mean() + 1e-2 * (out["weights"].detach() * facing.square()).mean()
    (loss + 1e-3 * out["normal"][..., 2].square().mean()).backward()
    return out["comp_rgb_levels"].detach().cpu(), [p.grad.cpu() for p in geometry.parameters()]


def rough_state():
    """A field far from its smooth start, so that a wrong lookup shows."""
    geometry = CascadeKPlanes({})
    with torch.no_grad():
        for planes in geometry.grids:
            for plane in planes:
                plane.copy_(torch.rand_like(plane) + 0.5)
    return geometry.state_dict()


def assert_alike(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-3, atol=1e-3)
    for a, b in zip(found[1], expected[1], strict=True):
        assert (a - b).abs().max() <= 0.02 * b.abs().max() + 1e-7


@pytest.mark.parametrize("normals", ["finite_difference_laplacian", "analytic"])
def test_compiled_cpu_path_equals_plain_pytorch(normals):
    state = rough_state()
    expected = picture_and_gradients(state, "cpu", "torch", "torch", normals)
    assert_alike(picture_and_gradients(state, "cpu", "numba", "numba", normals), expected)


def test_analytic_normals_are_the_limit_of_finite_differences():
    geometry = CascadeKPlanes({**SMALL, "density_blob_scale": 1.0})
    with torch.no_grad():
        for planes in geometry.grids:
            for plane in planes:
                plane.copy_(torch.rand_like(plane) + 0.5)
    points, times = torch.rand(500, 3) * 1.8 - 0.9, torch.rand(500, 1)
    differences = geometry.normals(points, times)
    geometry.cfg.normal_type = "analytic"
    alignment = (differences * geometry.normals(points, times)).sum(-1)
    assert alignment.median() > 0.999 and (alignment > 0.99).float().mean() > 0.95  # all but points at texel borders


@pytest.mark.gpu
@pytest.mark.parametrize("normals", ["finite_difference_laplacian", "analytic"])
@pytest.mark.parametrize(("planes", "sampler"), [("torch", "torch"), ("triton", "torch"), ("triton", "nerfacc")])
def test_cuda_picture_and_gradients_equal_the_cpu_ones(planes, sampler, normals):
    if sampler == "nerfacc":
        pytest.importorskip("nerfacc")
    state = rough_state()
    expected = picture_and_gradients(state, "cpu", "torch", "torch", normals)
    assert_alike(picture_and_gradients(state, "cuda", planes, sampler, normals), expected)


def test_works_with_the_hosts_material_and_background_and_trains_alike_twice():
    material = threestudio.find("no-material")({"n_output_dims": 3, "color_activation": "sigmoid"})
    background = threestudio.find("solid-color-background")({"color": [1.0, 1.0, 1.0]})

    def train():
        torch.manual_seed(11)
        geometry = threestudio.find("cascade-kplanes")(SMALL)
        config = {"num_samples_per_ray": 48, "return_normal_perturb": True, "occupancy_resolution": 16}
        renderer = threestudio.find("dynerf-volume-renderer")(
            config, geometry=geometry, material=material, background=background
        )
        optimizer = torch.optim.Adam(geometry.parameters(), lr=0.01)
        rays_o, rays_d = camera_rays()
        for step in range(3):
            renderer.train()
            renderer.update_step(0, step)
            out = renderer(rays_o=rays_o, rays_d=rays_d, timestamps=torch.rand(2, 1), index=torch.zeros(2))
            loss = out["comp_rgb_levels"].square().mean() + (out["normal"] - out["normal_perturb"]).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return geometry.state_dict()

    first, second = train(), train()
    assert all(torch.equal(first[key], second[key]) for key in first)
