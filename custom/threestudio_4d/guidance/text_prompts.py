"""``text-prompt-processor``: the prompt of a system and its view-dependent variants, for every guidance from text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval

import threestudio
from threestudio.models.prompt_processors.base import PromptProcessor
from threestudio.utils.typing import Tensor

from ..diffusion.text import TEXT_PARTS, TextConditioner
from ..diffusion.weights.resolve import resolve_prior
from ..values import Text


@threestudio.register("text-prompt-processor")
class TextPromptProcessor(PromptProcessor):
    """Embeds the prompt, the negative prompt and one prompt for each view direction with a prior's text tower.

    It runs in this process, and embeddings live in memory only: no child process, no files. The tower is given up
    when all sentences are embedded. Calling it gives threestudio's ``PromptProcessorOutput``, whose
    ``get_text_embeddings(elevation [B], azimuth [B], camera_distances [B], view_dependent_prompting)`` is
    ``[2B, L, D]``: conditional first, then unconditional. L is 77 for published towers and 24 for the built-in one.

    Views: ``, front view`` for |azimuth| < front_threshold, ``, back view`` beyond 180 - back_threshold,
    ``, overhead view`` for elevation > overhead_threshold, else ``, side view``; degrees, the last that holds counts.
    With view_dependent_prompt_front: ``front view of ``, ``backside view of ``, and so on, before the prompt.
    4D-fy uses 30, 30 and 60 for pictures, and 45 instead of 30 for videos.
    """

    @dataclass
    class Config(PromptProcessor.Config):
        pretrained_model_name_or_path: Text = "clip-tiny"
        """Prior whose text tower embeds the prompts: the one that the guidance uses, or ``clip-tiny``, which all
        built-in ones share."""
        front_threshold: Annotated[float, Interval(ge=0, le=180)] = 30.0
        back_threshold: Annotated[float, Interval(ge=0, le=180)] = 30.0

    cfg: Config

    def configure(self, text: TextConditioner | None = None) -> None:
        """Embed all prompts; ``text`` is used instead of the tower that the config names, if given."""
        self._text = text
        super().configure()
        self._text = None

    def prepare_text_embeddings(self) -> None:
        """Nothing to prepare: the host would fill its cache on disk here."""

    def load_text_embeddings(self) -> None:
        sentences = list(
            dict.fromkeys([self.prompt, self.negative_prompt, *self.prompts_vd, *self.negative_prompts_vd])
        )
        embedded = dict(zip(sentences, self._embed(sentences), strict=True))
        self.text_embeddings = embedded[self.prompt][None]
        self.uncond_text_embeddings = embedded[self.negative_prompt][None]
        self.text_embeddings_vd = torch.stack([embedded[prompt] for prompt in self.prompts_vd])
        self.uncond_text_embeddings_vd = torch.stack([embedded[prompt] for prompt in self.negative_prompts_vd])

    @torch.no_grad()
    def _embed(self, sentences: list[str]) -> Tensor:
        text = self._text
        if text is None:
            folder = resolve_prior(self.cfg.pretrained_model_name_or_path, TEXT_PARTS).path
            text = TextConditioner.load(folder)
        with torch.autocast(self.device.type, enabled=False):
            return text.to(self.device).encode(sentences).float()
