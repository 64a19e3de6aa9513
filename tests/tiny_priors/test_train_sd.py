"""Training of the text-to-image prior: the table of sentences, scores by hand, a few steps that learn and resume."""

import json

import cv2
import pytest
import torch
from tiny_sd import tiny_sd
from tiny_text import SENTENCES, tiny_text
from toy_meshes import toy_meshes

from threestudio_4d.diffusion.sd.model import StableDiffusionModel
from threestudio_4d.errors import UserError
from threestudio_4d.guidance.sd_guidance import load_stable_diffusion
from threestudio_4d.tiny_priors.image_text.model import ImageTextModel
from threestudio_4d.tiny_priors.image_text.networks import build_clip_tiny, build_tokenizer
from threestudio_4d.tiny_priors.sampling.sentence_table import SentenceTable
from threestudio_4d.tiny_priors.sd import sheet as sd_sheet
from threestudio_4d.tiny_priors.sd import train as train_sd
from threestudio_4d.tiny_priors.sd.evaluation import (
    CaptionedPictures,
    denoising_losses,
    feature_distance,
    one_step_psnr,
    sample_scores,
)
from threestudio_4d.tiny_priors.sd.networks import build_sd_tiny
from threestudio_4d.tiny_priors.sd.train import SdTask, SdTrainingConfig
from threestudio_4d.tiny_priors.training.loop import train


@pytest.fixture
def clip(tmp_path):
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["a fox", "an apple"], tmp_path / "tokenizer")
    model = ImageTextModel.from_clip(build_clip_tiny(len(tokenizer), 32, 1, 16, 8, 16), tokenizer)
    return model.requires_grad_(False).eval()


def test_the_table_holds_every_sentence_with_every_ending():
    text = tiny_text()
    table = SentenceTable(text, SENTENCES, (", back view", ""))
    sentence, ending = torch.tensor([0, 3, 5]), torch.tensor([0, 1, 0])
    expected = text.encode(["a fox, back view", "a red car", "an old wooden chair, back view"])
    torch.testing.assert_close(table(sentence, ending), expected)
    torch.testing.assert_close(table(sentence), text.encode(["a fox", "a red car", "an old wooden chair"]))
    torch.testing.assert_close(table.empty, text.encode([""]))
    some = table(sentence, ending, torch.tensor([False, True, False]))
    torch.testing.assert_close(some, torch.cat([expected[:1], text.encode([""]), expected[2:]]))


def captioned(images: torch.Tensor, caption: torch.Tensor) -> CaptionedPictures:
    return CaptionedPictures(images, caption, torch.zeros_like(caption), torch.ones(len(caption), dtype=torch.bool))


def test_wrong_captions_differ():
    pictures = captioned(torch.zeros(7, 3, 4, 4), torch.tensor([0, 0, 0, 4, 4, 0, 8]))
    wrong = pictures.wrong_captions()
    assert (wrong != pictures.caption).all() and set(wrong.tolist()) <= {0, 4, 8}


def test_the_denoising_loss_by_hand():
    model = tiny_sd("pixels")
    pictures = captioned(torch.rand(4, 3, 16, 16), torch.arange(4))
    context = model.embed(SENTENCES[:4])
    got = denoising_losses(model, pictures, {"right": context, "none": context * 0}, batch_size=3)
    generator = torch.Generator().manual_seed(0)
    z = model.encode(pictures.images)
    noise = torch.cat([torch.randn((n, 12, 8, 8), generator=generator) for n in (3, 1)])
    t = torch.tensor([0, 333, 666, 999])
    a = model.alphas_cumprod[t].view(-1, 1, 1, 1)
    output = model.unet(a.sqrt() * z + (1 - a).sqrt() * noise, t, context).sample
    expected = (output - (a.sqrt() * noise - (1 - a).sqrt() * z)).square().mean()
    assert got["right"] == pytest.approx(expected.item(), rel=1e-4)
    assert got["none"] != pytest.approx(expected.item(), rel=1e-4)


def test_the_mean_picture_is_a_baseline():
    model = tiny_sd("pixels")
    images = torch.rand(5, 3, 16, 16)
    scores = one_step_psnr(model, captioned(images, torch.arange(5)), {}, images.mean(0))
    error = (images - images.mean(0)).square().flatten(1).mean(1)
    assert scores == {"mean_picture": pytest.approx((-10 * error.log10()).mean().item(), abs=1e-3)}


