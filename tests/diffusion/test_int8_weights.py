"""Weights in 8 bits: small error, exact round trip of what is not quantised, strict loading."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from threestudio_4d.diffusion.weights.int8 import FILE_NAME, quantise, restore
from threestudio_4d.diffusion.zero123.model import Zero123Model
from threestudio_4d.errors import UserError
from threestudio_4d.tiny_priors.zero123.networks import build_zero123_tiny


def test_error_is_at_most_half_a_code():
    torch.manual_seed(0)
    state = {"weight": torch.randn(7, 5, 3, 3), "bias": torch.randn(7), "zero": torch.zeros(4, 4)}
    back = restore(quantise(state))
    step = state["weight"].flatten(1).abs().amax(1) / 127
    error = (back["weight"] - state["weight"]).flatten(1).abs().amax(1)
    assert set(back) == set(state)
    assert (error <= 0.6 * step).all()
    assert torch.equal(back["bias"], state["bias"].half().float())
    assert torch.equal(back["zero"], state["zero"])


def test_first_and_last_layers_stay_in_half_precision():
    state = {name: torch.randn(4, 3, 3, 3) for name in ("conv_in.weight", "decoder.conv_out.weight", "mid.conv.weight")}
    stored = quantise(state)
    assert stored["conv_in.weight"].dtype == stored["decoder.conv_out.weight"].dtype == torch.float16
    assert stored["mid.conv.weight"].dtype == torch.int8


@pytest.fixture
def small_model():
    torch.manual_seed(0)
    return build_zero123_tiny(image_size=16, channels=(16, 32, 32), encoder_width=32, encoder_layers=1).eval()


def test_a_saved_prior_predicts_nearly_the_same(small_model, tmp_path):
    small_model.save(tmp_path / "prior", int8=True)
    loaded = Zero123Model.load(tmp_path / "prior").eval()
    pictures, camera, t = torch.rand(2, 3, 16, 16), torch.randn(2, 4), torch.tensor([10, 900])
    noisy = torch.randn(2, *small_model.latent_shape)
    with torch.no_grad():
        results = [m.predict(noisy, t, m.encode_condition(pictures), camera)[1] for m in (small_model, loaded)]
    assert (results[0] - results[1]).norm() / results[0].norm() < 0.02
    assert (tmp_path / "prior" / "unet" / FILE_NAME).stat().st_size < sum(
        p.numel() for p in small_model.unet.parameters()
    ) * 1.6


def test_a_saved_prior_does_not_tell_where_it_came_from(small_model, tmp_path):
    small_model.save(tmp_path / "first")
    Zero123Model.load(tmp_path / "first").save(tmp_path / "second", int8=True)
    for path in (tmp_path / "second").rglob("*.json"):
        assert str(tmp_path) not in path.read_text(), path


def test_a_missing_tensor_is_an_error(small_model, tmp_path):
    small_model.save(tmp_path / "prior", int8=True)
    path = tmp_path / "prior" / "unet" / FILE_NAME
    state = load_file(path)
    state.pop("conv_in.bias")
    save_file(state, path)
    with pytest.raises(UserError, match="conv_in.bias"):
        Zero123Model.load(tmp_path / "prior")
