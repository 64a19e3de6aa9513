"""Contrastive training: its loss and targets by hand, scores by hand, and a few steps that learn, save and load."""

import json

import pytest
import torch
import torch.nn.functional as F
from toy_meshes import toy_meshes

from threestudio_4d.tiny_priors.image_text import train as train_clip
from threestudio_4d.tiny_priors.image_text.evaluation import retrieval, view_accuracy
from threestudio_4d.tiny_priors.image_text.model import ImageTextModel
from threestudio_4d.tiny_priors.image_text.networks import build_clip_tiny
from threestudio_4d.tiny_priors.image_text.train import ClipTask, ClipTrainingConfig, contrastive_loss, fits
from threestudio_4d.tiny_priors.sampling.view_words import ANY_VIEW, VIEW_WORDS, view_numbers
from threestudio_4d.tiny_priors.training.loop import train


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(train_clip.PosedMeshes, "load", lambda *args: toy_meshes())
    return ClipTrainingConfig(
        pack="", out=str(tmp_path / "run"), image_size=16, width=32, layers=1, batch_size=32, max_steps=40,
        warmup_steps=3, learning_rate=2e-3, ema_decay=0.9, compile=False, jitter_steps=0, evaluation_pictures=64,
    )  # fmt: skip


def test_different_sentences_give_the_published_loss():
    image, text = (F.normalize(torch.randn(6, 4), dim=1) for _ in range(2))
    logits, target = 7.0 * image @ text.T, torch.arange(6)
    expected = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
    torch.testing.assert_close(contrastive_loss(image, text, torch.tensor(7.0), torch.eye(6)), expected)


def test_equal_sentences_are_no_mistake():
    """Two pictures of one caption: the best loss is that of an even split, with no gradient left."""
    features = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]), dim=1).requires_grad_()
    said = torch.tensor([4, 4, 9])
    views = torch.full((3,), ANY_VIEW)
    positive = fits(said, said, said, views, views)
    assert positive.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    loss = contrastive_loss(features, features, torch.tensor(50.0), positive)
    torch.testing.assert_close(loss, 2 / 3 * torch.tensor(2.0).log())
    (gradient,) = torch.autograd.grad(loss, features)
    assert gradient.abs().max() < 1e-5


def test_what_fits_what():
    """A name alone fits every pose of the asset; an action and a view only their own."""
    plain = torch.tensor([0, 0, 8])
    acting = torch.tensor([4, 12, 8])
    said = torch.tensor([0, 12, 8])  # "a fox", "a fox walking", "a tree"
    view = torch.tensor([1, 2, 1])
    said_view = torch.tensor([ANY_VIEW, ANY_VIEW, 1])
    assert fits(said, plain, acting, said_view, view).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    said_view = torch.tensor([1, 2, ANY_VIEW])
    assert fits(said, plain, acting, said_view, view).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_view_numbers():
    azimuth = torch.tensor([0.0, -29.0, 31.0, 90.0, 149.0, 151.0, 200.0, 350.0, -180.0, 0.0])
    elevation = torch.tensor([0.0] * 9 + [40.0])
    words = [VIEW_WORDS[i].strip(", ") for i in view_numbers(elevation, azimuth).tolist()]
    assert words == ["front view", "front view", *["side view"] * 3, "back view", "back view", "front view"] + [
        "back view",
        "overhead view",
    ]


def test_retrieval_by_hand():
    captions = torch.eye(3)
    images = F.normalize(torch.tensor([[1.0, 0.1, 0.0], [0.0, 1.0, 0.2], [0.0, 0.9, 0.1], [0.0, 0.6, 0.5]]), dim=1)
    got = retrieval(images, captions, torch.tensor([0, 1, 1, 2]), top=2)
    assert got["caption_top1"] == 0.75 and got["caption_top2"] == 1.0
    assert got["picture_top1"] == 1.0  # the picture that has most of the third caption is its own
    assert got["chance_top1"] == pytest.approx(1 / 3) and got["most_frequent"] == 0.5
    assert got["chance_picture"] == pytest.approx(1 / 3)


def test_view_accuracy_by_hand(monkeypatch):
    model = type("Model", (), {})()
    table = {word: F.one_hot(torch.tensor(i), 4).float() for i, word in enumerate(VIEW_WORDS[:4])}
    model.text_features = lambda texts: torch.stack([table[text.removeprefix("a fox")] for text in texts])
    features = torch.eye(4)[[0, 0, 1, 3]]
    got = view_accuracy(model, features, ["a fox"] * 4, torch.tensor([0, 1, 1, 3]))
    assert got["top1"] == 0.75 and got["most_frequent"] == 0.5
    assert got["balanced"] == pytest.approx((1 + 0.5 + 1) / 3)


def test_the_default_size():
    model = build_clip_tiny(1800)
    assert 2.7e6 < sum(p.numel() for p in model.parameters()) < 2.95e6


def test_training_learns_and_resumes(config, tmp_path, capsys):
    train(lambda device, seed: ClipTask(config, device, seed), config)
    history = json.loads((tmp_path / "run/training.json").read_text())["history"]
    scores = history[-1]["train"]
    assert scores["captions"] == 2 and scores["caption_top1"] > 0.9 > scores["most_frequent"]
    assert set(scores["views"]) == {"top1", "balanced", "most_frequent"}
    model = ImageTextModel.load(tmp_path / "run/prior")
    pictures = ClipTask(config, torch.device("cpu"), 0).splits["train"]
    texts = model.text_features(["a fox", "an apple"])
    found = (model.image_features(pictures.images[:, 0]) @ texts.T).argmax(1)
    assert (found == (pictures.pose == 3).long()).float().mean() > 0.9
    config.max_steps = 42
    train(lambda device, seed: ClipTask(config, device, seed), config)
    assert json.loads((tmp_path / "run/training.json").read_text())["history"][-1]["step"] == 42
