"""The converter of original MVDream checkpoints: keys and shapes, the numbers, strictness."""

import collections
import json
import re

import ldm_reference as reference
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tiny_text import tiny_text

from threestudio_4d.diffusion.mvdream import checkpoint as mc
from threestudio_4d.diffusion.mvdream import convert as convert_mvdream
from threestudio_4d.diffusion.mvdream.model import MVDreamModel
from threestudio_4d.diffusion.text import save_tokenizer
from threestudio_4d.errors import UserError
from threestudio_4d.guidance import mvdream_guidance
from threestudio_4d.guidance.mvdream_guidance import load_mvdream

HEADS = 2
UNET = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": HEADS,
}
VAE = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "sample_size": 16,
}
TEXT = {
    "vocab_size": 600,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 12,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def small_checkpoint(seed: int = 0) -> dict[str, torch.Tensor]:
    """A checkpoint in the original layout with random numbers; its text tower has one layer more than is read."""
    generator = torch.Generator().manual_seed(seed)
    model, tower = mc.build_mvdream(UNET, VAE, empty=True), mc.build_text_tower(TEXT, empty=True)
    shapes = mc.checkpoint_manifest(model, tower)
    prefix = mc.layout.CLIP_PREFIX
    last = {key: shape for key, shape in shapes.items() if key.startswith(f"{prefix}transformer.resblocks.1.")}
    shapes |= {key.replace("resblocks.1.", "resblocks.2."): shape for key, shape in last.items()}
    shapes |= {f"{prefix}text_projection": (32, 32), f"{prefix}logit_scale": ()}
    state = {key: torch.randn(shape, generator=generator) * 0.1 for key, shape in shapes.items()}
    state["alphas_cumprod"] = model.alphas_cumprod.clone()
    state["sqrt_alphas_cumprod"] = torch.zeros(1000)
    return state


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, torch.Tensor]:
    return small_checkpoint()


@pytest.fixture(scope="module")
def model(checkpoint) -> MVDreamModel:
    model = mc.build_mvdream(UNET, VAE, empty=True)
    mc.fill_from_checkpoint(model, checkpoint)
    return model


def test_keys_and_shapes_of_the_published_size():
    """What the original configuration builds: Stable Diffusion 2's tensors, four of camera_embed, 23 text layers."""
    manifest = mc.checkpoint_manifest(mc.build_mvdream(empty=True), mc.build_text_tower(empty=True))
    prefixes = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.model.")
    count = collections.Counter(next(prefix for prefix in prefixes if key.startswith(prefix)) for key in manifest)
    assert count == {prefixes[0]: 686 + 4, prefixes[1]: 248, prefixes[2]: 23 * 12 + 4}
    numbers = {p: sum(torch.Size(s).numel() for k, s in manifest.items() if k.startswith(p)) for p in prefixes}
    # Stable Diffusion 2's UNet has 865,910,724 parameters; the camera's MLP 16 -> 1280 -> 1280 comes on top.
    assert numbers[prefixes[0]] == 865_910_724 + (16 * 1280 + 1280) + (1280 * 1280 + 1280)
    assert numbers[prefixes[1]] == 83_653_863
    assert numbers[prefixes[2]] == 340_387_840
    for key, shape in {
        "model.diffusion_model.camera_embed.0.weight": (1280, 16),
        "model.diffusion_model.camera_embed.2.weight": (1280, 1280),
        "model.diffusion_model.input_blocks.1.1.proj_in.weight": (320, 320),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight": (1280, 1280),
        "model.diffusion_model.output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
        "cond_stage_model.model.token_embedding.weight": (49408, 1024),
        "cond_stage_model.model.positional_embedding": (77, 1024),
        "cond_stage_model.model.transformer.resblocks.22.attn.in_proj_weight": (3072, 1024),
        "cond_stage_model.model.transformer.resblocks.22.mlp.c_fc.bias": (4096,),
        "cond_stage_model.model.ln_final.weight": (1024,),
    }.items():
        assert manifest[key] == shape, key


def original_unet(state, x, t, context, camera):
    """The original arithmetic: the camera's MLP added to the embedding, attn1 over the tokens of all views."""
    state = reference.strip(state, mc.layout.UNET_PREFIX)
    hidden = F.silu(reference.linear(state, "camera_embed.0", camera))
    return reference.unet(state, x, t, context, HEADS, extra=reference.linear(state, "camera_embed.2", hidden), views=4)


def test_the_unet_computes_what_the_original_does(model, checkpoint):
    x, t = torch.randn(8, 4, 8, 8), torch.tensor([3, 700]).repeat_interleave(4)
    context, camera = torch.randn(8, 5, 32), torch.randn(8, 16)
    expected = original_unet(checkpoint, x, t, context, camera)
    torch.testing.assert_close(model.denoise(x, t, context, camera), expected, atol=1e-4, rtol=1e-4)


def test_the_autoencoder_computes_what_the_original_does(model, checkpoint):
    state = reference.strip(checkpoint, mc.layout.VAE_PREFIX)
    images = torch.rand(2, 3, 16, 16)
    expected = reference.vae_encode(state, images * 2 - 1)[:, :4] * 0.18215
    torch.testing.assert_close(model.encode(images, sample=False), expected, atol=1e-4, rtol=1e-4)


