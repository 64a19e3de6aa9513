"""Tokenizer and text tower: the CLIP format, unknown words, saving and loading, sharing between priors."""

import json

import pytest
import torch
from tiny_text import SENTENCES, tiny_text
from transformers import CLIPTextModel

from threestudio_4d.diffusion.text import TextConditioner, load_tokenizer, save_tokenizer
from threestudio_4d.errors import UserError
from threestudio_4d.tiny_priors.image_text.networks import build_tokenizer


@pytest.fixture(scope="module")
def text() -> TextConditioner:
    return tiny_text()


def test_known_words_are_one_token(text):
    ids = text.tokenizer("A Fox  WALKING").input_ids
    words = text.tokenizer.convert_ids_to_tokens(ids)
    assert words == ["<|startoftext|>", "a</w>", "fox</w>", "walking</w>", "<|endoftext|>"]
    assert (ids[0], ids[-1]) == (len(text.tokenizer) - 2, len(text.tokenizer) - 1)


@pytest.mark.parametrize("word", ["quagga", "zebrä", "7!", "日本"])
def test_unknown_words_fall_back_to_pieces(text, word):
    ids = text.tokenizer(word).input_ids
    assert len(ids) > 3 and max(ids[1:-1]) < len(text.tokenizer) - 2
    decoded = text.tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded.replace(" ", "") == word


def test_the_vocabulary_can_be_bounded(tmp_path):
    small = build_tokenizer(SENTENCES, tmp_path, vocab_size=520)
    assert len(small) == 520
    assert small("a fox walking").input_ids[-1] == 519


def test_learning_is_deterministic(tmp_path):
    build_tokenizer(SENTENCES, tmp_path / "a")
    build_tokenizer(reversed(SENTENCES), tmp_path / "b")
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_sentences_are_padded_and_cut(text):
    ids = text.tokens(["a fox", "", "a fox " * 30])
    assert ids.shape == (3, 12) and ids.dtype == torch.long
    end = text.tokenizer.eos_token_id
    assert (ids[0, 3:] == end).all() and (ids[1, 1:] == end).all()
    assert ids[2, -1] == end and (ids[2, :-1] != end).all()


def test_embeddings_are_the_last_hidden_state(text):
    embeddings = text.encode(["a fox", "a red car"])
    assert embeddings.shape == (2, text.length, text.width) == (2, 12, 32)
    hidden = text.text_encoder.text_model(text.tokens(["a fox", "a red car"])).last_hidden_state
    torch.testing.assert_close(embeddings, hidden)
    # after the final layer norm, as the published models have it
    torch.testing.assert_close(embeddings.mean(-1), torch.zeros(2, 12), atol=1e-5, rtol=0)


@pytest.mark.parametrize("int8", [False, True])
def test_saving_and_loading(text, tmp_path, int8):
    text.save(tmp_path, dtype=torch.float32, int8=int8)
    loaded = TextConditioner.load(tmp_path)
    sentences = ["a fox walking", "a quagga"]
    assert torch.equal(loaded.tokens(sentences), text.tokens(sentences))
    error = (loaded.encode(sentences) - text.encode(sentences)).abs().max()
    assert error == 0 if not int8 else error < 0.1


def test_a_tower_without_projection(text, tmp_path):
    """What Stable Diffusion, ZeroScope and MVDream ship: ``CLIPTextModel``."""
    config = text.text_encoder.config
    tower = CLIPTextModel(config).eval()
    tower.save_pretrained(tmp_path / "text_encoder")
    save_tokenizer(text.tokenizer, tmp_path / "tokenizer")
    loaded = TextConditioner.load(tmp_path)
    assert type(loaded.text_encoder) is CLIPTextModel
    ids = text.tokens(["a fox"])
    torch.testing.assert_close(loaded.encode(["a fox"]), tower(ids).last_hidden_state)


def test_a_prior_shares_the_text_of_its_sibling(text, tmp_path):
    text.save(tmp_path / "clip", dtype=torch.float32)
    (tmp_path / "sd").mkdir()
    shared = {"text_encoder": "clip", "tokenizer": "clip"}
    (tmp_path / "sd/model_index.json").write_text(json.dumps({"shared": shared}))
    loaded = TextConditioner.load(tmp_path / "sd")
    torch.testing.assert_close(loaded.encode(["a fox"]), text.encode(["a fox"]))


def test_mistakes(text, tmp_path):
    with pytest.raises(UserError, match="it has no folder 'text_encoder'"):
        TextConditioner.load(tmp_path)
    text.save(tmp_path)
    (tmp_path / "tokenizer/merges.txt").unlink()
    with pytest.raises(UserError, match="tokenizer holds no CLIP tokenizer: it needs vocab.json and merges.txt"):
        load_tokenizer(tmp_path / "tokenizer")
