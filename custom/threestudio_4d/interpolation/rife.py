"""``rife-interpolator``: RIFE v4.6 in plain torch, on any device, at any time, for any resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

import threestudio
from threestudio.utils.base import BaseObject
from threestudio.utils.typing import Float, Tensor

from ..errors import UserError
from ..paths import fetch_command, find_file
from ..values import Text, Whole
from .ifnet import STRIDE, IFNet
from .weights import read_state


def timestep_table(timesteps: Tensor | Sequence[float], batch: int, device: torch.device) -> Tensor:
    """``[B, K]`` float32 from a list of K times, a tensor ``[K]``, or a tensor ``[B, K]``; each in [0, 1]."""
    table = torch.as_tensor(timesteps, dtype=torch.float32, device=device)
    if table.dim() == 1:
        table = table.expand(batch, -1)
    if table.dim() != 2 or table.shape[0] != batch or table.shape[1] == 0:
        raise ValueError(f"expected timesteps [K] or [{batch}, K], got {tuple(table.shape)}")
    return table


def check_frames(first: Tensor, last: Tensor, more_channels: bool = False) -> None:
    """Both ``[B, H, W, 3]`` (or with more channels), alike in shape."""
    channels = first.shape[-1] if first.dim() == 4 else 0
    if first.shape != last.shape or channels < 3 or (channels > 3 and not more_channels):
        wanted = "3 or more" if more_channels else "3"
        raise ValueError(
            f"expected two batches of frames [B, H, W, {wanted}], got {tuple(first.shape)} and {tuple(last.shape)}"
        )


@threestudio.register("rife-interpolator")
class RifeInterpolator(BaseObject):
    """Draws frames between two frames. Differentiable in the frames; its own parameters are frozen.

    Small frames are enlarged before they are shown to the network and reduced afterwards. RIFE was trained on video of
    hundreds of pixels: on a real clip reduced to 64 x 64 it draws at 28.8 dB as it is and at 32.2 dB when the frames
    are doubled first (``benchmarks/rife_quality.py``).
    """

    @dataclass
    class Config(BaseObject.Config):
        weights: Text = "load/rife/flownet.safetensors"
        """A ``.safetensors`` file or a published ``flownet.pkl`` of RIFE v4.6."""
        min_size: Whole = 128
        """Frames with a shorter side below this are enlarged by a whole factor to reach it; 0: never, as published."""
        half_precision_weights: bool = False
        """Run the convolutions in float16 on CUDA. Flows and warps stay in float32."""

    cfg: Config

    def configure(self) -> None:
        self.network = IFNet()
        self.network.load_state_dict(self._read_weights(), strict=True)
        self.network.eval().requires_grad_(False)
        self._place(torch.device(self.device))

    def _read_weights(self) -> dict[str, Tensor]:
        path = find_file(self.cfg.weights)
        if path is None:
            raise UserError(
                f"no RIFE weights at {Path(self.cfg.weights).absolute()}. Fetch them (21 MB, MIT licence) with\n"
                f"    {fetch_command('rife')}\n"
                "or point `weights` of the rife-interpolator at a flownet.pkl of RIFE v4.6."
            )
        return read_state(path)

    def _place(self, device: torch.device) -> None:
        half = self.cfg.half_precision_weights and device.type == "cuda"
        self.network.to(device=device, dtype=torch.float16 if half else torch.float32)
        self._network_device = device

    def __call__(
        self,
        first: Float[Tensor, "B H W C"],
        last: Float[Tensor, "B H W C"],
        timesteps: Tensor | Sequence[float],
    ) -> Float[Tensor, "B K H W C"]:
        """Frames at the wanted times.

        Args:
            first: ``[B, H, W, 3]`` in [0, 1], time 0; any height and width. Channels after the third (alpha) move with
                what is seen in the first three.
            last: alike, time 1.
            timesteps: K times in [0, 1] for all, or ``[B, K]``, a row for each pair.

        Returns:
            ``[B, K, H, W, C]`` in the dtype of ``first``. All B * K frames are drawn in one pass.
        """
        check_frames(first, last, more_channels=True)
        batch, height, width, channels = first.shape
        if first.device != self._network_device:
            self._place(first.device)
        table = timestep_table(timesteps, batch, first.device)
        with torch.autocast(first.device.type, enabled=False):
            ends = torch.cat([first, last]).permute(0, 3, 1, 2).float()
            ends = self._enlarge(ends)
            inner_height, inner_width = ends.shape[-2:]
            ends = F.pad(ends, (0, -inner_width % STRIDE, 0, -inner_height % STRIDE), mode="replicate")
            left, right = (x.repeat_interleave(table.shape[1], dim=0) for x in ends.split(batch))
            drawn = self.network(left, right, table.reshape(-1))[..., :inner_height, :inner_width]
            if inner_height != height:
                drawn = F.avg_pool2d(drawn, inner_height // height)
        return drawn.permute(0, 2, 3, 1).reshape(batch, -1, height, width, channels).to(first.dtype)

    def _enlarge(self, frames: Tensor) -> Tensor:
        factor = -(-self.cfg.min_size // min(frames.shape[-2:]))
        if factor <= 1:
            return frames
        return F.interpolate(frames, scale_factor=factor, mode="bicubic", align_corners=False)
