"""The original layout's own arithmetic, written from its key names: what a converted network must reproduce.

Plain functions over a dictionary of tensors with the original names (no prefix). Only for the tests; small and slow.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def strip(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def linear(s: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, s[name + ".weight"], s.get(name + ".bias"))


def conv(s: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = s[name + ".weight"]
    return F.conv2d(x, weight, s[name + ".bias"], stride=stride, padding=weight.shape[-1] // 2)


def norm(s: State, name: str, x: Tensor, eps: float, groups: int = 32) -> Tensor:
    return F.group_norm(x, groups, s[name + ".weight"], s[name + ".bias"], eps)


def layer_norm(s: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], s[name + ".weight"], s[name + ".bias"])


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    split = [t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v)]
    scores = split[0] @ split[1].transpose(-1, -2) / math.sqrt(split[0].shape[-1])
    return (scores.softmax(-1) @ split[2]).transpose(1, 2).flatten(2)


def clip_embed(s: State, pixels: Tensor, heads: int, activation) -> Tensor:
    """Image embedding ``[N, D]`` of an OpenAI vision tower."""
    weight = s["conv1.weight"]
    x = F.conv2d(pixels, weight, stride=weight.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([s["class_embedding"].expand(len(x), 1, -1), x], dim=1) + s["positional_embedding"]
    x = layer_norm(s, "ln_pre", x)
    layer = 0
    while f"transformer.resblocks.{layer}.ln_1.weight" in s:
        b = f"transformer.resblocks.{layer}"
        y = layer_norm(s, f"{b}.ln_1", x)
        q, k, v = F.linear(y, s[f"{b}.attn.in_proj_weight"], s[f"{b}.attn.in_proj_bias"]).chunk(3, dim=-1)
        x = x + linear(s, f"{b}.attn.out_proj", attention(q, k, v, heads))
        x = x + linear(s, f"{b}.mlp.c_proj", activation(linear(s, f"{b}.mlp.c_fc", layer_norm(s, f"{b}.ln_2", x))))
        layer += 1
    return layer_norm(s, "ln_post", x[:, 0]) @ s["proj"]


def vae_block(s: State, b: str, x: Tensor) -> Tensor:
    y = conv(s, f"{b}.conv1", F.silu(norm(s, f"{b}.norm1", x, 1e-6)))
    y = conv(s, f"{b}.conv2", F.silu(norm(s, f"{b}.norm2", y, 1e-6)))
    return y + (conv(s, f"{b}.nin_shortcut", x) if f"{b}.nin_shortcut.weight" in s else x)


def vae_middle(s: State, side: str, x: Tensor) -> Tensor:
    x = vae_block(s, f"{side}.mid.block_1", x)
    b, shape = f"{side}.mid.attn_1", x.shape
    y = norm(s, f"{b}.norm", x, 1e-6)
    q, k, v = (conv(s, f"{b}.{part}", y).flatten(2).transpose(1, 2) for part in "qkv")
    x = x + conv(s, f"{b}.proj_out", attention(q, k, v, 1).transpose(1, 2).reshape(shape))
    return vae_block(s, f"{side}.mid.block_2", x)


def vae_encode(s: State, images: Tensor) -> Tensor:
    """Moments ``[N, 2 C, h, w]`` of images in [-1, 1]."""
    x, level = conv(s, "encoder.conv_in", images), 0
    while f"encoder.down.{level}.block.0.norm1.weight" in s:
        block = 0
        while f"encoder.down.{level}.block.{block}.norm1.weight" in s:
            x = vae_block(s, f"encoder.down.{level}.block.{block}", x)
            block += 1
        if f"encoder.down.{level}.downsample.conv.weight" in s:
            name = f"encoder.down.{level}.downsample.conv"
            x = F.conv2d(F.pad(x, (0, 1, 0, 1)), s[name + ".weight"], s[name + ".bias"], stride=2)
        level += 1
    x = vae_middle(s, "encoder", x)
    return conv(s, "quant_conv", conv(s, "encoder.conv_out", F.silu(norm(s, "encoder.norm_out", x, 1e-6))))


def vae_decode(s: State, latents: Tensor) -> Tensor:
    """Images in [-1, 1] of unscaled latents."""
    x = vae_middle(s, "decoder", conv(s, "decoder.conv_in", conv(s, "post_quant_conv", latents)))
    levels = 0
    while f"decoder.up.{levels}.block.0.norm1.weight" in s:
        levels += 1
    for level in reversed(range(levels)):
        block = 0
        while f"decoder.up.{level}.block.{block}.norm1.weight" in s:
            x = vae_block(s, f"decoder.up.{level}.block.{block}", x)
            block += 1
        if f"decoder.up.{level}.upsample.conv.weight" in s:
            x = conv(s, f"decoder.up.{level}.upsample.conv", F.interpolate(x, scale_factor=2.0, mode="nearest"))
    return conv(s, "decoder.conv_out", F.silu(norm(s, "decoder.norm_out", x, 1e-6)))


def unet_res(s: State, b: str, x: Tensor, embedding: Tensor) -> Tensor:
    y = conv(s, f"{b}.in_layers.2", F.silu(norm(s, f"{b}.in_layers.0", x, 1e-5)))
    y = y + linear(s, f"{b}.emb_layers.1", F.silu(embedding))[:, :, None, None]
    y = conv(s, f"{b}.out_layers.3", F.silu(norm(s, f"{b}.out_layers.0", y, 1e-5)))
    return y + (conv(s, f"{b}.skip_connection", x) if f"{b}.skip_connection.weight" in s else x)


def project(s: State, name: str, x: Tensor) -> Tensor:
    """``[N, C, h, w]`` through a 1x1 convolution (Stable Diffusion 1) or a matrix (2)."""
    if s[name + ".weight"].ndim == 4:
        return conv(s, name, x)
    return linear(s, name, x.movedim(1, -1)).movedim(-1, 1)


def unet_transformer(s: State, b: str, x: Tensor, context: Tensor, heads: int, views: int = 1) -> Tensor:
    t = f"{b}.transformer_blocks.0"
    y = project(s, f"{b}.proj_in", norm(s, f"{b}.norm", x, 1e-6)).flatten(2).transpose(1, 2)
    for part, other in (("1", None), ("2", context)):
        z = layer_norm(s, f"{t}.norm{part}", y)
        source = z if other is None else other
        q, k, v = (linear(s, f"{t}.attn{part}.to_{n}", z if n == "q" else source) for n in "qkv")
        if other is None:  # MVDream: tokens of all views of an object in one sequence
            q, k, v = (tokens.reshape(-1, views * tokens.shape[1], tokens.shape[2]) for tokens in (q, k, v))
        y = y + linear(s, f"{t}.attn{part}.to_out.0", attention(q, k, v, heads).reshape(y.shape))
    value, gate = linear(s, f"{t}.ff.net.0.proj", layer_norm(s, f"{t}.norm3", y)).chunk(2, dim=-1)
    y = y + linear(s, f"{t}.ff.net.2", value * F.gelu(gate))
    return x + project(s, f"{b}.proj_out", y.transpose(1, 2).reshape(x.shape))


def unet_section(s: State, b: str, x: Tensor, embedding: Tensor, context: Tensor, heads: int, views: int = 1) -> Tensor:
    """One numbered section of the original: its members in order, each known by the tensors it has."""
    for part in range(3):
        name = f"{b}.{part}"
        if f"{name}.in_layers.0.weight" in s:
            x = unet_res(s, name, x, embedding)
        elif f"{name}.norm.weight" in s:
            x = unet_transformer(s, name, x, context, heads, views)
        elif f"{name}.op.weight" in s:
            x = conv(s, f"{name}.op", x, stride=2)
        elif f"{name}.conv.weight" in s:
            x = conv(s, f"{name}.conv", F.interpolate(x, scale_factor=2.0, mode="nearest"))
        elif f"{name}.weight" in s:
            x = conv(s, name, x)
    return x


def section_numbers(s: State, side: str) -> list[int]:
    return sorted({int(key.split(".")[1]) for key in s if key.startswith(side)})


def unet(
    s: State, x: Tensor, t: Tensor, context: Tensor, heads: int, extra: Tensor | float = 0.0, views: int = 1
) -> Tensor:
    """Network output ``[N, C, h, w]``; ``extra [N, E]`` is added to the embedding of the timestep."""
    width = s["time_embed.0.weight"].shape[1]
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(width // 2) / (width // 2))
    angles = t[:, None].float() * frequencies
    embedding = linear(s, "time_embed.0", torch.cat([angles.cos(), angles.sin()], dim=-1))
    embedding = linear(s, "time_embed.2", F.silu(embedding)) + extra
    skips = []
    for number in section_numbers(s, "input_blocks"):
        x = unet_section(s, f"input_blocks.{number}", x, embedding, context, heads, views)
        skips.append(x)
    x = unet_section(s, "middle_block", x, embedding, context, heads, views)
    for number in section_numbers(s, "output_blocks"):
        x = torch.cat([x, skips.pop()], 1)
        x = unet_section(s, f"output_blocks.{number}", x, embedding, context, heads, views)
    return conv(s, "out.2", F.silu(norm(s, "out.0", x, 1e-5)))
