"""The converter of original Zero123 checkpoints: every key and shape, the numbers, strictness."""

import collections
import json
import re

import ldm_reference as reference
import pytest
import torch
import torch.nn.functional as F

from threestudio_4d.diffusion.zero123 import checkpoint as zc
from threestudio_4d.diffusion.zero123 import convert as convert_zero123
from threestudio_4d.diffusion.zero123.model import Zero123Model
from threestudio_4d.errors import UserError

HEADS = 2
SMALL = {
    "unet": {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": HEADS,
    },
    "vae": {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "layers_per_block": 1,
        "sample_size": 16,
    },
    "clip": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "image_size": 28,
        "patch_size": 14,
        "projection_dim": 16,
    },
}


def small_checkpoint(ema: bool = True, seed: int = 0) -> dict[str, torch.Tensor]:
    """A checkpoint in the original layout with random numbers, as the published one is built."""
    generator = torch.Generator().manual_seed(seed)
    model = zc.build_zero123(**SMALL, empty=True)
    shapes = {**zc.checkpoint_manifest(model, ema=False), **(zc.checkpoint_manifest(model) if ema else {})}
    state = {key: torch.randn(shape, generator=generator) * 0.1 for key, shape in shapes.items()}
    state["alphas_cumprod"] = model.alphas_cumprod.clone()
    state["betas"] = torch.zeros(1000)
    state["cond_stage_model.model.logit_scale"] = torch.zeros(())
    if ema:
        state["model_ema.decay"], state["model_ema.num_updates"] = torch.tensor(0.9999), torch.tensor(7)
    return state


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, torch.Tensor]:
    return small_checkpoint()


@pytest.fixture(scope="module")
def model(checkpoint) -> Zero123Model:
    model = zc.build_zero123(**SMALL, empty=True)
    assert zc.fill_from_checkpoint(model, checkpoint) is True
    return model


def ema_unet(checkpoint: dict) -> dict[str, torch.Tensor]:
    names = [key.removeprefix(zc.layout.UNET_PREFIX) for key in checkpoint if key.startswith(zc.layout.UNET_PREFIX)]
    return {name: checkpoint[zc.layout.ema_key(name)] for name in names}


def test_full_size_counts():
    manifest = zc.checkpoint_manifest(zc.build_zero123(empty=True))
    count = collections.Counter(key.split(".")[0] for key in manifest)
    assert count == {"model_ema": 686, "first_stage_model": 248, "cond_stage_model": 296, "cc_projection": 2}
    params = {
        prefix: sum(torch.Size(shape).numel() for key, shape in manifest.items() if key.startswith(prefix))
        for prefix in count
    }
    assert params == {
        "model_ema": 859_532_484,
        "first_stage_model": 83_653_863,
        "cond_stage_model": 303_966_208,
        "cc_projection": 593_664,
    }
    assert len(set(manifest)) == 1232


def test_every_key_and_shape_of_the_published_checkpoint(shared_data):
    path = shared_data.parent / "reference" / "zero123_ldm_keys.json"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    families = {key.split(" (")[0]: value for key, value in json.loads(path.read_text())["families"].items()}
    raw, ema = {}, {}
    for key, info in families["unet"].items():
        raw[zc.layout.UNET_PREFIX + key] = ema[info["ema_key"]] = tuple(info["shape"])
    for family, prefix in (("vae", zc.layout.VAE_PREFIX), ("clip visual", zc.layout.CLIP_VISUAL_PREFIX)):
        for key, info in families[family].items():
            raw[prefix + key] = ema[prefix + key] = tuple(info["shape"])
    for key, shape in families["camera projection"].items():
        raw[key] = ema[key] = tuple(shape)
    full = zc.build_zero123(empty=True)
    assert zc.checkpoint_manifest(full, ema=True) == ema
    assert zc.checkpoint_manifest(full, ema=False) == raw
    assert set(families["schedule buffers"]) | set(families["ema scalars"]) == zc.layout.NOT_NETWORKS
    sources = zc.checkpoint_sources(full, ema=False)
    for family, prefix, network in (("unet", zc.layout.UNET_PREFIX, "unet"), ("vae", zc.layout.VAE_PREFIX, "vae")):
        for key, info in families[family].items():
            assert sources[f"{network}.{info['diffusers']}"].key == prefix + key


def test_ema_names_have_no_dots():
    key = zc.layout.ema_key("input_blocks.1.0.in_layers.0.weight")
    assert key == "model_ema.diffusion_modelinput_blocks10in_layers0weight"


def test_the_unet_computes_what_the_original_does(model, checkpoint):
    x, t, context = torch.randn(2, 8, 8, 8), torch.tensor([3, 700]), torch.randn(2, 1, 16)
    expected = reference.unet(ema_unet(checkpoint), x, t, context, HEADS)
    torch.testing.assert_close(model.unet(x, t, context).sample, expected, atol=1e-4, rtol=1e-4)


