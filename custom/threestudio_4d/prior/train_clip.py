"""Train the built-in image-text prior ``clip-tiny`` on renders of posed meshes and their captions."""

from __future__ import annotations

from .clip_networks import build_clip_tiny, build_tokenizer

__all__ = ["build_clip_tiny", "build_tokenizer"]
