"""The training of svd-tiny at toy size, on coloured squares that slide: both stages, resuming, scores."""

import json
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from threestudio_4d.diffusion.svd.model import SVDModel
from threestudio_4d.tiny_priors.sampling.clip_sampler import ClipSampler
from threestudio_4d.tiny_priors.svd import evaluation as svd_evaluation
from threestudio_4d.tiny_priors.svd import sheet as svd_sheet
from threestudio_4d.tiny_priors.svd import train as train_svd
from threestudio_4d.tiny_priors.svd.networks import MEDIAN_MOTION, build_svd_tiny, motion_bucket

SIZE, FRAMES = 16, 4


class Squares:
    """What the training asks of a ClipSampler: squares that slide to the right, 1, 2 or 3 pixels a frame."""

    Config = ClipSampler.Config

    def __init__(self, meshes=None, frames=FRAMES, resolution=SIZE, seed=0, validation=False, **_):
        self.frames, self.size = frames, resolution
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, count):
        speed = torch.randint(1, 4, (count, 1, 1, 1), generator=self.generator)
        colour = torch.rand(count, 1, 3, 1, 1, generator=self.generator)
        row = torch.randint(0, self.size - 6, (count, 1, 1, 1), generator=self.generator)
        y, x = torch.meshgrid(torch.arange(self.size), torch.arange(self.size), indexing="ij")
        left = speed * torch.arange(self.frames).view(1, -1, 1, 1)
        inside = (x >= left) & (x < left + 6) & (y >= row) & (y < row + 6)
        video = torch.where(inside[:, :, None], colour, torch.ones(()))
        return SimpleNamespace(
            video=video, fps=8.0 * speed.flatten().float(), motion=svd_evaluation.motion(video), caption=None
        )


def small(image_size=SIZE, frames=FRAMES):
    return build_svd_tiny(
        image_size,
        frames,
        channels=(32, 32),
        latent_channels=4,
        vae_channels=(32, 32, 32),
        encoder_width=32,
        encoder_layers=1,
    )


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(train_svd, "ClipSampler", Squares)
    monkeypatch.setattr(train_svd, "build_svd_tiny", small)
    monkeypatch.setattr(train_svd, "PosedMeshes", SimpleNamespace(load=lambda pack, device: None))


def call(monkeypatch, out, *more):
    arguments = ["--pack", "none", "--out", str(out), "--image-size", str(SIZE), "--frames", str(FRAMES)]
    arguments += ["--batch-size", "2", "--vae-batch-size", "2", "--validation-clips", "4", "--jitter-steps", "0"]
    arguments += ["--minutes", "0.6", "--vae-minutes", "0.6", "--no-compile", *more]
    monkeypatch.setattr(sys, "argv", ["train_svd", *arguments])
    train_svd.main()


def test_both_stages_train_save_and_go_on(toy, monkeypatch, tmp_path, capsys):
    call(monkeypatch, tmp_path, "--vae-max-steps", "3", "--max-steps", "2")
    vae = json.loads((tmp_path / "vae/training.json").read_text())
    first = json.loads((tmp_path / "svd/training.json").read_text())
    assert vae["history"][-1]["step"] == 3 and first["history"][-1]["step"] == 2
    assert vae["history"][-1]["held out"]["reconstruction_psnr"] > 0
    assert set(first["history"][-1]["held out"]) == {"one_step", "sampled_1", "sampled_2", "sampled_3"}
    assert "held out static" in capsys.readouterr().out
    before = (tmp_path / "vae/state.pt").read_bytes()
    call(monkeypatch, tmp_path, "--vae-max-steps", "3", "--max-steps", "4")
    assert (tmp_path / "vae/state.pt").read_bytes() == before
    assert json.loads((tmp_path / "svd/training.json").read_text())["history"][-1]["step"] == 4
    trained, prior = (SVDModel.load(tmp_path / stage / "prior") for stage in ("vae", "svd"))
    for a, b in zip(trained.vae.parameters(), prior.vae.parameters(), strict=True):
        assert torch.equal(a, b)
    assert prior.vae.config.scaling_factor == trained.vae.config.scaling_factor != 1.0
    changed = [
        not torch.equal(a, b)
        for part in ("unet", "image_encoder")
        for a, b in zip(getattr(trained, part).parameters(), getattr(prior, part).parameters(), strict=True)
    ]
    assert sum(changed) > 0.6 * len(changed)  # queries of the attention to the one token of the picture never do
    clip = prior.sample(torch.rand(2, 3, SIZE, SIZE), steps=2)
    assert clip.shape == (2, FRAMES, 3, SIZE, SIZE) and torch.isfinite(clip).all()