def test_one_token_makes_queries_and_keys_irrelevant(model):
    x, t, context = torch.randn(1, 8, 8, 8), torch.tensor([100]), torch.randn(1, 1, 16)
    before = model.unet(x, t, context).sample
    saved = {key: value.clone() for key, value in model.unet.state_dict().items()}
    for key, value in model.unet.state_dict().items():
        if "attn2.to_q" in key or "attn2.to_k" in key:
            value.normal_()
    torch.testing.assert_close(model.unet(x, t, context).sample, before, atol=1e-5, rtol=1e-5)
    model.unet.load_state_dict(saved)


def test_the_autoencoder_computes_what_the_original_does(model, checkpoint):
    state = reference.strip(checkpoint, zc.layout.VAE_PREFIX)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    moments = model.vae.encode(images).latent_dist.parameters
    torch.testing.assert_close(moments, reference.vae_encode(state, images), atol=1e-4, rtol=1e-4)
    latents = torch.randn(2, 4, 8, 8)
    images = model.vae.decode(latents).sample
    torch.testing.assert_close(images, reference.vae_decode(state, latents), atol=1e-4, rtol=1e-4)


def test_the_image_encoder_computes_what_the_original_does(model, checkpoint):
    state = reference.strip(checkpoint, zc.layout.CLIP_VISUAL_PREFIX)
    state = {key: value * 5 if "c_fc" in key else value for key, value in state.items()}
    with torch.no_grad():
        for layer in model.image_encoder.vision_model.encoder.layers:
            for parameter in layer.mlp.fc1.parameters():
                parameter.mul_(5)
    pixels = torch.randn(2, 3, 28, 28)
    ours = model.image_encoder(pixels).image_embeds
    with torch.no_grad():
        for layer in model.image_encoder.vision_model.encoder.layers:
            for parameter in layer.mlp.fc1.parameters():
                parameter.div_(5)
    quick = reference.clip_embed(state, pixels, HEADS, lambda x: x * torch.sigmoid(1.702 * x))
    torch.testing.assert_close(ours, quick, atol=1e-4, rtol=1e-4)
    assert (ours - reference.clip_embed(state, pixels, HEADS, F.gelu)).abs().max() > 1e-3, "quick_gelu, not gelu"


def test_the_average_is_preferred_and_optional(checkpoint):
    raw_only = small_checkpoint(ema=False)
    model = zc.build_zero123(**SMALL, empty=True)
    assert zc.fill_from_checkpoint(model, raw_only) is False
    torch.testing.assert_close(model.unet.conv_in.weight, raw_only["model.diffusion_model.input_blocks.0.0.weight"])
    model = zc.build_zero123(**SMALL, empty=True)
    assert zc.fill_from_checkpoint(model, checkpoint) is True
    torch.testing.assert_close(model.unet.conv_in.weight, checkpoint["model_ema.diffusion_modelinput_blocks00weight"])
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"cc_projection.bias": None}, "not a complete Zero123 checkpoint: 1 of .* missing, such as cc_proj"),
        ({"model_ema.diffusion_modelout2bias": None}, "missing, such as model_ema.diffusion_modelout2bias"),
        ({"cc_projection.bias": torch.zeros(3)}, r"another architecture: 1 tensors .* \(3,\) instead of \(16,\)"),
        ({"first_stage_model.encoder.extra": torch.zeros(1)}, "no place in a Zero123, such as first_stage_model"),
        ({"alphas_cumprod": torch.ones(1000)}, "another noise schedule"),
    ],
)
def test_a_wrong_checkpoint_is_refused(checkpoint, change, message):
    state = {key: value for key, value in {**checkpoint, **change}.items() if value is not None}
    with pytest.raises(UserError, match=message):
        zc.fill_from_checkpoint(zc.build_zero123(**SMALL, empty=True), state)


class Callback:
    """Stands for the Lightning objects that an original checkpoint carries."""

    def __init__(self) -> None:
        self.best = [1, 2]


def test_lightning_file_round_trip(tmp_path, checkpoint, monkeypatch, capsys):
    path = tmp_path / "small.ckpt"
    torch.save({"state_dict": checkpoint, "callbacks": {Callback: Callback()}, "epoch": 3}, path)
    full = zc.build_zero123
    monkeypatch.setattr(zc, "build_zero123", lambda empty=False: full(**SMALL, empty=empty))
    model = zc.load_zero123_checkpoint(path)
    folder = tmp_path / "converted"
    convert_zero123.main([str(path), str(folder)])
    again = Zero123Model.load(folder)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert again.prediction_type == "epsilon"
    capsys.readouterr()
    assert convert_zero123.main([str(path), str(folder)]) == 2
    assert re.search("error: .*converted exists and is not empty", capsys.readouterr().err)
    (tmp_path / "not.ckpt").write_bytes(b"nonsense")
    assert convert_zero123.main([str(tmp_path / "not.ckpt"), str(tmp_path / "other")]) == 2
    assert "not.ckpt is not a checkpoint that can be read safely" in capsys.readouterr().err
