"""Training of the text-to-multi-view prior: its scores by hand, a few steps that learn and resume, the sheet."""

import json

import cv2
import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_mvdream import TEXT_WIDTH, tiny_mvdream
from toy_meshes import toy_meshes

from threestudio_4d.diffusion.mvdream.model import MVDreamModel
from threestudio_4d.errors import UserError
from threestudio_4d.guidance.mvdream_guidance import load_mvdream
from threestudio_4d.tiny_priors.image_text.model import ImageTextModel
from threestudio_4d.tiny_priors.image_text.networks import build_clip_tiny, build_tokenizer
from threestudio_4d.tiny_priors.mvdream import sheet as mvdream_sheet
from threestudio_4d.tiny_priors.mvdream import train as train_mvdream
from threestudio_4d.tiny_priors.mvdream.evaluation import (
    ViewGroups,
    colour_histograms,
    consistency,
    consistency_scores,
    denoising_losses,
    level_views,
    one_step_psnr,
    unrelated,
    variants,
)
from threestudio_4d.tiny_priors.mvdream.networks import build_mvdream_tiny
from threestudio_4d.tiny_priors.mvdream.train import MVDreamTask, MVDreamTrainingConfig
from threestudio_4d.tiny_priors.sd.networks import build_sd_tiny
from threestudio_4d.tiny_priors.training.initial_weights import start_unet_from
from threestudio_4d.tiny_priors.training.loop import train


def groups(count: int = 6) -> ViewGroups:
    return ViewGroups(torch.rand(count, 4, 3, 16, 16), torch.randn(count, 4, 16), torch.arange(count) % 3)


def embed(captions: torch.Tensor) -> torch.Tensor:
    """Contexts that differ by caption only."""
    table = torch.randn(3, 5, TEXT_WIDTH, generator=torch.Generator().manual_seed(0))
    return table[captions]


def test_views_start_from_pictures(tmp_path):
    """A prior of views that starts from one of pictures draws what that draws, whatever the cameras."""
    torch.manual_seed(0)
    pictures = build_sd_tiny(None, 16, (16, 32), TEXT_WIDTH).eval()
    pictures.save(tmp_path, dtype=torch.float32)
    views = build_mvdream_tiny(None, 16, (16, 32), TEXT_WIDTH, views=1).eval()
    start_unet_from(views.unet, tmp_path, UNet2DConditionModel, new="class_embedding.")
    noisy, t, text = torch.randn(2, 12, 8, 8), torch.tensor([10, 900]), torch.randn(2, 5, TEXT_WIDTH)
    with torch.no_grad():
        torch.testing.assert_close(
            views.denoise(noisy, t, text, torch.randn(2, 16)), pictures.denoise(noisy, t, text), rtol=1e-4, atol=1e-5
        )
    with pytest.raises(UserError, match="lacks class_embedding"):
        start_unet_from(views.unet, tmp_path, UNet2DConditionModel)


