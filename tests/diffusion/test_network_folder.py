"""Networks in folders: strict, exact in half precision, close in 8 bits, and shared between priors."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from threestudio_4d.diffusion.codec import PixelUnshuffleCodec
from threestudio_4d.diffusion.weights.network_folder import (
    load_codec,
    load_network,
    part_folder,
    save_codec,
    save_network,
    write_index,
)
from threestudio_4d.diffusion.weights.resolve import resolve_prior
from threestudio_4d.errors import UserError


def text_encoder() -> CLIPTextModel:
    torch.manual_seed(0)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=40,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
        )
    ).eval()


@pytest.mark.parametrize("int8", [False, True])
def test_networks_of_transformers_come_back(tmp_path, int8):
    network = text_encoder()
    save_network(network, tmp_path, int8=int8)
    loaded = load_network(CLIPTextModel, tmp_path)
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        expected, got = network(tokens)[0], loaded(tokens)[0]
    assert not loaded.training and got.dtype == torch.float32
    assert (got - expected).abs().max() < (0.1 if int8 else 0.01) * expected.abs().max()


@pytest.mark.parametrize("int8", [False, True])
def test_weights_of_another_shape_are_refused(tmp_path, int8):
    options = {"layers_per_block": 1, "norm_num_groups": 8, "cross_attention_dim": 8, "attention_head_dim": 8}
    blocks = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
    save_network(UNet2DConditionModel(8, block_out_channels=(8, 16), **blocks, **options), tmp_path / "a", int8=int8)
    save_network(UNet2DConditionModel(8, block_out_channels=(16, 16), **blocks, **options), tmp_path / "b", int8=int8)
    (tmp_path / "a" / "config.json").write_text((tmp_path / "b" / "config.json").read_text())
    with pytest.raises(UserError, match="do not fit UNet2DConditionModel"):
        load_network(UNet2DConditionModel, tmp_path / "a")
    assert isinstance(load_network(UNet2DConditionModel, tmp_path / "b"), UNet2DConditionModel)


def test_a_lossless_codec_comes_back(tmp_path):
    save_codec(PixelUnshuffleCodec(4), tmp_path)
    assert load_codec(tmp_path).config.patch_size == 4


def test_a_part_may_stand_with_a_sibling(tmp_path):
    save_network(text_encoder(), tmp_path / "words" / "text_encoder")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    write_index(pictures, {"shared": {"text_encoder": "words"}})
    assert part_folder(pictures, "text_encoder") == tmp_path / "words" / "text_encoder"
    assert resolve_prior(str(pictures), ("text_encoder",)).path == pictures
    with pytest.raises(UserError, match="unet"):
        part_folder(pictures, "unet")
    with pytest.raises(UserError, match="unet"):
        resolve_prior(str(pictures), ("text_encoder", "unet"))
