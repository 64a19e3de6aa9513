"""Encodings that tinycudann has, in PyTorch."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from threestudio.models import encodings
from threestudio.models.encodings import SphericalHarmonics
from threestudio.models.hash_grid import PRIMES, HashGrid, level_table
from threestudio.models.networks import get_encoding, get_mlp
from threestudio.utils.errors import UserError

SMALL = {"otype": "HashGrid", "n_levels": 4, "log2_hashmap_size": 8, "base_resolution": 4, "per_level_scale": 1.5}


def naive(grid: HashGrid, point: list[float]) -> list[float]:
    """One point, as the paper has it: corner by corner, in Python's integers."""
    out, offset = [], 0
    for level in grid.levels:
        table = grid.params.view(-1, grid.n_features)[offset : offset + level.size]
        offset += level.size
        position = [x * level.scale + 0.5 for x in point]
        total = torch.zeros(grid.n_features, dtype=table.dtype)
        for corner in itertools.product((0, 1), repeat=len(point)):
            weight, texel = 1.0, []
            for p, c in zip(position, corner, strict=True):
                fraction = p - math.floor(p)
                weight *= fraction if c else 1 - fraction
                texel.append(math.floor(p) + c)
            if level.resolution ** len(point) > level.size:
                index = 0
                for t, prime in zip(texel, PRIMES, strict=False):
                    index ^= (t * prime) % 2**32
            else:
                index = sum(t * level.resolution**axis for axis, t in enumerate(texel))
            total += weight * table[index % level.size]
        out += total.tolist()
    return out


def test_levels_are_those_of_tiny_cuda_nn():
    """Known from checkpoints: 12599920 parameters for threestudio's grid, 12196240 for Instant-NGP's (two a texel)."""
    levels = level_table(3, 16, 16, 1.447269237440378, 19)
    assert 2 * sum(level.size for level in levels) == 12599920
    assert 2 * sum(level.size for level in level_table(3, 16, 16, 128 ** (1 / 15), 19)) == 12196240
    assert [level.resolution for level in levels[:6]] == [16, 24, 34, 49, 71, 102]
    assert [level.size for level in levels[:6]] == [4096, 13824, 39304, 117656, 357912, 524288]
    assert [level.is_hashed(3) for level in levels[:6]] == [False] * 5 + [True]
    assert {level.size for level in levels[5:]} == {2**19}
    assert level_table(2, 1, 5, 2.0, 19)[0].size == 32  # 5 x 5 texels, in multiples of 8


@pytest.mark.parametrize("dimensions", [2, 3, 4])
def test_a_lookup_equals_the_sum_over_corners(dimensions):
    grid = HashGrid(dimensions, SMALL).double()
    torch.nn.init.uniform_(grid.params, -1, 1)
    assert {level.is_hashed(dimensions) for level in grid.levels} == {False, True} or dimensions == 2
    points = torch.rand(20, dimensions)
    points[0], points[1] = 0.0, 1.0
    expected = torch.tensor([naive(grid, point) for point in points.tolist()], dtype=torch.float64)
    assert torch.allclose(grid(points), expected, atol=1e-5)
    assert grid.n_output_dims == expected.shape[1] == 8


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_dense_grid_is_a_bilinear_lookup(dimensions):
    grid = HashGrid(dimensions, {"otype": "DenseGrid", "n_levels": 1, "base_resolution": 9})
    torch.nn.init.uniform_(grid.params, -1, 1)
    texels = grid.params.view(-1, 2)[: 9**dimensions].T.reshape(1, 2, *[9] * dimensions)
    points = torch.rand(50, dimensions) * 0.9  # beyond the last texel's centre the grid wraps around
    places = ((points * 8 + 0.5) / 8 * 2 - 1).view(1, *[1] * (dimensions - 1), -1, dimensions)
    expected = F.grid_sample(texels, places, align_corners=True).view(2, -1).T
    assert torch.allclose(grid(points), expected, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["Linear", "Smoothstep"])
def test_gradients_once_and_twice(interpolation):
    grid = HashGrid(3, {**SMALL, "n_levels": 2, "interpolation": interpolation})
    torch.nn.init.uniform_(grid.params, -1, 1)
    points = torch.tensor([[0.31, 0.62, 0.23], [0.42, 0.17, 0.71]], requires_grad=True)  # inside of cells
    slope = torch.autograd.grad(grid(points).sum(), points, create_graph=True)[0]
    eps = 1e-3
    for axis in range(3):
        step = torch.zeros(3)
        step[axis] = eps
        difference = (grid(points + step) - grid(points - step)).sum(-1) / (2 * eps)
        assert torch.allclose(slope[:, axis], difference, rtol=2e-2, atol=2e-2)
    slope.square().sum().backward()
    assert grid.params.grad.abs().sum() > 0


