"""Embeddings of all captions of a training set, made once, so that nothing is tokenised or embedded in its loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...diffusion.text import TextConditioner

_BATCH = 4096


class SentenceTable:
    """Rows of embeddings on the tower's device.

    Args:
        text: the frozen tower.
        sentences: S captions.
        endings: what each of them is also embedded with, such as ``view_words.VIEW_WORDS``; the last is the default.
        dtype: precision that the table is kept in.
    """

    def __init__(
        self,
        text: TextConditioner,
        sentences: Sequence[str],
        endings: Sequence[str] = ("",),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.count = len(sentences)
        self.endings = len(endings)
        with torch.no_grad():
            ids = text.tokens([sentence + ending for ending in endings for sentence in sentences] + [""])
            self.rows = torch.cat([text.encode_tokens(part).to(dtype) for part in ids.split(_BATCH)])

    def __call__(self, sentence: Tensor, ending: Tensor | None = None, dropped: Tensor | None = None) -> Tensor:
        """Contexts [B, L, D].

        Args:
            sentence, ending: numbers, [B] long; the last ending where None.
            dropped: bool [B], true where the sentence is empty instead.
        """
        row = sentence + (self.endings - 1 if ending is None else ending) * self.count
        return self.rows[row if dropped is None else torch.where(dropped, len(self.rows) - 1, row)]

    def compared(self, right: Tensor, wrong: Tensor) -> dict[str, Tensor]:
        """Contexts [N, L, D] to score N pictures or clips with: their sentences, those of others, and none."""
        return {
            "right_text": self(right),
            "wrong_text": self(wrong),
            "no_text": self.empty.expand(len(right), -1, -1),
        }

    @property
    def empty(self) -> Tensor:
        """Context of the empty sentence, [1, L, D]."""
        return self.rows[-1:]