def test_feature_distance_of_shifted_sets():
    features = torch.randn(200, 6, dtype=torch.float64)
    assert feature_distance(features, features) == pytest.approx(0, abs=1e-6)
    assert feature_distance(features, features + 2.0) == pytest.approx(24.0, rel=1e-4)
    spread = features.var(0, unbiased=True).sum().item()
    assert feature_distance(features, features.mean(0).expand(200, -1)) == pytest.approx(spread, rel=1e-4)


def test_scores_of_renders_shown_as_samples(clip):
    """Samples that are the renders themselves score what renders score; constant pictures score chance."""
    renders = torch.rand(12, 3, 16, 16)
    caption = torch.tensor([0, 1, 2] * 4)
    mean = renders.mean(0)
    samples = {"right_text": renders, "constant": mean.expand_as(renders)}
    scores = sample_scores(clip, list(SENTENCES), samples, caption, renders, {"same": renders}, mean)
    assert scores["captions"] == 3
    assert scores["retrieval"]["right_text"] == scores["retrieval"]["renders"]
    assert scores["retrieval"]["constant"]["top1"] == pytest.approx(1 / 3) == scores["retrieval"]["chance_top1"]
    assert scores["frechet"]["right_text"] == pytest.approx(0, abs=1e-6) == scores["frechet"]["same"]
    assert scores["frechet"]["constant"] == pytest.approx(scores["frechet"]["mean_picture"], abs=1e-6)
    assert scores["frechet"]["renders_halves"] > 0


def test_the_default_size():
    model = build_sd_tiny(None, context_width=192)
    assert 3.9e6 < sum(p.numel() for p in model.unet.parameters()) < 4.0e6
    assert model.image_size == 64 and model.latent_shape == (12, 32, 32)
    assert model.alphas_cumprod[-1] < 1e-6


def test_training_learns_and_resumes(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(train_sd.PosedMeshes, "load", lambda *args: toy_meshes())
    clip.save(tmp_path / "words")
    config = SdTrainingConfig(
        pack="", text=str(tmp_path / "words"), out=str(tmp_path / "run"), image_size=16, channels="32,32",
        batch_size=16, max_steps=24, warmup_steps=3, learning_rate=2e-3, ema_decay=0.9, compile=False,
        jitter_steps=5, evaluation_pictures=16,
    )  # fmt: skip
    train(lambda device, seed: SdTask(config, device, seed), config)
    history = json.loads((tmp_path / "run/training.json").read_text())["history"]
    scores = history[-1]["train"]
    assert scores["loss"]["right_text"] < 0.7  # 0.9 before training
    assert set(scores["samples"]["view_words"]) == {"samples", "renders"}
    assert set(scores["samples"]["frechet"]) >= {"right_text", "wrong_text", "no_text", "held_out_renders"}
    model = load_stable_diffusion(str(tmp_path / "run/prior"), text=True)
    StableDiffusionModel.load(tmp_path / "run/prior").save(tmp_path / "small", int8=True, text_from="words")
    small = load_stable_diffusion(str(tmp_path / "small"), text=True)
    images = [m.sample(m.embed(["a fox"]), m.embed([""]), 3, generator=torch.Generator().manual_seed(0))
              for m in (model, small)]  # fmt: skip
    assert (images[0] - images[1]).abs().mean() < 0.05
    config.max_steps = 26
    train(lambda device, seed: SdTask(config, device, seed), config)
    assert json.loads((tmp_path / "run/training.json").read_text())["history"][-1]["step"] == 26


def test_a_sheet(tmp_path, monkeypatch, capsys):
    tiny_sd("pixels").save(tmp_path / "prior")
    options = [str(tmp_path / "prior"), str(tmp_path / "out/sheet.png"), "--prompts", "a fox", "a tree", "--steps", "2"]
    monkeypatch.setattr("sys.argv", ["sd_sheet", *options])
    sd_sheet.main()
    assert cv2.imread(str(tmp_path / "out/sheet.png")).shape == (2 * (16 + sd_sheet.LABEL_HEIGHT), 8 * 16, 3)
    assert "columns are 4 samples, side view, front view, back view, overhead view" in capsys.readouterr().out


def test_a_sheet_of_held_out_assets(monkeypatch):
    monkeypatch.setattr(sd_sheet.PosedMeshes, "load", lambda *args: toy_meshes())
    monkeypatch.setattr(sd_sheet, "is_validation", lambda name: name == "Apple")
    captions, renders = sd_sheet.held_out_renders("", 16, 2)
    assert captions and renders.shape == (len(captions), 3, 16, 16)
    monkeypatch.setattr(sd_sheet, "is_validation", lambda name: False)
    with pytest.raises(UserError, match="no held-out assets; name sentences with --prompts"):
        sd_sheet.held_out_renders("pack.npz", 16, 2)
