"""The cascade K-planes field: sizes, state keys, initial values, the cascade rule, normals and their gradients."""

import pytest
import torch
import torch.nn.functional as F

from threestudio_4d.geometry.cascade_kplanes import CascadeKPlanes
from threestudio_4d.ops.planes import interpolate_planes

BASE = {}
LOW_VRAM = {"low_vram": True, "mlp_network_config": {"otype": "VanillaMLP", "n_neurons": 12, "n_hidden_layers": 1}}
FOUR_LEVELS = {"grid_size": [[50, 50, 50, 8], [100, 100, 100, 16], [200, 200, 200, 32], [200, 200, 200, 32]]}
SMALL = {"grid_size": [[8, 7, 6, 3], [12, 13, 14, 5]], "n_grid_dims": 4}


def queries(count=64, reach=0.9):
    generator = torch.Generator().manual_seed(3)
    points = (torch.rand(count, 3, generator=generator) * 2 - 1) * reach
    return points, torch.rand(count, 1, generator=generator)


@pytest.mark.parametrize(("config", "count"), [(BASE, 698_304), (LOW_VRAM, 418_272), (FOUR_LEVELS, 5_155_008)])
def test_published_parameter_counts(config, count):
    assert sum(p.numel() for p in CascadeKPlanes(config).parameters()) == count


def test_state_keys_and_shapes():
    state = CascadeKPlanes(BASE).state_dict()
    expected = {"bbox"} | {f"grids.{level}.{plane}" for level in range(2) for plane in range(6)}
    expected |= {
        f"{net}_network.{level}.layers.{layer}.weight"
        for net in ("density", "feature")
        for level in range(2)
        for layer in (0, 2)
    }
    assert set(state) == expected
    assert state["grids.0.0"].shape == (1, 16, 50, 50)
    assert state["grids.1.2"].shape == (1, 16, 16, 100)  # xt: time runs down the plane
    assert state["density_network.0.layers.0.weight"].shape == (32, 16)
    assert state["feature_network.1.layers.2.weight"].shape == (3, 32)


def test_initial_planes():
    geometry = CascadeKPlanes(BASE)
    for planes in geometry.grids:
        for index, plane in enumerate(planes):
            if index in (2, 4, 5):
                assert (plane == 1).all()
            else:
                assert 0.1 <= plane.min() < 0.11 and 0.49 < plane.max() <= 0.5


def test_initial_field_is_the_grey_blob():
    geometry = CascadeKPlanes(BASE)
    radii = torch.tensor([0.0, 0.25, 0.4, 0.5, 0.6, 0.75])
    points = radii[:, None] * F.normalize(torch.tensor([[1.0, 2.0, -0.5]]), dim=-1)
    out = geometry(points, torch.full((6, 1), 0.3))
    expected = torch.tensor([10.0, 5.007, 2.127, 0.693, 0.127, 0.0067])
    torch.testing.assert_close(out["density"][..., 0], expected.expand(2, 6), rtol=0.03, atol=0.03)
    torch.testing.assert_close(out["features"].sigmoid(), torch.full((2, 6, 3), 0.5), rtol=0, atol=0.01)


@pytest.mark.parametrize("bias", ["blob_magic3d", "blob_dreamfusion", -1.0])
def test_density_bias(bias):
    geometry = CascadeKPlanes({**SMALL, "density_bias": bias})
    points, times = queries()
    radius = points.norm(dim=-1)
    values = {
        "blob_magic3d": 10 * (1 - radius / 0.5),
        "blob_dreamfusion": 10 * torch.exp(-0.5 * radius**2 / 0.25),
        -1.0: torch.full_like(radius, -1.0),
    }
    raw = torch.log(torch.expm1(geometry.forward_density(points, times).double()))[0, :, 0]
    near = radius < 0.6
    torch.testing.assert_close(raw[near].float(), values[bias][near], rtol=0.02, atol=0.1)


