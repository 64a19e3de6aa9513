"""``rife-ncnn-interpolator``: RIFE through ``rife-ncnn-vulkan-python``, for those who have it and its models.

Neither the package nor its ``-tntwise`` variant carries models: they come with the releases of nihui/rife-ncnn-vulkan,
as folders such as ``rife-v4.6`` with ``flownet.param`` and ``flownet.bin``. Frames pass through 8-bit images and no
gradient comes back, so ``end_grad`` of the consistency loss has no effect with this backend.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from PIL import Image

import threestudio
from threestudio.utils.base import BaseObject
from threestudio.utils.typing import Float, Tensor

from ..errors import UserError
from ..paths import find_file
from ..values import Count, Text
from .rife import check_frames, timestep_table

_ANY_TIME = ("rife-v4", "rife4", "rife-4")  # the package recognises models of version 4 by these parts of the path


@threestudio.register("rife-ncnn-interpolator")
class RifeNcnnInterpolator(BaseObject):
    """Draws frames one by one with ncnn, on the CPU or through Vulkan."""

    @dataclass
    class Config(BaseObject.Config):
        model: Text = "load/rife/rife-v4.6"
        """Folder with ``flownet.param`` and ``flownet.bin``; named ``…rife-v4…``, or only time 1/2 can be drawn."""
        gpuid: Annotated[int, Ge(-1)] = -1
        """Vulkan device, or -1 for the CPU."""
        num_threads: Count = 1

    cfg: Config

    def configure(self) -> None:
        folder = find_file(self.cfg.model)
        if folder is None or not folder.is_dir():
            raise UserError(
                f"no models for rife-ncnn-interpolator at {Path(self.cfg.model).absolute()}: put a model folder of "
                "rife-ncnn-vulkan there (rife-v4.6 with flownet.param and flownet.bin), or use rife-interpolator"
            )
        absent = [name for name in ("flownet.param", "flownet.bin") if not (folder / name).is_file()]
        if absent:
            raise UserError(f"the model folder {folder} lacks {' and '.join(absent)}")
        self._any_time = any(mark in str(folder) for mark in _ANY_TIME)
        self._rife = _package().Rife(gpuid=self.cfg.gpuid, model=str(folder), num_threads=self.cfg.num_threads)

    @torch.no_grad()
    def __call__(
        self,
        first: Float[Tensor, "B H W 3"],
        last: Float[Tensor, "B H W 3"],
        timesteps: Tensor | Sequence[float],
    ) -> Float[Tensor, "B K H W 3"]:
        """As :class:`~.rife.RifeInterpolator`, quantised to 8 bits and without gradient.

        Raises:
            UserError: for a time other than 1/2 with models before version 4, which know only the middle.
        """
        check_frames(first, last)
        table = timestep_table(timesteps, first.shape[0], torch.device("cpu")).tolist()
        if not self._any_time and any(time != 0.5 for row in table for time in row):
            raise UserError(
                f"the models in {self.cfg.model} draw only the middle frame (time 1/2); runs of more than 3 images "
                "need version 4 models, in a folder whose name contains rife-v4"
            )
        drawn = [
            [_to_array(self._rife.process(left, right, timestep=time)) for time in row]
            for left, right, row in zip(_to_images(first), _to_images(last), table, strict=True)
        ]
        return torch.from_numpy(np.asarray(drawn)).to(first)


def _package() -> Any:
    try:
        return importlib.import_module("rife_ncnn_vulkan_python")
    except ImportError as error:
        raise UserError(
            "rife-ncnn-interpolator needs the package rife-ncnn-vulkan-python or rife-ncnn-vulkan-python-tntwise and "
            f"the system libraries of Vulkan (libvulkan1): {error}. rife-interpolator needs neither."
        ) from error


def _to_images(frames: Tensor) -> list[Image.Image]:
    values = (frames.clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()
    return [Image.fromarray(np.ascontiguousarray(value)) for value in values]


def _to_array(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0
