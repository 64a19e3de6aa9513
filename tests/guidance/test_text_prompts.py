"""``text-prompt-processor``: view-dependent prompts in threestudio's order, embedded in memory."""

import pytest
import torch
from tiny_text import tiny_text

import threestudio
from threestudio.utils.misc import set_device
from threestudio_4d.guidance.text_prompts import TextPromptProcessor


@pytest.fixture(autouse=True)
def _cpu():
    set_device("cpu")
    yield
    set_device(None)


@pytest.fixture(scope="module")
def text():
    return tiny_text()


def make(text, **cfg) -> TextPromptProcessor:
    return TextPromptProcessor({"prompt": "a fox", "negative_prompt": "a red car", **cfg}, text)


def ask(processor, elevation, azimuth, view_dependent=True):
    elevation, azimuth = torch.tensor(elevation), torch.tensor(azimuth)
    return processor().get_text_embeddings(elevation, azimuth, torch.ones_like(azimuth), view_dependent)


def test_registered():
    assert threestudio.find("text-prompt-processor") is TextPromptProcessor


@pytest.mark.parametrize(
    ("elevation", "azimuth", "view"),
    [
        (0.0, 0.0, "front"),
        (0.0, -29.0, "front"),
        (0.0, 31.0, "side"),
        (0.0, 149.0, "side"),
        (0.0, -151.0, "back"),
        (0.0, 200.0, "back"),
        (0.0, 340.0, "front"),
        (61.0, 0.0, "overhead"),
        (59.0, 180.0, "back"),
    ],
)
def test_the_view_decides_the_prompt(text, elevation, azimuth, view):
    got = ask(make(text), [elevation], [azimuth])
    assert got.shape == (2, 12, 32)
    torch.testing.assert_close(got[:1], text.encode([f"a fox, {view} view"]))
    torch.testing.assert_close(got[1:], text.encode(["a red car"]))


def test_conditional_comes_first(text):
    got = ask(make(text), [0.0, 0.0, 70.0], [0.0, 90.0, 0.0])
    sentences = ["a fox, front view", "a fox, side view", "a fox, overhead view"] + ["a red car"] * 3
    torch.testing.assert_close(got, text.encode(sentences))


def test_without_views(text):
    got = ask(make(text), [0.0, 70.0], [0.0, 180.0], view_dependent=False)
    torch.testing.assert_close(got, text.encode(["a fox", "a fox", "a red car", "a red car"]))


def test_keys_of_the_host(text):
    processor = make(
        text, prompt_back="a pine tree", front_threshold=60.0, view_dependent_prompt_front=True, overhead_threshold=30.0
    )
    got = ask(processor, [0.0, 0.0, 31.0], [45.0, 180.0, 0.0])
    sentences = ["front view of a fox", "a pine tree", "overhead view of a fox"]
    torch.testing.assert_close(got[:3], text.encode(sentences))


def test_nothing_is_written_or_kept(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    processor = make(text)
    assert list(tmp_path.iterdir()) == []
    assert not any(isinstance(value, torch.nn.Module) for value in vars(processor).values())
    assert not processor().text_embeddings_vd.requires_grad


def test_a_prior_by_name(text, tmp_path, monkeypatch):
    text.save(tmp_path / "load/priors/words", dtype=torch.float32)
    monkeypatch.chdir(tmp_path)
    processor = TextPromptProcessor({"prompt": "a fox", "pretrained_model_name_or_path": "words"})
    torch.testing.assert_close(processor().text_embeddings, text.encode(["a fox"]))
    torch.testing.assert_close(processor().uncond_text_embeddings, text.encode([""]))
