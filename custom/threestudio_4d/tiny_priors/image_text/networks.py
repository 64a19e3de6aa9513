"""The architecture and tokenizer of the built-in image-text prior ``clip-tiny``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from ...diffusion.text import load_tokenizer, write_tokenizer

MAX_TOKENS = 24
START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
# Runs of letters, single digits, runs of other signs, English contractions (Radford et al., 2021).
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def build_tokenizer(
    sentences: Iterable[str], folder: str | Path, vocab_size: int = 2048, max_length: int = MAX_TOKENS
) -> CLIPTokenizer:
    """Learn a byte-pair encoding in the format of CLIP's tokenizer from sentences, and write it to a folder.

    Text is lower-cased. Every byte has a token, at the end of a word and elsewhere, so that words never seen fall back
    to pieces and letters. Numbers: bytes, bytes that end a word, merged pieces, then the start and end tokens.

    Args:
        sentences: what merges are learnt from.
        folder: where ``vocab.json`` and ``merges.txt`` go.
        vocab_size: at most this many tokens.
        max_length: token positions of a sentence.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = alphabet + [letter + WORD_END for letter in alphabet]
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=alphabet,
        special_tokens=letters[len(alphabet) :],  # numbered here, or else in the order of a hash: ties follow numbers
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    learner.train_from_iterator(sorted(sentences), trainer)
    learnt = json.loads(learner.to_str())["model"]["merges"]
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in learnt]
    vocab = {token: number for number, token in enumerate(letters)}
    merges = []
    for first, second in pairs:
        if len(vocab) == vocab_size - 2:
            break
        merges.append(f"{first} {second}")
        vocab.setdefault(first + second, len(vocab))
    for token in (START, END):
        vocab[token] = len(vocab)
    write_tokenizer(folder, vocab, merges, max_length)
    return load_tokenizer(folder)


def build_clip_tiny(
    vocab_size: int,
    width: int = 192,
    layers: int = 4,
    image_size: int = 64,
    patch_size: int = 8,
    projection_dim: int = 128,
    max_length: int = MAX_TOKENS,
) -> CLIPModel:
    """An untrained image-text model: 2.9 M parameters at the default size and 2048 tokens.

    Args:
        vocab_size: of a tokenizer of :func:`build_tokenizer`, whose last two tokens are start and end.
        width, layers: of both towers.
        image_size, patch_size: of the pictures that the vision tower sees.
        projection_dim: of the space that pictures and sentences share.
        max_length: token positions.
    """
    tower = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(width // 32, 1),
        "projection_dim": projection_dim,
        "hidden_act": "gelu",
    }
    text = CLIPTextConfig(
        vocab_size=vocab_size,
        max_position_embeddings=max_length,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
        pad_token_id=vocab_size - 1,
        **tower,
    )
    vision = CLIPVisionConfig(image_size=image_size, patch_size=patch_size, **tower)
    return CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=projection_dim)
    )


def text_tower(clip: CLIPModel) -> CLIPTextModelWithProjection:
    """The text half of an image-text model, sharing its weights."""
    tower = CLIPTextModelWithProjection(clip.config.text_config)
    tower.text_model, tower.text_projection = clip.text_model, clip.text_projection
    return tower


def vision_tower(clip: CLIPModel) -> CLIPVisionModelWithProjection:
    """The image half of an image-text model, sharing its weights."""
    tower = CLIPVisionModelWithProjection(clip.config.vision_config)
    tower.vision_model, tower.visual_projection = clip.vision_model, clip.visual_projection
    return tower
