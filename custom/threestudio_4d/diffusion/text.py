"""Sentences as the context of a denoising network: the CLIP tokenizer and text tower that text priors share.

Stable Diffusion 1.x and 2.x, ModelScope/ZeroScope and MVDream all attend to the last hidden state of a CLIP text tower
(after its final layer norm), one row for each of its token positions, padding included.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ..errors import UserError
from .weights.network_folder import load_network, part_folder, save_network, without_position_ids

TEXT_PARTS = ("text_encoder", "tokenizer")


class TextConditioner(nn.Module):
    """Tokenizer and text tower of a prior.

    Args:
        text_encoder: CLIP text tower; only its last hidden state is used.
        tokenizer: its tokenizer.
    """

    def __init__(self, text_encoder: CLIPTextModel | CLIPTextModelWithProjection, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text_encoder = without_position_ids(text_encoder)
        self.text_encoder.config.architectures = [type(text_encoder).__name__]  # the class that a folder is read with
        self.tokenizer = tokenizer

    @property
    def width(self) -> int:
        """D, the channels of an embedding."""
        return self.text_encoder.config.hidden_size

    @property
    def length(self) -> int:
        """L, the token positions of every sentence: 77 for published towers, 24 for the built-in one."""
        # A tokenizer that states no length says 1e30.
        return min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)

    @property
    def device(self) -> torch.device:
        return next(self.text_encoder.parameters()).device

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Token numbers of N sentences, [N, L] long, on the tower's device; longer sentences are cut at L."""
        ids = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        ).input_ids
        return ids.to(self.device)

    def encode_tokens(self, ids: Tensor) -> Tensor:
        """Embeddings [N, L, D] of token numbers [N, L], in the precision of the tower."""
        return self.text_encoder(input_ids=ids).last_hidden_state

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings [N, L, D] of N sentences; an empty sentence is the usual unconditional one."""
        return self.encode_tokens(self.tokens(prompts))

    @classmethod
    def load(
        cls, folder: str | Path, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> TextConditioner:
        """The parts ``text_encoder`` and ``tokenizer`` of a prior's folder, or of the sibling that it shares them with.

        Args:
            folder: a prior in diffusers layout.
            dtype: precision of the tower; single precision if None.

        Raises:
            UserError: a part is missing or its weights do not fit.
        """
        tower = part_folder(folder, "text_encoder")
        architectures = json.loads((tower / "config.json").read_text()).get("architectures") or []
        projected = CLIPTextModelWithProjection.__name__ in architectures
        model_class = CLIPTextModelWithProjection if projected else CLIPTextModel
        conditioner = cls(
            load_network(model_class, tower, dtype or torch.float32), load_tokenizer(part_folder(folder, "tokenizer"))
        )
        return conditioner.to(device) if device is not None else conditioner

    def save(
        self,
        folder: str | Path,
        dtype: torch.dtype = torch.float16,
        max_shard_size: str = "15MB",
        int8: bool = False,
    ) -> None:
        """Write both parts into a prior's folder."""
        save_network(self.text_encoder, Path(folder) / "text_encoder", dtype, max_shard_size, int8)
        save_tokenizer(self.tokenizer, Path(folder) / "tokenizer")


def load_tokenizer(folder: str | Path) -> CLIPTokenizer:
    """The CLIP tokenizer of a folder with ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``.

    Raises:
        UserError: the folder has neither.
    """
    folder = Path(folder)
    if not (folder / "tokenizer.json").exists() and not (
        (folder / "vocab.json").exists() and (folder / "merges.txt").exists()
    ):
        raise UserError(f"{folder} holds no CLIP tokenizer: it needs vocab.json and merges.txt, or tokenizer.json")
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: str | Path) -> None:
    """Write ``vocab.json``, ``merges.txt`` and ``tokenizer_config.json``, which every release of transformers reads."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    write_tokenizer(folder, model["vocab"], merges, tokenizer.model_max_length, tokenizer.pad_token)


def write_tokenizer(
    folder: str | Path, vocab: dict[str, int], merges: Sequence[str], max_length: int, pad_token: str = "<|endoftext|>"
) -> None:
    """The files of a CLIP tokenizer.

    Args:
        vocab: token -> number; tokens that end a word carry ``</w>``.
        merges: pairs of tokens with a space between, in the order in which they merge.
        max_length: token positions of a sentence, start and end included.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": pad_token,
    }
    config = special | {"tokenizer_class": "CLIPTokenizer", "model_max_length": max_length, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