def test_sheet(tmp_path, capsys):
    small().save(tmp_path / "prior")
    folder = tmp_path / "data" / "thing" / "ref"
    folder.mkdir(parents=True)
    for frame in range(4):
        cv2.imwrite(str(folder / f"{frame}.png"), np.full((8, 8, 4), 60 * frame, np.uint8) | [0, 0, 0, 255])
        other = tmp_path / "data" / "other" / "ref"
        other.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(other / f"{frame}.png"), np.full((8, 8, 4), 30 * frame, np.uint8) | [0, 0, 0, 255])
    sheet = tmp_path / "sheet.png"
    arguments = [str(tmp_path / "prior"), str(sheet), "--data", str(tmp_path / "data"), "--steps", "2"]
    svd_sheet.main([*arguments, "--buckets", "30", "200"])
    printed = capsys.readouterr().out
    assert "one step" in printed and "motion at bucket 200" in printed
    assert cv2.imread(str(sheet)).shape == (2 * (4 * SIZE + 6), FRAMES * SIZE + 6, 3)


def test_a_call_that_runs_out_of_time_stops_in_the_first_stage(toy, monkeypatch, tmp_path):
    call(monkeypatch, tmp_path, "--call-minutes", "0.001", "--vae-minutes", "5")
    assert (tmp_path / "vae/state.pt").exists() and not (tmp_path / "svd").exists()


def test_the_autoencoder_learns(toy):
    torch.manual_seed(0)
    model = small().vae
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    video, losses = Squares()(4).video, []
    for _ in range(25):
        loss = train_svd.autoencoder_loss(model, video, torch.randn(16, 4, 4, 4), 1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_prior_learns(toy):
    torch.manual_seed(0)
    model = small()
    model.vae.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    batch, losses = Squares()(4), []
    for _ in range(30):
        sigma = train_svd.edm.draw_training_sigmas(4, *model.sigma_range, 0.7, 1.6, 0.1, "cpu")
        noise = torch.randn(4, FRAMES, 4, 4, 4)
        numbers = (batch.fps, motion_bucket(batch.motion), torch.full((4,), 0.02))
        loss = train_svd.diffusion_loss(model, batch.video, sigma, noise, torch.zeros(4), *numbers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.8 * sum(losses[:5]) / 5
    assert all(p.grad is None for p in model.vae.parameters())


def test_a_dropped_picture_is_not_seen(toy):
    model = small().eval()
    batch = Squares()(2)
    numbers = (batch.fps, batch.motion, torch.zeros(2))
    noise = torch.randn(2, FRAMES, 4, 4, 4)
    other = batch.video.clone()
    other[:, 0] = 0.3  # the first frame is target too: compare what the network is given
    seen = []
    model.denoise = lambda noisy, sigma, condition, ids: seen.append(condition) or noisy
    for video in (batch.video, other):
        train_svd.diffusion_loss(model, video, torch.ones(2), noise, torch.tensor([1.0, 0.0]), *numbers)
    for first, second in ((seen[0].latents, seen[1].latents), (seen[0].embeddings, seen[1].embeddings)):
        assert first[0].abs().max() == 0 and second[0].abs().max() == 0
        assert (first[1] - second[1]).abs().max() > 1e-3


def test_motion_bucket_is_127_for_a_typical_clip_and_saturates():
    values = motion_bucket(torch.tensor([0.0, MEDIAN_MOTION, 400.0]))
    assert values[0] == 0 and values[1].item() == pytest.approx(127.5) and 250 < values[2] < 255


def test_scores_of_the_truth_and_of_a_static_clip():
    batch = Squares(seed=3)(40)
    clips = svd_evaluation.VideoClips(batch.video, batch.fps)
    truth = svd_evaluation.scores(batch.video, clips)
    assert truth["psnr"] > 99 and truth["motion"] == pytest.approx(1) and truth["motion_distance"] < 1e-6
    static = svd_evaluation.scores(svd_evaluation.baseline_clips(clips)["static"], clips)
    assert static["motion"] == 0 and static["psnr"] < 40
    features = svd_evaluation.motion_features(batch.video).double()
    expected = features.mean(0).square().sum() + features.var(0).sum()
    assert static["motion_distance"] == pytest.approx(expected.item(), rel=1e-4)
    backwards = svd_evaluation.scores(batch.video.flip(1), clips)
    assert backwards["motion"] == pytest.approx(1) and backwards["motion_distance"] > 0.5 * static["motion_distance"]
    other = Squares(seed=4)(40)
    assert svd_evaluation.motion_distance(other.video, batch.video) < 0.5 * static["motion_distance"]


def test_clips_of_a_benchmark(tmp_path):
    folder = tmp_path / "thing" / "ref"
    folder.mkdir(parents=True)
    for frame in range(6):
        cv2.imwrite(str(folder / f"{frame}.png"), np.full((8, 8, 4), 40 * frame, np.uint8) | [0, 0, 0, 255])
    clips = svd_evaluation.VideoClips.load(tmp_path, frames=4, size=8, starts=2)
    assert clips.video.shape == (2, 4, 3, 8, 8)
    levels = (clips.video.mean((2, 3, 4)) * 255).round().int().tolist()
    assert levels == [[0, 80, 160, 0], [120, 200, 40, 120]]
    assert clips.fps.tolist() == [3.0, 3.0]