def test_time_is_added_to_a_static_grid():
    encoding = get_encoding(3, {**SMALL, "otype": "HashGridSpatialTime", "static": False})
    inner = encoding.encoding
    torch.nn.init.uniform_(inner.encoding.params, -1, 1)
    torch.nn.init.uniform_(inner.encoding_time.params, -1, 1)
    x = torch.rand(5, 3)
    inner.frame_time = 0.25
    at_quarter = encoding(x)
    assert torch.allclose(
        at_quarter, inner.encoding(x) + inner.encoding_time(torch.cat([x, torch.full((5, 1), 0.25)], 1))
    )
    inner.frame_time = torch.full((5, 1), 0.25)
    assert torch.equal(encoding(x), at_quarter)
    inner.frame_time = None
    assert torch.equal(encoding(x), inner.encoding(x) + inner.encoding_time(F.pad(x, (0, 1))))
    inner.set_temp_param_grad(False)
    assert not inner.encoding_time.params.requires_grad and inner.encoding.params.requires_grad
    static = get_encoding(3, {**SMALL, "otype": "HashGridSpatialTime", "static": True}).encoding
    assert not static.encoding_time.params.requires_grad


def test_levels_open_one_after_the_other():
    config = {**SMALL, "otype": "ProgressiveBandHashGrid", "n_features_per_level": 2}
    encoding = get_encoding(3, {**config, "start_level": 1, "start_step": 10, "update_steps": 5})
    torch.nn.init.ones_(encoding.encoding.encoding.params)
    opened = []
    for step in (0, 10, 15, 20, 100):
        encoding.do_update_step(0, step)
        opened.append(int((encoding(torch.rand(1, 3)) != 0).sum()) // 2)
    assert opened == [1, 1, 2, 3, 4]


def test_spherical_harmonics_are_orthonormal():
    generator = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(200_000, 3, generator=generator), dim=-1)
    values = SphericalHarmonics(3, {"degree": 4})((directions + 1) / 2).double()
    gram = values.T @ values / len(values) * 4 * math.pi
    assert torch.allclose(gram, torch.eye(16, dtype=torch.float64), atol=0.03)
    first = SphericalHarmonics(3, {"degree": 2})(torch.tensor([[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, 0.5, 1.0]]))
    assert [torch.argmax(row[1:].abs()).item() for row in first] == [2, 0, 1]  # order y, z, x


def test_frequencies_and_identity():
    x = torch.tensor([[0.25, 0.5]])
    encoded = get_encoding(2, {"otype": "Frequency", "n_frequencies": 2})(x)[0].tolist()
    angles = [0.25 * math.pi, 0.5 * math.pi, 0.5 * math.pi, math.pi]
    assert encoded == pytest.approx([f(a) for a in angles for f in (math.sin, math.cos)], abs=1e-6)
    assert get_encoding(2, {"otype": "Identity", "include_xyz": True})(x).tolist() == [[-0.5, 0.0, 0.25, 0.5]]


def test_networks_of_tiny_cuda_nn():
    config = {"otype": "FullyFusedMLP", "n_neurons": 16, "n_hidden_layers": 2, "activation": "Softplus"}
    network = get_mlp(3, 2, {**config, "output_activation": "Sigmoid"})
    assert [tuple(p.shape) for p in network.parameters()] == [(16, 3), (16, 16), (2, 16)]
    out = network(torch.rand(7, 3).half().float())
    assert out.shape == (7, 2) and out.dtype == torch.float32 and out.min() > 0 and out.max() < 1
    with pytest.raises(UserError, match="Unknown activation function: .Swish."):
        get_mlp(3, 2, {**config, "activation": "Swish"})


def test_what_has_no_twin_needs_tinycudann():
    with pytest.raises(UserError, match="encoding otype 'OneBlob' needs tinycudann and a GPU"):
        get_encoding(3, {"otype": "OneBlob"})
    with pytest.raises(UserError, match="network otype 'MegaMLP' needs tinycudann and a GPU"):
        get_mlp(3, 2, {"otype": "MegaMLP"})
    with pytest.raises(UserError, match="'Tiled' needs tinycudann"):
        get_encoding(3, {"otype": "Grid", "type": "Tiled"})
    with pytest.raises(UserError, match="degree from 1 to 4"):
        get_encoding(3, {"otype": "SphericalHarmonics", "degree": 5})


def test_tinycudann_is_used_where_it_runs(monkeypatch):
    asked = []

    class Encoding(torch.nn.Module):
        n_output_dims = 5

        def __init__(self, n_input_dims, config, dtype):
            super().__init__()
            asked.append((n_input_dims, config["otype"], dtype))

    monkeypatch.setattr(encodings, "tinycudann", lambda: SimpleNamespace(Encoding=Encoding))
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
    assert get_encoding(3, SMALL).n_output_dims == 5
    assert asked == [(3, "HashGrid", torch.float32)]
