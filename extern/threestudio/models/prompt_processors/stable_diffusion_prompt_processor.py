"""``stable-diffusion-prompt-processor``: upstream's name and keys over the extension's ``text-prompt-processor``."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval

from threestudio import register
from threestudio.utils.values import Text
from threestudio_4d.guidance.text_prompts import TextPromptProcessor

__all__ = ["StableDiffusionPromptProcessor"]


@register("stable-diffusion-prompt-processor")
class StableDiffusionPromptProcessor(TextPromptProcessor):
    """Embeds prompts with the text tower of Stable Diffusion, in this process and in memory: ``spawn`` and
    ``use_cache`` have no effect.
    """

    @dataclass
    class Config(TextPromptProcessor.Config):
        pretrained_model_name_or_path: Text = "runwayml/stable-diffusion-v1-5"
        front_threshold: Annotated[float, Interval(ge=0, le=180)] = 45.0
        back_threshold: Annotated[float, Interval(ge=0, le=180)] = 45.0

    cfg: Config