def test_the_text_tower_computes_what_the_original_does(checkpoint):
    """All layers but the last of the file, then the final norm, with exact GELU."""
    tower = mc.build_text_tower(TEXT, empty=True)
    mc.fill_text_tower(tower, checkpoint)
    ids = torch.randint(3, 600, (2, 12))
    s = reference.strip(checkpoint, mc.layout.CLIP_PREFIX)
    x = s["token_embedding.weight"][ids] + s["positional_embedding"]
    mask = torch.full((12, 12), -torch.inf).triu(1)
    for layer in range(2):
        b = f"transformer.resblocks.{layer}"
        y = reference.layer_norm(s, f"{b}.ln_1", x)
        q, k, v = F.linear(y, s[f"{b}.attn.in_proj_weight"], s[f"{b}.attn.in_proj_bias"]).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (q, k, v))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + mask).softmax(-1)
        x = x + reference.linear(s, f"{b}.attn.out_proj", (weights @ v).transpose(1, 2).flatten(2))
        y = F.gelu(reference.linear(s, f"{b}.mlp.c_fc", reference.layer_norm(s, f"{b}.ln_2", x)))
        x = x + reference.linear(s, f"{b}.mlp.c_proj", y)
    expected = reference.layer_norm(s, "ln_final", x)
    torch.testing.assert_close(tower(input_ids=ids).last_hidden_state, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"model.diffusion_model.camera_embed.2.bias": None},
            "complete MVDream checkpoint: 1 of .*camera_embed.2.bias",
        ),
        (
            {"model.diffusion_model.camera_embed.0.weight": torch.zeros(128, 12)},
            r"other shapes, .* \(128, 12\) instead",
        ),
        ({"model.diffusion_model.extra": torch.zeros(1)}, "no place in a MVDream, such as model.diffusion_model.extra"),
        ({"alphas_cumprod": torch.ones(1000)}, "another noise schedule than MVDream's"),
    ],
)
def test_a_wrong_checkpoint_is_refused(checkpoint, change, message):
    state = {key: value for key, value in {**checkpoint, **change}.items() if value is not None}
    with pytest.raises(UserError, match=message):
        mc.fill_from_checkpoint(mc.build_mvdream(UNET, VAE, empty=True), state)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ln_final.bias": None}, "1 of .* missing, such as cond_stage_model.model.ln_final.bias"),
        ({"visual.proj": torch.zeros(1)}, "no place in a MVDream, such as cond_stage_model.model.visual.proj"),
    ],
)
def test_a_wrong_text_tower_is_refused(checkpoint, change, message):
    change = {mc.layout.CLIP_PREFIX + key: value for key, value in change.items()}
    state = {key: value for key, value in {**checkpoint, **change}.items() if value is not None}
    with pytest.raises(UserError, match=message):
        mc.fill_text_tower(mc.build_text_tower(TEXT, empty=True), state)


def test_a_folder_whose_unet_keeps_the_original_names(tmp_path, checkpoint, model, monkeypatch):
    model.save(tmp_path / "prior", dtype=torch.float32)
    unet = tmp_path / "prior" / "unet"
    for path in unet.iterdir():
        path.unlink()
    state = {key: value.contiguous() for key, value in reference.strip(checkpoint, mc.layout.UNET_PREFIX).items()}
    save_file(state, unet / "diffusion_pytorch_model.safetensors")
    (unet / "config.json").write_text(json.dumps({"_class_name": "MultiViewUNetModel", "camera_dim": 16}))
    full = mc.load_folder_with_original_unet
    monkeypatch.setattr(mvdream_guidance, "load_folder_with_original_unet", lambda *a, **k: full(*a, **k, unet=UNET))
    again = load_mvdream(str(tmp_path / "prior"))
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    save_file(state | {"ip_embed.weight": torch.zeros(1)}, unet / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match="1 tensors have no place in a MVDream, such as ip_embed.weight"):
        load_mvdream(str(tmp_path / "prior"))


def test_converting_a_file(tmp_path, checkpoint, model, monkeypatch, capsys):
    """From a file to a folder that reads sentences; the file alone serves a guidance, and says what it cannot do."""
    path, folder, tokenizer = tmp_path / "small.pt", tmp_path / "converted", tmp_path / "tokenizer"
    torch.save(checkpoint, path)
    save_tokenizer(tiny_text().tokenizer, tokenizer)
    full, tower = mc.build_mvdream, mc.build_text_tower
    for module in (mc, convert_mvdream):
        monkeypatch.setattr(module, "build_mvdream", lambda empty=False: full(UNET, VAE, empty=empty))
    monkeypatch.setattr(convert_mvdream, "build_text_tower", lambda empty=False: tower(TEXT, empty=empty))
    convert_mvdream.main([str(path), str(folder), "--tokenizer", str(tokenizer)])
    again = load_mvdream(str(folder), text=True)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert (again.prediction_type, again.views) == ("epsilon", 4)
    assert again.embed(["a fox", ""]).shape == (2, 12, 32)
    direct = load_mvdream(str(path))
    assert torch.equal(direct.unet.conv_in.weight, model.unet.conv_in.weight)
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_mvdream(str(path), text=True)
    capsys.readouterr()
    assert convert_mvdream.main([str(path), str(folder)]) == 2
    assert re.search("error: .*converted exists and is not empty", capsys.readouterr().err)