def test_strangers_keep_their_own_place():
    values = torch.arange(5)[:, None] * 10 + torch.arange(4)
    mixed = unrelated(values)
    assert (mixed % 10 == torch.arange(4)).all(), "view v stays view v"
    assert all(len(set((row // 10).tolist())) == 4 for row in mixed), "of four objects"
    assert sorted(mixed.flatten().tolist()) == sorted(values.flatten().tolist())


def test_each_variant_lacks_one_thing():
    data = groups()
    shown = variants(data, embed, torch.zeros(1, 5, TEXT_WIDTH))
    right = shown["right"]
    assert torch.equal(right.images, data.images.flatten(0, 1))
    assert torch.equal(right.text, embed(data.caption).repeat_interleave(4, 0))
    for name in ("wrong_text", "no_text", "wrong_cameras"):
        assert torch.equal(shown[name].images, right.images)
        assert torch.equal(shown[name].camera, right.camera) == (name != "wrong_cameras")
        same_text = (shown[name].text == right.text).flatten(1).all(1)
        assert same_text.all() if name == "wrong_cameras" else not same_text.any()
    # Every picture of the strangers has its own text and camera.
    strangers = shown["unrelated_views"]
    for i, picture in enumerate(strangers.images):
        j = int((right.images == picture).flatten(1).all(1).nonzero())
        assert torch.equal(strangers.text[i], right.text[j]) and torch.equal(strangers.camera[i], right.camera[j])
        assert i % 4 == j % 4


def test_the_denoising_loss_by_hand():
    model, shown = tiny_mvdream(), variants(groups(4), embed, torch.zeros(1, 5, TEXT_WIDTH))
    got = denoising_losses(model, shown, levels=2, batch_groups=3)
    rows, generator = shown["right"], torch.Generator().manual_seed(0)
    noise = torch.cat([torch.randn((n, 12, 8, 8), generator=generator) for n in (12, 4)])
    t = torch.tensor([250, 749]).repeat_interleave(8)
    a = model.alphas_cumprod[t].view(-1, 1, 1, 1)
    z = model.encode(rows.images)
    output = model.denoise(a.sqrt() * z + (1 - a).sqrt() * noise, t, rows.text, rows.camera)
    expected = (output - (a.sqrt() * noise - (1 - a).sqrt() * z)).square().mean().item()
    assert got["right"] == pytest.approx(expected, rel=1e-4)
    assert set(got) == {"right", "wrong_text", "no_text", "wrong_cameras", "unrelated_views"}
    scores = one_step_psnr(model, shown, rows.images.mean(0))
    error = (rows.images - rows.images.mean(0)).square().flatten(1).mean(1)
    assert scores["mean_picture"] == pytest.approx((-10 * error.log10()).mean().item(), abs=1e-3)
    assert "unrelated_views" not in scores


def test_histograms_and_outlines_of_drawn_squares():
    red, blue = torch.tensor([0.9, 0.1, 0.1]).view(3, 1, 1), torch.tensor([0.1, 0.1, 0.9]).view(3, 1, 1)

    def square(colour, left):
        picture = torch.ones(3, 16, 16)
        picture[:, 4:12, left : left + 4] = colour
        return picture

    half = torch.cat([square(red, 2)[..., :4], square(blue, 2)[..., 4:]], -1)
    histograms = colour_histograms(torch.stack([square(red, 2), half, torch.ones(3, 16, 16)]))
    assert histograms[0].max() == 1 and histograms[1].max() == 0.5 and histograms[2].sum() == 0
    # An object left of the axis is right of it from behind.
    agreeing = torch.stack([square(red, 2), square(red, 6), square(red, 10), square(red, 6)])[None]
    assert consistency(agreeing) == {"colour": pytest.approx(1), "outline": pytest.approx(1)}
    unmirrored = torch.stack([square(red, 2), square(blue, 6), square(red, 2), square(blue, 6)])[None]
    assert consistency(unmirrored) == {"colour": pytest.approx(2 / 6), "outline": pytest.approx(0.5)}


def test_consistency_tells_objects_from_strangers():
    """On renders, and for samples when draws are exchanged."""
    truth = level_views(toy_meshes(), 8, 32, validation=None, seed=1)
    scores = consistency_scores(truth.images[:, None].expand(-1, 3, -1, -1, -1, -1), truth.images)
    assert scores["samples"] == scores["samples_exchanged"] == pytest.approx(scores["renders"], abs=1e-5)
    for name in ("colour", "outline"):
        assert scores["renders"][name] > scores["renders_exchanged"][name] + 0.1
    mixed = truth.images.view(4, 2, 4, 3, 32, 32)  # two different objects as draws of one sentence
    scores = consistency_scores(mixed, truth.images)
    assert scores["samples"]["colour"] > scores["samples_exchanged"]["colour"]


@pytest.fixture
def clip(tmp_path):
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["a fox", "an apple"], tmp_path / "tokenizer")
    model = ImageTextModel.from_clip(build_clip_tiny(len(tokenizer), 32, 1, 16, 8, 16), tokenizer)
    return model.requires_grad_(False).eval()


def test_training_learns_and_resumes(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(train_mvdream.PosedMeshes, "load", lambda *args: toy_meshes())
    clip.save(tmp_path / "words")
    config = MVDreamTrainingConfig(
        pack="", text=str(tmp_path / "words"), out=str(tmp_path / "run"), image_size=16, channels="32,32",
        batch_size=4, max_steps=20, warmup_steps=3, learning_rate=3e-3, ema_decay=0.9, compile=False,
        jitter_steps=5, evaluation_groups=8, evaluation_draws=2,
    )  # fmt: skip
    train(lambda device, seed: MVDreamTask(config, device, seed), config)
    scores = json.loads((tmp_path / "run/training.json").read_text())["history"][-1]["train"]
    assert scores["loss"]["right"] < 0.75  # 1.0 before training
    assert set(scores["consistency"]) == {"samples", "samples_exchanged", "renders", "renders_exchanged"}
    assert set(scores["samples"]["frechet"]) >= {"right_text", "wrong_text", "other_split_renders"}
    model = load_mvdream(str(tmp_path / "run/prior"), text=True)
    MVDreamModel.load(tmp_path / "run/prior").save(tmp_path / "small", int8=True, text_from="words")
    small = load_mvdream(str(tmp_path / "small"), text=True)
    camera = torch.eye(4).flatten().expand(4, -1)
    images = [
        which.sample(*(which.embed([s]).expand(4, -1, -1) for s in ("a fox", "")), camera, 3,
                     generator=torch.Generator().manual_seed(0))
        for which in (model, small)
    ]  # fmt: skip
    assert (images[0] - images[1]).abs().mean() < 0.05
    config.max_steps = 22
    train(lambda device, seed: MVDreamTask(config, device, seed), config)
    assert json.loads((tmp_path / "run/training.json").read_text())["history"][-1]["step"] == 22
    arguments = [str(tmp_path / "run/prior"), str(tmp_path / "sheet.png"), "--prompts", "a fox", "an apple"]
    mvdream_sheet.main([*arguments, "--steps", "2", "--draws", "2"])
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[:2] == (2 * 16 + 2 * mvdream_sheet.LABEL, 2 * 4 * 16)
    monkeypatch.setattr(mvdream_sheet.PosedMeshes, "load", lambda *args: toy_meshes())
    mvdream_sheet.main([str(tmp_path / "run/prior"), str(tmp_path / "sheet.png"), "--pack", "x", "--steps", "2"])
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[1] == 3 * 4 * 16
