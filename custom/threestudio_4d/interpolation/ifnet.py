"""IFNet of RIFE v4.6: the frame between two frames, at any time between them.

RIFE ("Real-Time Intermediate Flow Estimation for Video Frame Interpolation", Huang et al., ECCV 2022) estimates, from
two frames and a time, where each pixel of the wanted frame comes from in both (two flows) and how to blend them (one
mask). Version 4.6 refines both from coarse to fine in four blocks of the same make and has no refinement network.

The layout and the parameter names are those of the published weights (``flownet.pkl``, 120 entries, 5,306,256
parameters); the RIFE project (hzwer/Practical-RIFE) and its weights are under the MIT licence. The code here is our
own.

Frames are channel-first ``[N, 3, H, W]`` in [0, 1] in this file.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

STRIDE = 32  # block 0 works at 1/8 of the resolution and halves it twice more
WIDTHS = (192, 128, 96, 64)
SCALES = (8.0, 4.0, 2.0, 1.0)
SLOPE = 0.2


def backward_warp(image: Tensor, flow: Tensor) -> Tensor:
    """Look every pixel of the result up in ``image`` at its own place plus ``flow``.

    Args:
        image: ``[N, C, H, W]``.
        flow: ``[N, 2, H, W]``, (x, y) displacement in pixels.

    Returns:
        ``[N, C, H, W]``: ``out[y, x] = image[y + flow_y, x + flow_x]``, bilinear; outside the image the border repeats.

    Example: a flow of (+1, 0) everywhere shifts the picture one pixel to the left.
    """
    height, width = image.shape[-2:]
    ys = torch.arange(height, device=flow.device, dtype=flow.dtype)
    xs = torch.arange(width, device=flow.device, dtype=flow.dtype)
    # grid_sample with align_corners=True puts -1 and 1 on the centres of the outermost pixels.
    grid_x = (xs[None, None, :] + flow[:, 0]) * (2.0 / max(width - 1, 1)) - 1.0
    grid_y = (ys[None, :, None] + flow[:, 1]) * (2.0 / max(height - 1, 1)) - 1.0
    grid = torch.stack([grid_x, grid_y], dim=-1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _resize(x: Tensor, factor: float) -> Tensor:
    if factor == 1.0:
        return x
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.LeakyReLU(SLOPE))


class ResConv(nn.Module):
    """``LeakyReLU(conv(x) * beta + x)`` with one learned ``beta`` a channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.beta = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(torch.addcmul(x, self.conv(x), self.beta), SLOPE)


class IFBlock(nn.Module):
    """One refinement step: from what is known at full resolution to a correction of flow and mask.

    The block sees its inputs at ``1 / scale`` of the resolution, halves them twice more and returns to full resolution.
    """

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.conv0 = nn.Sequential(_conv(inputs, channels // 2), _conv(channels // 2, channels))
        self.convblock = nn.Sequential(*(ResConv(channels) for _ in range(8)))
        self.lastconv = nn.Sequential(nn.ConvTranspose2d(channels, 24, 4, stride=2, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor, flow: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        """Correction of the flow and of the mask.

        Args:
            x: ``[N, C, H, W]`` frames (or warped frames), time and, after the first block, mask logits.
            flow: ``[N, 4, H, W]`` pixels, or None in the first block.
            scale: how much coarser than the frames this block works.

        Returns:
            ``[N, 4, H, W]`` in pixels of the frames, and ``[N, 1, H, W]`` logits; both in the dtype of ``x``.
        """
        dtype = x.dtype
        x = _resize(x, 1.0 / scale)
        if flow is not None:
            x = torch.cat([x, _resize(flow, 1.0 / scale) / scale], dim=1)
        features = self.convblock(self.conv0(x.to(self.lastconv[0].weight.dtype)))
        update = _resize(self.lastconv(features).to(dtype), scale)
        return update[:, :4] * scale, update[:, 4:5]


class IFNet(nn.Module):
    """RIFE v4.6. Half-precision parameters concern the convolutions; flows and warps keep the dtype of the frames."""

    def __init__(self) -> None:
        super().__init__()
        # Block 0 sees two frames and the time (7 channels); the others also the mask and the flow so far (8 + 4).
        for index, channels in enumerate(WIDTHS):
            setattr(self, f"block{index}", IFBlock(7 if index == 0 else 12, channels))

    def forward(self, first: Tensor, last: Tensor, timestep: Tensor, scales: Sequence[float] = SCALES) -> Tensor:
        """The frame at ``timestep``.

        Args:
            first: ``[N, C, H, W]`` in [0, 1], time 0. float32 (or float64), H and W multiples of 32. Motion is found in
                the first three channels; further ones (alpha) move with them.
            last: ``[N, C, H, W]``, time 1.
            timestep: ``[N]`` in [0, 1], one for each sample.
            scales: how much coarser than the frames each of the four blocks works; the published (8, 4, 2, 1).
                Smaller numbers look closer: (4, 2, 1, 0.5) treats the frames as if they were twice as large.

        Returns:
            ``[N, C, H, W]``.

        Raises:
            ValueError: for shapes that do not fit together or a side that no multiple of 32 fits.
        """
        if first.dim() != 4 or first.shape[1] < 3 or first.shape != last.shape:
            raise ValueError(
                f"expected two stacks of frames [N, 3 or more, H, W], got {tuple(first.shape)} and {tuple(last.shape)}"
            )
        if timestep.shape != first.shape[:1]:
            raise ValueError(f"expected one timestep a sample, [{first.shape[0]}], got {tuple(timestep.shape)}")
        if len(scales) != len(WIDTHS):
            raise ValueError(f"expected {len(WIDTHS)} scales, got {tuple(scales)}")
        if first.shape[2] % STRIDE or first.shape[3] % STRIDE:
            raise ValueError(
                f"height and width must be multiples of {STRIDE}, got {first.shape[2]} x {first.shape[3]}: pad them"
            )
        flow, mask = self._motion(first[:, :3], last[:, :3], timestep, scales)
        from_first, from_last = self._warp(first, last, flow)
        return torch.lerp(from_last, from_first, torch.sigmoid(mask))

    def _motion(self, first: Tensor, last: Tensor, timestep: Tensor, scales: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Flows ``[N, 4, H, W]`` to both frames and the logits ``[N, 1, H, W]`` of how much comes from the first."""
        time = timestep.to(first).view(-1, 1, 1, 1).expand(-1, 1, *first.shape[2:])
        flow, mask = self.block0(torch.cat([first, last, time], dim=1), None, scales[0])
        for index in range(1, len(WIDTHS)):
            known = torch.cat([*self._warp(first, last, flow), time, mask], dim=1)
            flow_update, mask_update = getattr(self, f"block{index}")(known, flow, scales[index])
            flow, mask = flow + flow_update, mask + mask_update
        return flow, mask

    @staticmethod
    def _warp(first: Tensor, last: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        return backward_warp(first, flow[:, :2]), backward_warp(last, flow[:, 2:4])
