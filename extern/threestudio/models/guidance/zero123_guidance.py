"""``zero123-guidance``: upstream's name and keys, for one picture, over the extension's guidance for clips."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from threestudio import register
from threestudio.utils.errors import UserError
from threestudio.utils.values import Count, Positive
from threestudio_4d.data.picture_file import read_picture
from threestudio_4d.guidance.zero123_guidance import Zero123GuidanceT
from threestudio_4d.values import Schedule

__all__ = ["Zero123Guidance"]


@register("zero123-guidance")
class Zero123Guidance(Zero123GuidanceT):
    """Score distillation from a Zero123 that is shown one picture, ``cond_image_path``.

    ``pretrained_config``, ``vram_O`` and ``max_items_eval`` have no effect: the architecture is known, and the decoder
    is small.
    """

    @dataclass
    class Config(Zero123GuidanceT.Config):
        pretrained_model_name_or_path: str = "load/zero123/105000.ckpt"
        pretrained_config: str = "load/zero123/sd-objaverse-finetune-c_concat-256.yaml"
        vram_O: bool = True
        cond_image_path: str = "load/images/hamburger_rgba.png"
        cond_camera_distance: Positive = 1.2
        guidance_scale: Annotated[Any, Schedule()] = 5.0
        half_precision_weights: bool = False
        min_step_percent: Annotated[Any, Schedule(0, 1)] = 0.02
        max_items_eval: Count = 4

    cfg: Config

    def configure(self, *args: Any, **kwargs: Any) -> None:
        super().configure(*args, **kwargs)
        self.prepare_embeddings(self.cfg.cond_image_path)

    def prepare_embeddings(self, image_path: str) -> None:
        """Encode the picture, on white."""
        path = Path(image_path)
        if not path.is_file():
            raise UserError(f"guidance.cond_image_path: there is no picture {path}.")
        picture = torch.from_numpy(read_picture(path).astype(np.float32) / 255)
        if picture.shape[-1] == 4:
            alpha = picture[..., 3:]
            picture = picture[..., :3] * alpha + 1 - alpha
        self.prepare(picture[None])

    def __call__(
        self,
        rgb: Tensor,
        elevation: Tensor,
        azimuth: Tensor,
        camera_distances: Tensor,
        rgb_as_latents: bool = False,
        guidance_eval: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """``loss_sds``, ``grad_norm``, ``min_step``, ``max_step`` of renders [B, H, W, 3]; the rest of a batch is
        ignored.
        """
        if rgb_as_latents:
            raise ValueError("zero123-guidance of this host takes pictures, not latents")
        frames = torch.zeros(len(rgb), dtype=torch.long)
        return super().__call__(
            rgb, elevation, azimuth, camera_distances, frame_indices=frames, guidance_eval=guidance_eval
        )
