"""``stable-diffusion-guidance``: upstream's name and keys over the extension's ``sd-guidance``."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from torch import Tensor

from threestudio import info, register
from threestudio.models.prompt_processors.base import PromptProcessorOutput
from threestudio.utils.errors import UserError
from threestudio.utils.misc import C
from threestudio.utils.values import Count
from threestudio_4d.guidance import sd_guidance
from threestudio_4d.values import Schedule

__all__ = ["StableDiffusionGuidance", "check_keys"]

#: keys that save memory in upstream's way; here attention is fused and never needs it
_MEMORY_KEYS = (
    "enable_memory_efficient_attention",
    "enable_sequential_cpu_offload",
    "enable_attention_slicing",
    "enable_channels_last_format",
)
_MISSING = ("use_sjc", "use_img_loss", "token_merging")


def check_keys(cfg: Any, name: str) -> None:
    """Say which keys have no effect here, and refuse those that would change the result.

    Raises:
        UserError: a key asks for a variant that this host leaves out.
    """
    for key in _MISSING:
        if cfg.get(key, False):
            raise UserError(f"guidance.{key}: {name} of this host has no such variant; upstream threestudio has it.")
    idle = [key for key in _MEMORY_KEYS if cfg.get(key, False)]
    if idle:
        info(f"{name} always uses fused attention: {', '.join(idle)} has no effect")


def refuse_perp_neg(prompt_utils: PromptProcessorOutput, name: str) -> None:
    """Raise a UserError for prompts with Perp-Neg, which the extension's guidances do not follow."""
    if prompt_utils.use_perp_neg:
        raise UserError(f"prompt_processor.use_perp_neg: {name} is without it here; upstream threestudio has it.")


@register("stable-diffusion-guidance")
class StableDiffusionGuidance(sd_guidance.StableDiffusionGuidance):
    """Score distillation with Stable Diffusion.

    ``guidance_scale`` is upstream's, ``text + s (text - uncond)``: one less than that of ``sd-guidance``.
    """

    @dataclass
    class Config(sd_guidance.StableDiffusionGuidance.Config):
        pretrained_model_name_or_path: str = "runwayml/stable-diffusion-v1-5"
        guidance_scale: Annotated[Any, Schedule()] = 100.0
        enable_memory_efficient_attention: bool = False
        enable_sequential_cpu_offload: bool = False
        enable_attention_slicing: bool = False
        enable_channels_last_format: bool = False
        sqrt_anneal: bool = False
        trainer_max_steps: Count = 25000
        use_img_loss: bool = False
        use_sjc: bool = False
        token_merging: bool = False
        # without effect: what belongs to refused keys, and the most pictures of guidance_eval
        var_red: bool = True
        token_merging_params: dict | None = field(default_factory=dict)
        max_items_eval: Count = 4

    cfg: Config

    def configure(self, *args: Any, **kwargs: Any) -> None:
        check_keys(self.cfg, "stable-diffusion-guidance")
        super().configure(*args, **kwargs)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        super().update_step(epoch, global_step, on_load_weights)
        self.guidance_scale += 1
        anneal_timesteps(self, epoch, global_step)

    def __call__(
        self,
        rgb: Tensor,
        prompt_utils: PromptProcessorOutput,
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
        refuse_perp_neg(prompt_utils, "stable-diffusion-guidance")
        return super().__call__(
            rgb,
            prompt_utils,
            elevation,
            azimuth,
            camera_distances,
            rgb_as_latents=rgb_as_latents,
            guidance_eval=guidance_eval,
        )


def anneal_timesteps(guidance: Any, epoch: int, global_step: int) -> None:
    """With ``sqrt_anneal``, one timestep for all: from the largest down to the smallest by the square root of the run's
    progress (HiFA, equation 5).
    """
    cfg = guidance.cfg
    if not cfg.sqrt_anneal:
        return
    low, high = C(cfg.min_step_percent, epoch, global_step), cfg.max_step_percent
    high = high if isinstance(high, (int, float)) else high[1]
    share = low + (high - low) * (1 - min(global_step / cfg.trainer_max_steps, 1.0) ** 0.5)
    guidance.min_step = guidance.max_step = int(len(guidance.alphas_cumprod) * share)
