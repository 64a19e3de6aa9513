import pytest
import torch

from threestudio.models.networks import ProgressiveBandFrequency, get_encoding, get_mlp
from threestudio.utils.loss import tv_loss
from threestudio.utils.ops import (
    SpecifyGradient,
    binary_cross_entropy,
    chunk_batch,
    convert_pose,
    cross,
    dot,
    get_activation,
    get_fov_gaussian,
    get_full_projection_matrix,
    get_projection_matrix_gaussian,
    perpendicular_component,
    reflect,
    scale_tensor,
    shifted_cosine_decay,
    shifted_expotional_decay,
    trunc_exp,
    validate_empty_rays,
)


def test_small_operations():
    x, n = torch.tensor([[1.0, 2, 3]]), torch.tensor([[0.0, 0, 1]])
    assert dot(x, n).tolist() == [[3.0]] and reflect(x, n).tolist() == [[-1.0, -2.0, 3.0]]
    square = torch.rand(3, 3)
    assert torch.allclose((cross(square, square.flip(0)) * square).sum(-1), torch.zeros(3), atol=1e-6)
    assert scale_tensor(torch.tensor([0.0, 5.0]), (0, 10), (-1, 1)).tolist() == [-1.0, 0.0]
    p = torch.tensor([0.2, 0.9])
    assert torch.allclose(binary_cross_entropy(p, p), torch.nn.functional.binary_cross_entropy(p, p))
    a, b = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    assert torch.allclose((perpendicular_component(a, b) * b).sum((1, 2, 3)), torch.zeros(2), atol=1e-4)
    assert tv_loss(torch.ones(2, 3, 4, 4)) == 0 and tv_loss(torch.rand(2, 3, 4, 4)) > 0
    empty = torch.zeros(0, dtype=torch.long)
    assert [len(t) for t in validate_empty_rays(empty, torch.zeros(0), torch.zeros(0))] == [1, 1, 1]


def test_gradients_of_custom_functions():
    x = torch.tensor([1.0, 20.0], requires_grad=True)
    trunc_exp(x).sum().backward()
    assert torch.allclose(x.grad, torch.exp(torch.tensor([1.0, 15.0])))
    x = torch.zeros(3, requires_grad=True)
    SpecifyGradient.apply(x, torch.tensor([1.0, 2.0, 3.0])).sum().mul(2).backward()
    assert x.grad.tolist() == [2.0, 4.0, 6.0]


def test_activations():
    x = torch.linspace(-1, 1, 5)
    assert torch.equal(get_activation(None)(x), x) and torch.equal(get_activation("none")(x), x)
    assert torch.equal(get_activation("relu")(x), x.relu())
    assert torch.allclose(get_activation("scale_-11_01")(x), (x + 1) / 2)
    assert torch.allclose(get_activation("shifted_exp")(x), torch.exp(x - 1))
    assert get_activation("lin2srgb")(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([0, 0.7354, 1], abs=1e-3)
    with pytest.raises(ValueError, match="Unknown activation function: 'reluu'"):
        get_activation("reluu")


@pytest.mark.parametrize("size", [0, 2, 100])
def test_chunk_batch(size):
    x, y = torch.rand(5, 2), torch.rand(5, 2)
    assert torch.allclose(chunk_batch(lambda a, b: a + b, size, x, b=y), x + y)
    out = chunk_batch(lambda a: {"v": a, "n": None}, size, x)
    assert torch.equal(out["v"], x) and out["n"] is None
    out = chunk_batch(lambda a, k: (a * k, None), size, x, 3)
    assert isinstance(out, tuple) and torch.allclose(out[0], x * 3) and out[1] is None
    assert chunk_batch(lambda a: [a], size, x)[0].shape == (5, 2)


def test_encoding():
    encoding = get_encoding(3, {"otype": "ProgressiveBandFrequency", "n_frequencies": 4, "include_xyz": True})
    x = torch.rand(7, 3)
    out = encoding(x)
    assert encoding.n_output_dims == 27 and out.shape == (7, 27)
    assert torch.allclose(out[:, :3], 2 * x - 1) and torch.allclose(out[:, 3:6], x.sin())
    masked = ProgressiveBandFrequency(2, {"n_frequencies": 2, "n_masking_step": 10})
    assert masked.mask == [0, 0]
    masked.update_step(0, 5)
    assert masked.mask == [1.0, 0.0]
    masked.update_step(0, 100)
    assert masked.mask == [1.0, 1.0]


@pytest.mark.parametrize("otype", ["VanillaMLP", "SphereInitVanillaMLP"])
def test_networks(otype):
    config = {"otype": otype, "n_neurons": 8, "n_hidden_layers": 2, "sphere_init_radius": 0.5}
    network = get_mlp(5, 2, config)
    assert network(torch.rand(4, 5).half()).shape == (4, 2)
    if otype == "VanillaMLP":
        assert [tuple(p.shape) for p in network.parameters()] == [(8, 5), (8, 8), (2, 8)]
        assert sorted(network.state_dict()) == ["layers.0.weight", "layers.2.weight", "layers.4.weight"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert network(torch.rand(4, 5)).dtype == torch.float32


def test_helpers_of_gaussian_rasterisers():
    projection = get_projection_matrix_gaussian(0.1, 100.0, 0.8, 0.6)
    assert get_fov_gaussian(projection) == pytest.approx((0.8, 0.6))
    a, b = torch.rand(4, 4), torch.rand(4, 4)
    assert torch.allclose(get_full_projection_matrix(a, b), a @ b)
    assert torch.equal(convert_pose(convert_pose(a)), a) and torch.equal(convert_pose(a)[:, 2], -a[:, 2])


def test_decays():
    r = torch.tensor([0.0, 1.0])
    assert shifted_expotional_decay(2.0, 1.0, 0.5, r).tolist() == pytest.approx([2.5, 0.5 + 2 * 0.36788], abs=1e-4)
    assert shifted_cosine_decay(2.0, torch.pi, 0.0, r).tolist() == pytest.approx([4.0, 0.0], abs=1e-5)
