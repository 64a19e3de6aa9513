"""Folders with a variant only, and files that are not what they are named."""

import json
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from threestudio_4d.diffusion.weights.files import weight_files
from threestudio_4d.diffusion.weights.network_folder import load_network
from threestudio_4d.errors import UserError


def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        8, 4, 4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=8, cross_attention_dim=8,
        attention_head_dim=8, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip


def text_encoder() -> CLIPTextModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    return CLIPTextModel(CLIPTextConfig(vocab_size=400, max_position_embeddings=8, **sizes))


@pytest.mark.parametrize("make", [unet, text_encoder])
@pytest.mark.parametrize("shard", ["1GB", "30KB"])
def test_a_folder_with_half_precision_only(make, shard, tmp_path):
    network = make().half()
    network.save_pretrained(tmp_path, variant="fp16", max_shard_size=shard)
    variant, files = weight_files(tmp_path)
    assert variant == "fp16" and (len(files) > 1) == (shard == "30KB")
    loaded = load_network(type(network), tmp_path)
    expected = network.state_dict()
    assert all(torch.equal(value, expected[key].float()) for key, value in loaded.state_dict().items())


def test_plain_files_are_preferred(tmp_path):
    network = unet()
    network.save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"never opened")
    assert load_network(UNet2DConditionModel, tmp_path).conv_in.weight.equal(network.conv_in.weight)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def web_page(path):
    path.write_text("<!DOCTYPE html><html><body>404</body></html>")


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("spoil", [truncate, web_page, empty])
@pytest.mark.parametrize("make", [unet, text_encoder])
def test_damaged_weights_are_named(spoil, make, tmp_path):
    network, part = make(), tmp_path / "part"
    network.save_pretrained(part)
    (file,) = part.glob("*.safetensors")
    spoil(file)
    with pytest.raises(UserError, match=f"part/{file.name}"):
        load_network(type(network), part)


@pytest.mark.parametrize("text", [None, "{", "[]", "<html>"])
@pytest.mark.parametrize("int8", [False, True])
def test_a_missing_or_damaged_config_is_named(text, int8, tmp_path):
    from threestudio_4d.diffusion.weights.network_folder import save_network

    save_network(unet(), tmp_path / "unet", int8=int8)
    config = tmp_path / "unet" / "config.json"
    config.unlink() if text is None else config.write_text(text)
    with pytest.raises(UserError, match=r"unet/config.json"):
        load_network(UNet2DConditionModel, tmp_path / "unet")


def test_a_missing_shard_is_named(tmp_path):
    unet().save_pretrained(tmp_path, max_shard_size="30KB")
    index = json.loads((tmp_path / "diffusion_pytorch_model.safetensors.index.json").read_text())
    lost = sorted(set(index["weight_map"].values()))[-1]
    (tmp_path / lost).unlink()
    with pytest.raises(UserError, match=lost.split("-of-")[0]):
        load_network(UNet2DConditionModel, tmp_path)


def test_a_folder_without_weights_is_named(tmp_path):
    unet().save_pretrained(tmp_path / "a")
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "config.json", tmp_path / "b")
    with pytest.raises(UserError, match="holds no weights"):
        load_network(UNet2DConditionModel, tmp_path / "b")
