"""Prompts, their view-dependent variants, and the cache of their text embeddings on disk."""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseObject
from threestudio.utils.errors import UserError
from threestudio.utils.misc import barrier
from threestudio.utils.ops import shifted_expotional_decay
from threestudio.utils.values import Text

__all__ = ["DirectionConfig", "PromptProcessor", "PromptProcessorOutput", "hash_prompt", "shift_azimuth_deg"]


def hash_prompt(model: str, prompt: str) -> str:
    """Name of the cached embedding of a prompt: md5 of ``"<model>-<prompt>"``, in hex."""
    return hashlib.md5(f"{model}-{prompt}".encode()).hexdigest()


def shift_azimuth_deg(azimuth: Tensor) -> Tensor:
    """Azimuths in degrees to [-180, 180)."""
    return (azimuth + 180) % 360 - 180


@dataclass
class DirectionConfig:
    """A view direction: how it changes the prompts, and which cameras belong to it.

    ``condition(elevation [B], azimuth [B], camera_distances [B])``, in degrees and world units, gives a bool [B].
    """

    name: str
    prompt: Callable[[str], str]
    negative_prompt: Callable[[str], str]
    condition: Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class PromptProcessorOutput:
    """Embeddings of one prompt: plain [1, 77, D], and one for each direction [4, 77, D]; ``uncond`` ones are
    the negatives.
    """

    text_embeddings: Tensor
    uncond_text_embeddings: Tensor
    text_embeddings_vd: Tensor
    uncond_text_embeddings_vd: Tensor
    directions: list[DirectionConfig]
    direction2idx: dict[str, int]
    use_perp_neg: bool
    perp_neg_f_sb: tuple[float, float, float]
    perp_neg_f_fsb: tuple[float, float, float]
    perp_neg_f_fs: tuple[float, float, float]
    perp_neg_f_sf: tuple[float, float, float]
    prompt: str
    prompts_vd: list[str]

    def direction_indices(self, elevation: Tensor, azimuth: Tensor, camera_distances: Tensor) -> Tensor:
        """Index [B] of the last direction whose condition holds."""
        index = torch.zeros_like(elevation, dtype=torch.long)
        for direction in self.directions:
            index[direction.condition(elevation, azimuth, camera_distances)] = self.direction2idx[direction.name]
        return index

    def get_text_embeddings(
        self, elevation: Tensor, azimuth: Tensor, camera_distances: Tensor, view_dependent_prompting: bool = True
    ) -> Tensor:
        """[2B, 77, D] for cameras [B]: the conditional ones first, then the unconditional ones."""
        if view_dependent_prompting:
            index = self.direction_indices(elevation, azimuth, camera_distances).to(self.text_embeddings_vd.device)
            return torch.cat([self.text_embeddings_vd[index], self.uncond_text_embeddings_vd[index]], dim=0)
        batch = elevation.shape[0]
        text, uncond = self.text_embeddings, self.uncond_text_embeddings
        return torch.cat([text.expand(batch, -1, -1), uncond.expand(batch, -1, -1)], dim=0)

    def get_text_embeddings_perp_neg(
        self, elevation: Tensor, azimuth: Tensor, camera_distances: Tensor, view_dependent_prompting: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Embeddings [4B, 77, D] (positive, unconditional, then two negatives of each item in turn) and weights [B, 2].

        The positive prompt is interpolated between neighbouring views by the azimuth; the weights of the negatives are
        never positive (Perp-Neg).
        """
        if not view_dependent_prompting:
            raise AssertionError("Perp-Neg only works with view-dependent prompting.")
        index = self.direction_indices(elevation, azimuth, camera_distances)
        overhead = self.direction2idx["overhead"]
        side, front, back = (self.text_embeddings_vd[self.direction2idx[n]] for n in ("side", "front", "back"))
        positives, negatives, weights = [], [], []
        for i, angle in zip(index.tolist(), shift_azimuth_deg(azimuth).abs().tolist(), strict=True):
            if i == overhead:
                plain = self.uncond_text_embeddings_vd[i]
                positives.append(self.text_embeddings_vd[i])
                negatives += [plain, plain]
                weights += [0.0, 0.0]
            elif angle < 90:
                r = torch.tensor(1 - angle / 90)
                positives.append(r * front + (1 - r) * side)
                negatives += [front, side]
                weights += [
                    -float(shifted_expotional_decay(*self.perp_neg_f_fs, r)),
                    -float(shifted_expotional_decay(*self.perp_neg_f_sf, 1 - r)),
                ]
            else:
                r = torch.tensor(2.0 - angle / 90)
                positives.append(r * side + (1 - r) * back)
                negatives += [side, front]
                weights += [
                    -float(shifted_expotional_decay(*self.perp_neg_f_sb, r)),
                    -float(shifted_expotional_decay(*self.perp_neg_f_fsb, r)),
                ]
        uncond = self.uncond_text_embeddings_vd[index.to(self.uncond_text_embeddings_vd.device)]
        embeddings = torch.cat([torch.stack(positives), uncond, torch.stack(negatives)], dim=0)
        return embeddings, torch.tensor(weights, device=elevation.device).reshape(-1, 2)


class PromptProcessor(BaseObject):
    """Embeds a prompt once, keeps it on disk, and hands out ``PromptProcessorOutput``.

    A subclass gives ``spawn_func``, which writes ``<cache_dir>/<hash_prompt(model, prompt)>.pt`` with a tensor [77, D]
    for each prompt. With ``spawn`` it runs in a child process, whose memory is gone afterwards; the function must then
    live in an importable module. ``spawn: false`` runs it here.
    """

    @dataclass
    class Config(BaseObject.Config):
        prompt: str = "a hamburger"
        prompt_front: str | None = None
        prompt_side: str | None = None
        prompt_back: str | None = None
        prompt_overhead: str | None = None
        negative_prompt: str = ""
        pretrained_model_name_or_path: Text = "runwayml/stable-diffusion-v1-5"
        overhead_threshold: Annotated[float, Interval(ge=-90, le=90)] = 60.0
        front_threshold: Annotated[float, Interval(ge=0, le=180)] = 45.0
        back_threshold: Annotated[float, Interval(ge=0, le=180)] = 45.0
        view_dependent_prompt_front: bool = False
        use_cache: bool = True
        spawn: bool = True
        use_perp_neg: bool = False
        # a, b, c of a * exp(-b * r) + c
        perp_neg_f_sb: tuple[float, float, float] = (1, 0.5, -0.606)
        perp_neg_f_fsb: tuple[float, float, float] = (1, 0.5, +0.967)
        perp_neg_f_fs: tuple[float, float, float] = (4, 0.5, -2.426)
        perp_neg_f_sf: tuple[float, float, float] = (4, 0.5, -2.426)
        # upstream's debiasing of prompts with BERT, which this host leaves out
        use_prompt_debiasing: bool = False
        pretrained_model_name_or_path_prompt_debiasing: str = "bert-base-uncased"
        prompt_debiasing_mask_ids: list[int] | None = None

    cfg: Config

    @staticmethod
    def spawn_func(pretrained_model_name_or_path: str, prompts: list[str], cache_dir: str) -> None:
        raise NotImplementedError("A prompt processor must define spawn_func(model, prompts, cache_dir).")

    def configure(self) -> None:
        self._cache_dir = ".threestudio_cache/text_embeddings"
        self.directions = self._make_directions()
        self.direction2idx = {d.name: i for i, d in enumerate(self.directions)}
        if self.cfg.use_prompt_debiasing:
            raise UserError("prompt_processor.use_prompt_debiasing: this host has none; upstream threestudio has it.")
        self.prompt = self.preprocess_prompt(self.cfg.prompt)
        self.negative_prompt = self.cfg.negative_prompt
        self.prompts_vd = [self._direction_prompt(d) for d in self.directions]
        self.negative_prompts_vd = [d.negative_prompt(self.negative_prompt) for d in self.directions]
        threestudio.info(f"Using prompt [{self.prompt}] and negative prompt [{self.negative_prompt}]")
        self.prepare_text_embeddings()
        self.load_text_embeddings()

    def _make_directions(self) -> list[DirectionConfig]:
        def same(text: str) -> str:
            return text

        def wording(view: str) -> Callable[[str], str]:
            if self.cfg.view_dependent_prompt_front:
                first = "backside" if view == "back" else view
                return lambda text: f"{first} view of {text}"
            return lambda text: f"{text}, {view} view"

        front, back, overhead = self.cfg.front_threshold, self.cfg.back_threshold, self.cfg.overhead_threshold
        return [
            DirectionConfig("side", wording("side"), same, lambda e, a, d: torch.ones_like(e, dtype=torch.bool)),
            DirectionConfig("front", wording("front"), same, lambda e, a, d: shift_azimuth_deg(a).abs() < front),
            DirectionConfig("back", wording("back"), same, lambda e, a, d: shift_azimuth_deg(a).abs() > 180 - back),
            DirectionConfig("overhead", wording("overhead"), same, lambda e, a, d: e > overhead),
        ]

    def _direction_prompt(self, direction: DirectionConfig) -> str:
        own = getattr(self.cfg, f"prompt_{direction.name}")
        return direction.prompt(self.prompt) if own is None else own

    def preprocess_prompt(self, prompt: str) -> str:
        """``lib:word_word`` looks the one prompt with these words up in ``load/prompt_library.json``; others
        stay as they are.
        """
        if not prompt.startswith("lib:"):
            return prompt
        path = os.path.join("load", "prompt_library.json")
        if not os.path.isfile(path):
            raise UserError(f"The prompt '{prompt}' needs the prompt library '{path}', which is not there.")
        with open(path, encoding="utf-8") as file:
            library = json.load(file)["dreamfusion"]
        words = prompt[4:].lower().split("_")
        found = [p for p in library if all(w in p.lower() for w in words)]
        if len(found) != 1:
            raise UserError(f"The prompt '{prompt}' matches {len(found)} prompts of '{path}'; exactly one is needed.")
        return found[0]

    def _cache_path(self, prompt: str) -> str:
        return os.path.join(self._cache_dir, f"{hash_prompt(self.cfg.pretrained_model_name_or_path, prompt)}.pt")

    @rank_zero_only
    def prepare_text_embeddings(self) -> None:
        """Write the embeddings that the cache lacks."""
        os.makedirs(self._cache_dir, exist_ok=True)
        wanted = list(dict.fromkeys([self.prompt, self.negative_prompt, *self.prompts_vd, *self.negative_prompts_vd]))
        missing = [p for p in wanted if not (self.cfg.use_cache and os.path.exists(self._cache_path(p)))]
        if not missing:
            return
        arguments = (self.cfg.pretrained_model_name_or_path, missing, self._cache_dir)
        if not self.cfg.spawn:
            self.spawn_func(*arguments)
            return
        process = multiprocessing.get_context("spawn").Process(target=self.spawn_func, args=arguments)
        process.start()
        process.join()
        if process.exitcode != 0:
            raise UserError(
                f"Computing the prompt embeddings failed in a child process (exit code {process.exitcode}); its error "
                "is printed above. Set system.prompt_processor.spawn=false to run it in this process: a processor from "
                "custom/ cannot be imported by a child."
            )

    def load_text_embeddings(self) -> None:
        barrier()  # the first process may still be writing
        self.text_embeddings = self.load_from_cache(self.prompt)[None]
        self.uncond_text_embeddings = self.load_from_cache(self.negative_prompt)[None]
        self.text_embeddings_vd = torch.stack([self.load_from_cache(p) for p in self.prompts_vd])
        self.uncond_text_embeddings_vd = torch.stack([self.load_from_cache(p) for p in self.negative_prompts_vd])

    def load_from_cache(self, prompt: str) -> Tensor:
        path = self._cache_path(prompt)
        if not os.path.exists(path):
            raise FileNotFoundError(
                f"Text embedding file {path} for model {self.cfg.pretrained_model_name_or_path} and prompt [{prompt}] "
                "not found."
            )
        return torch.load(path, map_location=self.device, weights_only=True)

    def __call__(self) -> PromptProcessorOutput:
        return PromptProcessorOutput(
            text_embeddings=self.text_embeddings,
            uncond_text_embeddings=self.uncond_text_embeddings,
            text_embeddings_vd=self.text_embeddings_vd,
            uncond_text_embeddings_vd=self.uncond_text_embeddings_vd,
            directions=self.directions,
            direction2idx=self.direction2idx,
            use_perp_neg=self.cfg.use_perp_neg,
            perp_neg_f_sb=tuple(self.cfg.perp_neg_f_sb),
            perp_neg_f_fsb=tuple(self.cfg.perp_neg_f_fsb),
            perp_neg_f_fs=tuple(self.cfg.perp_neg_f_fs),
            perp_neg_f_sf=tuple(self.cfg.perp_neg_f_sf),
            prompt=self.prompt,
            prompts_vd=self.prompts_vd,
        )