@pytest.mark.parametrize("rgb_residual", [True, False])
@pytest.mark.parametrize("hybrid", [True, False])
def test_cascade_rule(rgb_residual, hybrid):
    geometry = CascadeKPlanes({**SMALL, "rgb_residual": rgb_residual, "hybrid": hybrid})
    points, times = queries()
    coords = torch.cat([points, 2 * times - 1], dim=-1)
    looked_up = [interpolate_planes(list(planes), coords, hybrid, "torch") for planes in geometry.grids]
    if rgb_residual:
        raw = [geometry.density_network[i](f) for i, f in enumerate(looked_up)]
        colour = [geometry.feature_network[i](f) for i, f in enumerate(looked_up)]
        raw, colour = torch.stack(raw).cumsum(0), torch.stack(colour).cumsum(0)
    else:
        assert len(geometry.density_network) == 1
        features = torch.stack(looked_up).cumsum(0)
        raw, colour = geometry.density_network[0](features), geometry.feature_network[0](features)
    density = F.softplus(raw + 10 * (1 - points.norm(dim=-1, keepdim=True) / 0.5))
    out = geometry(points, times)
    torch.testing.assert_close(out["density"], density, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out["features"], colour, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(geometry.forward_density(points, times), out["density"])


def test_a_loss_on_the_finest_level_trains_every_level():
    geometry = CascadeKPlanes(SMALL)
    out = geometry(*queries())
    (out["density"][-1].sum() + out["features"][-1].sum()).backward()
    for name, parameter in geometry.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("normal_type", ["finite_difference_laplacian", "analytic"])
def test_normals_point_out_of_the_object(normal_type):
    geometry = CascadeKPlanes({**BASE, "normal_type": normal_type})
    points, times = queries(reach=0.4)
    normal = geometry(points, times, output_normal=True)["normal"]
    assert normal.shape == (2, 64, 3)
    torch.testing.assert_close(normal.norm(dim=-1), torch.ones(2, 64))
    outward = F.normalize(points, dim=-1)
    assert ((normal * outward).sum(-1)[:, points.norm(dim=-1) > 0.1] > 0.98).all()


@pytest.mark.parametrize("normal_type", ["finite_difference_laplacian", "analytic"])
def test_normals_are_unit_vectors_in_almost_empty_space_too(normal_type):
    geometry = CascadeKPlanes({**BASE, "normal_type": normal_type, "density_bias": -16.0})
    points, times = queries()
    assert geometry.forward_density(points, times).max() < 1e-6  # slopes are of that size, too
    torch.testing.assert_close(geometry.normals(points, times).norm(dim=-1), torch.ones(2, len(points)))


def test_normals_differ_between_levels():
    geometry = CascadeKPlanes({**SMALL, "density_bias": 0.0})
    normal = geometry.normals(*queries())
    assert (normal[0] - normal[1]).abs().max() > 0.01


def test_normals_are_central_differences_of_each_level():
    geometry = CascadeKPlanes({**SMALL, "density_blob_scale": 1.0})
    points, times = queries(reach=1.0)
    points[0] = torch.tensor([1.0, -1.0, 0.2])  # offsets are clamped to the box
    slope = []
    for axis in range(3):
        shift = torch.zeros(3)
        shift[axis] = 1e-3
        ahead = geometry.forward_density((points + shift).clamp(-1, 1), times)
        behind = geometry.forward_density((points - shift).clamp(-1, 1), times)
        slope.append(-0.5 * (ahead - behind) / 1e-3)
    expected = F.normalize(torch.cat(slope, dim=-1), dim=-1)
    torch.testing.assert_close(geometry.normals(points, times), expected, rtol=1e-3, atol=1e-3)


def test_queries_of_any_leading_shape_and_default_time():
    geometry = CascadeKPlanes(SMALL)
    points = torch.rand(2, 5, 3) - 0.5
    geometry.isosurface_time = 0.75
    times = torch.full((2, 5, 1), 0.75)
    assert geometry.forward_density(points, times).shape == (2, 2, 5, 1)
    field, deformation = geometry.forward_field(points)
    assert deformation is None
    torch.testing.assert_close(field, geometry.forward_density(points, times)[-1])
    assert (geometry.forward_level(torch.tensor([[30.0]]), 25.0) < 0).all()  # inside is negative
    assert geometry(torch.zeros(0, 3), torch.zeros(0, 1), True)["normal"].shape == (2, 0, 3)
    with pytest.raises(ValueError, match=r"\[2, 5, 3\] and \[5, 1\]"):
        geometry.forward_density(points, times[0])


def test_autocast_does_not_reach_the_field():
    geometry = CascadeKPlanes(SMALL)
    points, times = queries()
    plain = geometry(points, times)["density"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = geometry(points, times)["density"]
    assert cast.dtype == torch.float32 and torch.equal(plain, cast)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"normal_type": "pred"}, "normal_type is 'pred': it must be one of"),
        ({"radius": -1.0}, "radius is -1.0: it must be a number, above 0"),
        ({"grid_size": [[50, 50, 50]]}, "grid_size is .*: it must be a list of items, each a list of 4 whole numbers"),
        ({"n_grid_dims": [16]}, "one for each of 2 levels"),
        ({"rgb_residual": False, "low_vram": True}, r"equal channels; got \[16, 8\]"),
        ({"density_bias": "blob"}, "density_bias is 'blob'"),
        ({"plane_backend": "cuda"}, "plane_backend is 'cuda'"),
        ({"mlp_network_config": {"otype": "FullyFusedMLP", "n_neurons": 8, "n_hidden_layers": 1}}, "VanillaMLP"),
    ],
)
def test_wrong_values_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        CascadeKPlanes(config)
