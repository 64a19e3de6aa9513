"""``stable-diffusion-vsd-guidance``: upstream's name and keys over the extension's ``vsd-guidance``."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from threestudio import register
from threestudio.models.guidance.stable_diffusion_guidance import anneal_timesteps, check_keys, refuse_perp_neg
from threestudio.models.prompt_processors.base import PromptProcessorOutput
from threestudio.utils.values import Count
from threestudio_4d.guidance.vsd_guidance import VSDGuidance

__all__ = ["StableDiffusionVSDGuidance"]


@register("stable-diffusion-vsd-guidance")
class StableDiffusionVSDGuidance(VSDGuidance):
    """Variational score distillation with Stable Diffusion."""

    @dataclass
    class Config(VSDGuidance.Config):
        pretrained_model_name_or_path: str = "stabilityai/stable-diffusion-2-1-base"
        pretrained_model_name_or_path_lora: str | None = "stabilityai/stable-diffusion-2-1"
        enable_memory_efficient_attention: bool = False
        enable_sequential_cpu_offload: bool = False
        enable_attention_slicing: bool = False
        enable_channels_last_format: bool = False
        sqrt_anneal: bool = False
        trainer_max_steps: Count = 25000
        use_img_loss: bool = False

    cfg: Config

    def configure(self, *args: Any, **kwargs: Any) -> None:
        check_keys(self.cfg, "stable-diffusion-vsd-guidance")
        super().configure(*args, **kwargs)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        super().update_step(epoch, global_step, on_load_weights)
        anneal_timesteps(self, epoch, global_step)

    def __call__(
        self,
        rgb: Tensor,
        prompt_utils: PromptProcessorOutput,
        elevation: Tensor,
        azimuth: Tensor,
        camera_distances: Tensor,
        mvp_mtx: Tensor,
        c2w: Tensor,
        rgb_as_latents: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """``loss_vsd``, ``loss_lora``, ``grad_norm``, ``min_step``, ``max_step`` of renders [B, H, W, 3]; the rest of a
        batch is ignored.
        """
        refuse_perp_neg(prompt_utils, "stable-diffusion-vsd-guidance")
        return super().__call__(
            rgb,
            prompt_utils,
            elevation,
            azimuth,
            camera_distances,
            c2w=c2w,
            mvp_mtx=mvp_mtx,
            rgb_as_latents=rgb_as_latents,
        )
