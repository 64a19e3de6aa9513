"""The asymmetric U-Net of LGM: it ends at a coarser resolution than it starts from, and its views see each other.

Modules have the names of the published code, so that its weights load as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32
SKIP_SCALE = math.sqrt(0.5)


class SelfAttention(nn.Module):
    """Multi-head attention of tokens [B, T, C] to each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ViewAttention(nn.Module):
    """Every pixel of every view attends to all pixels of all views of its object. Pictures [B V, C, h, w]."""

    def __init__(self, width: int, heads: int, views: int) -> None:
        super().__init__()
        self.views = views
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-5)
        self.attn = SelfAttention(width, heads)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [B V, h w, C]
        tokens = self.attn(tokens.unflatten(0, (-1, self.views)).flatten(1, 2))
        seen = tokens.unflatten(1, (self.views, -1)).flatten(0, 1).transpose(1, 2).unflatten(2, (height, width))
        return (x + seen) * SKIP_SCALE


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, in_channels, eps=1e-5)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, out_channels, eps=1e-5)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return (hidden + self.shortcut(x)) * SKIP_SCALE


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention or by nothing.

    Args:
        widths: (channels in, channels out) of each block.
        attention: whether views attend to each other.
        heads, views: of the attention.
    """

    def __init__(self, widths: Sequence[tuple[int, int]], attention: bool, heads: int, views: int) -> None:
        super().__init__()
        self.nets = nn.ModuleList(ResidualBlock(before, after) for before, after in widths)
        self.attns = nn.ModuleList(
            ViewAttention(after, heads, views) if attention else nn.Identity() for _, after in widths
        )


class DownLevel(Level):
    """A level on the way down; ``downsample`` leads to the next one, if there is one."""

    def __init__(
        self, before: int, after: int, layers: int, last: bool, attention: bool, heads: int, views: int
    ) -> None:
        widths = [(before if layer == 0 else after, after) for layer in range(layers)]
        super().__init__(widths, attention, heads, views)
        self.downsample = None if last else nn.Conv2d(after, after, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The level's output, and everything that skips to the way up."""
        skips = []
        for net, attention in zip(self.nets, self.attns, strict=True):
            x = attention(net(x))
            skips.append(x)
        if self.downsample is not None:
            x = self.downsample(x)
            skips.append(x)
        return x, skips


class MiddleLevel(nn.Module):
    """Two residual blocks with attention between them."""

    def __init__(self, width: int, attention: bool, heads: int, views: int) -> None:
        super().__init__()
        self.nets = nn.ModuleList(ResidualBlock(width, width) for _ in range(2))
        self.attns = nn.ModuleList([ViewAttention(width, heads, views) if attention else nn.Identity()])

    def forward(self, x: Tensor) -> Tensor:
        return self.nets[1](self.attns[0](self.nets[0](x)))


class UpLevel(Level):
    """A level on the way up, with one block more than on the way down; ``upsample`` leads to the next, if any."""

    def __init__(
        self, before: int, skip: int, after: int, layers: int, last: bool, attention: bool, heads: int, views: int
    ) -> None:
        widths = [
            ((before if layer == 0 else after) + (skip if layer == layers - 1 else after), after)
            for layer in range(layers)
        ]
        super().__init__(widths, attention, heads, views)
        self.upsample = None if last else nn.Conv2d(after, after, 3, padding=1)

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """``skips`` loses what is used of its end."""
        for net, attention in zip(self.nets, self.attns, strict=True):
            x = attention(net(torch.cat([x, skips.pop()], 1)))
        if self.upsample is not None:
            x = self.upsample(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class AsymmetricUNet(nn.Module):
    """[B V, in, S, S] -> [B V, out, s, s] with s = S 2^(up levels - down levels).

    Args:
        in_channels, out_channels: of the pictures.
        down_channels, up_channels: of the levels, from the finest down and from the coarsest up; a level on the way up
            is as wide as the one of its resolution on the way down.
        down_attention, up_attention: at which levels views see each other.
        mid_attention: whether they do in the middle.
        layers_per_block: residual blocks of a level on the way down.
        attention_heads: of every attention.
        views: V.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        down_channels: Sequence[int],
        down_attention: Sequence[bool],
        mid_attention: bool,
        up_channels: Sequence[int],
        up_attention: Sequence[bool],
        layers_per_block: int,
        attention_heads: int,
        views: int,
    ) -> None:
        super().__init__()
        common = {"heads": attention_heads, "views": views}
        self.conv_in = nn.Conv2d(in_channels, down_channels[0], 3, padding=1)
        before = [down_channels[0], *down_channels[:-1]]
        last = len(down_channels) - 1
        self.down_blocks = nn.ModuleList(
            DownLevel(before[i], down_channels[i], layers_per_block, i == last, down_attention[i], **common)
            for i in range(last + 1)
        )
        self.mid_block = MiddleLevel(down_channels[-1], mid_attention, **common)
        before = [up_channels[0], *up_channels[:-1]]
        last = len(up_channels) - 1
        finer = [down_channels[max(-2 - i, -len(down_channels))] for i in range(last + 1)]
        self.up_blocks = nn.ModuleList(
            UpLevel(before[i], finer[i], up_channels[i], layers_per_block + 1, i == last, up_attention[i], **common)
            for i in range(last + 1)
        )
        self.norm_out = nn.GroupNorm(GROUPS, up_channels[-1], eps=1e-5)
        self.conv_out = nn.Conv2d(up_channels[-1], out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        skips = [x]
        for level in self.down_blocks:
            x, more = level(x)
            skips += more
        x = self.mid_block(x)
        for level in self.up_blocks:
            x = level(x, skips)
        with torch.autocast(x.device.type, enabled=False):  # positions need more than the 8 bits of bfloat16
            x = x.to(self.conv_out.weight.dtype)
            return self.conv_out(F.silu(self.norm_out(x)))
