"""``t2v-tiny``: its size, its training end to end at toy size, and the scores that its card states."""

import json
import tempfile
from pathlib import Path

import pytest
import torch
from tiny_text import tiny_text

from threestudio_4d.diffusion.t2v.model import TextToVideoModel, load_t2v
from threestudio_4d.errors import UserError
from threestudio_4d.tiny_priors.assets.bestiary import make_creature
from threestudio_4d.tiny_priors.assets.captions import Captions
from threestudio_4d.tiny_priors.assets.pack import write_pack
from threestudio_4d.tiny_priors.image_text.model import ImageTextModel
from threestudio_4d.tiny_priors.image_text.networks import build_clip_tiny, build_tokenizer
from threestudio_4d.tiny_priors.rendering.scenes import PosedMeshes
from threestudio_4d.tiny_priors.sampling.clip_sampler import ClipSampler
from threestudio_4d.tiny_priors.t2v import evaluation as t2v_evaluation
from threestudio_4d.tiny_priors.t2v import sheet as t2v_sheet
from threestudio_4d.tiny_priors.t2v.networks import build_t2v_tiny
from threestudio_4d.tiny_priors.t2v.train import ClipTask, PictureTask, T2vTrainingConfig, shifted, train_t2v

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, str]:
    """A pack of three moving creatures, and an untrained image-text model."""
    folder = tmp_path_factory.mktemp("t2v")
    write_pack([make_creature(seed) for seed in range(3)], folder / "pack.npz")
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["a fish swimming", "a bird flying"], folder / "tokenizer")
    clip = build_clip_tiny(len(tokenizer), 16, 1, 16, 8, 16)
    ImageTextModel.from_clip(clip, tokenizer).save(folder / "clip", dtype=torch.float32)
    return {"pack": str(folder / "pack.npz"), "text": str(folder / "clip")}


def config(inputs: dict[str, str], out, **settings) -> T2vTrainingConfig:
    toy = {
        "image_size": 16,
        "frames": 4,
        "channels": "16,16",
        "batch_size": 2,
        "evaluation_clips": 4,
        "evaluation_steps": 2,
    }
    toy |= {"compile": False, "jitter_steps": 2, "still_share": 0.3, "minutes": 1000.0}
    return T2vTrainingConfig(**inputs, out=str(out), **(toy | settings))


def test_size():
    model = build_t2v_tiny(None, context_width=192)
    count = sum(parameter.numel() for parameter in model.unet.parameters())
    assert 5.0e6 < count < 5.5e6
    assert model.latent_shape() == (48, 16, 16) and model.image_size == 64 and model.frames == 16
    assert model.alphas_cumprod[-1] < 1e-6


def test_both_stages_go_on_where_they_stopped_and_leave_a_prior(inputs, tmp_path):
    for steps in (2, 4):
        train_t2v(config(inputs, tmp_path, picture_max_steps=3, picture_batch_size=4, max_steps=steps))
    pictures, clips = (json.loads((tmp_path / stage / "training.json").read_text()) for stage in ("pictures", "clips"))
    assert [entry["step"] for entry in pictures["history"]] == [3] and pictures["config"]["batch_size"] == 4
    assert [entry["step"] for entry in clips["history"]] == [2, 4]
    scores = clips["history"][-1]["held_out"]
    assert set(scores["loss"]) == {"right_text", "wrong_text", "no_text"}
    assert set(scores["one_step_psnr"]) == {"right_text", "wrong_text", "no_text", "static_mean"}
    assert scores["samples"]["motion"]["static"] == 0 and scores["samples"]["motion"]["training"] > 0
    prior = load_t2v(str(tmp_path / "clips/prior"))
    text, negative = prior.embed(["a fish swimming"]), prior.embed([""])
    video = prior.sample(text, negative, steps=2, guidance_scale=3.0)
    assert video.shape == (1, 4, 3, 16, 16) and torch.isfinite(video).all()


def test_pictures_teach_what_looks_at_one_frame_and_clips_start_from_it(inputs, tmp_path):
    train_t2v(config(inputs, tmp_path, picture_max_steps=2, picture_minutes=1.0, max_steps=1, learning_rate=0.0))
    torch.manual_seed(0)
    before = build_t2v_tiny(load_t2v(str(tmp_path / "clips/prior")).text, 16, 4, (16, 16)).unet.state_dict()
    after = {stage: load_t2v(str(tmp_path / stage / "prior")).unet for stage in ("pictures", "clips")}
    for name, weight in after["pictures"].state_dict().items():
        along_time = ".temp_" in name or "transformer_in" in name
        if along_time:
            torch.testing.assert_close(weight, before[name], rtol=1e-3, atol=1e-3)  # kept, in half precision
        torch.testing.assert_close(weight, after["clips"].state_dict()[name], rtol=2e-3, atol=2e-3)
    assert not torch.equal(after["pictures"].conv_in.weight, before["conv_in.weight"])
    # What looks along time does nothing yet: a clip is denoised frame by frame.
    noisy, text = torch.randn(1, 48, 4, 4, 4), torch.randn(1, 5, 16)
    with torch.no_grad():
        whole = after["pictures"](noisy, 500, text).sample
        single = torch.cat([after["pictures"](noisy[:, :, i : i + 1], 500, text).sample for i in range(4)], 2)
    torch.testing.assert_close(whole, single, rtol=1e-4, atol=1e-5)


def test_a_training_starts_from_a_named_prior_only_where_it_fits(inputs, tmp_path):
    settings = config(inputs, tmp_path / "first", picture_max_steps=1, max_steps=1)
    train_t2v(settings)
    prior = str(tmp_path / "first/clips/prior")
    task = ClipTask(settings, prior, CPU, 1)
    for name, weight in load_t2v(prior).unet.state_dict().items():
        assert torch.equal(task.model.unet.state_dict()[name], weight)
    with pytest.raises(UserError, match="its UNet lacks .* Both must have the same --channels"):
        ClipTask(config(inputs, tmp_path, channels="32,16"), prior, CPU, 1)
    with pytest.raises(UserError, match="no folder 'unet'"):
        ClipTask(settings, tmp_path, CPU, 1)


def test_a_picture_is_trained_as_a_clip_of_one_frame(inputs, tmp_path):
    task = PictureTask(config(inputs, tmp_path), CPU, 0)
    batch = task.draw(2)
    assert [tuple(part.shape) for part in batch] == [(2, 1, 3, 16, 16), (2, 24, 16), (2,), (2, 48, 1, 4, 4)]
    task.loss(task.model, *batch).backward()
    learning = {name for name, parameter in task.model.named_parameters() if parameter.requires_grad}
    assert learning and not any(".temp_" in name or "transformer_in" in name for name in learning)


def test_a_step_trains_the_network_and_not_the_tower(inputs, tmp_path):
    task = ClipTask(config(inputs, tmp_path), None, CPU, 0)
    batch = task.draw(2)
    assert [tuple(part.shape) for part in batch] == [(2, 4, 3, 16, 16), (2, 24, 16), (2,), (2, 48, 4, 4, 4)]
    loss = task.loss(task.model, *batch)
    loss.backward()
    assert loss.ndim == 0 and torch.isfinite(loss)
    learning = [name for name, parameter in task.model.named_parameters() if parameter.requires_grad]
    assert all(name.startswith("unet.") for name in learning)
    assert task.model.unet.conv_in.weight.grad.abs().sum() > 0


def test_the_loss_of_a_perfect_network_is_zero(inputs, tmp_path, monkeypatch):
    task = ClipTask(config(inputs, tmp_path), None, CPU, 0)
    video, context, t, noise = task.draw(2)
    a = task.model.alphas_cumprod[t].view(-1, 1, 1, 1, 1)
    folded = torch.nn.functional.pixel_unshuffle(video.flatten(0, 1) * 2 - 1, 4).unflatten(0, (2, 4)).transpose(1, 2)
    monkeypatch.setattr(task.model, "denoise", lambda noisy, *args: a.sqrt() * noise - (1 - a).sqrt() * folded)
    assert task.loss(task.model, video, context, t, noise) < 1e-10


def test_words_are_those_of_the_clip(inputs, tmp_path):
    """Without words of the view and without dropout, a clip's context is the embedding of its asset and action."""
    shares = {"view_share": 0.0, "text_dropout": 0.0, "action_share": 1.0, "still_share": 0.0}
    task = ClipTask(config(inputs, tmp_path, **shares), None, CPU, 0)
    sentences = [task.captions.sentences[i] for i in task.held_out.caption.tolist()]
    assert all(sentence.split()[-1] in ("walking", "swimming", "flying", "jumping") for sentence in sentences)
    contexts = task.table(task.held_out.caption)
    torch.testing.assert_close(contexts, task.clip.text.encode(sentences))
    known = task.clip.text.encode(task.captions.sentences)
    for context in task.draw(4)[1]:
        assert (known - context).abs().amax((1, 2)).min() < 1e-5


def test_shifted_timesteps():
    t = torch.tensor([0, 500, 999])
    assert torch.equal(shifted(t, 999, 1.0), t)
    assert shifted(t, 999, 3.0).tolist() == [0, 750, 999]


def test_scores_know_the_truth_from_noise():
    """True clips against themselves are perfect, static ones do not move, noise is far away."""
    torch.manual_seed(1)
    text = tiny_text()
    clip = ImageTextModel.from_clip(build_clip_tiny(len(text.tokenizer), 16, 1, 16, 8, 16), text.tokenizer).eval()
    numbers = torch.tensor([0, 1] * 4)
    truth = t2v_evaluation.CaptionedClips(torch.rand(8, 4, 3, 16, 16) * 0.3 + 0.7, numbers, numbers)
    samples = {"right_text": truth.video, "no_text": torch.rand(8, 4, 3, 16, 16)}
    mean = truth.video.mean((0, 1))
    with torch.no_grad():
        scores = t2v_evaluation.sample_scores(clip, ["a fox", "a red car"], samples, truth, mean)
    assert scores["captions"] == 2 and scores["retrieval"]["chance_top1"] == 0.5
    assert scores["retrieval"]["right_text"] == scores["retrieval"]["true_clips"]
    assert scores["motion"] == pytest.approx(
        {"right_text": 1, "no_text": 10 / 3, "static_mean": 0, "static": 0}, rel=0.1
    )
    assert scores["motion_frechet"]["right_text"] < 1e-6 < scores["motion_frechet"]["static"]
    assert scores["frame_frechet"]["right_text"] < 1e-6 < scores["frame_frechet"]["no_text"]
    assert truth.wrong_captions().tolist() == [1, 0] * 4


def test_one_step_clips_of_a_known_mean(monkeypatch):
    model = build_t2v_tiny(None, 16, 4, (16, 16), 8).requires_grad_(False).eval()
    mean = torch.rand(1, 4, 3, 16, 16)
    clean = model.encode(mean)
    monkeypatch.setattr(
        TextToVideoModel, "predict", lambda self, noisy, t, text: (noisy, clean.expand(len(text), -1, -1, -1, -1))
    )
    drawn = t2v_evaluation.one_step_clips(model, torch.zeros(3, 5, 8), batch_size=2)
    torch.testing.assert_close(drawn, mean.expand(3, -1, -1, -1, -1))
    assert t2v_evaluation.psnr(drawn, mean.expand_as(drawn)) == pytest.approx(100)
    assert t2v_evaluation.psnr(drawn, (mean + 0.1).expand_as(drawn)) == pytest.approx(20, abs=1e-3)


def test_sheets(inputs, tmp_path, monkeypatch):
    model = build_t2v_tiny(tiny_text(), 16, 4, (16, 16)).requires_grad_(False).eval()
    prompts, truth = t2v_sheet.true_clips(inputs["pack"], model, 2, training=True)
    assert truth.shape == (len(prompts), 4, 3, 16, 16) and all("a " in prompt for prompt in prompts)
    rows = t2v_sheet.sample_rows(model, prompts, 2, steps=2, guidance_scale=2.0)
    assert rows.shape == (len(prompts), 2, 4, 3, 16, 16) and (rows[:, 0] != rows[:, 1]).any()
    both = torch.cat([truth[:, None], rows], 1)
    still = t2v_sheet.still_sheet(prompts, both)
    assert still.shape == (len(prompts) * (14 + 3 * 16), 4 * 16, 3)
    expected = (truth[0, 1].permute(1, 2, 0) * 255).round().byte().numpy()
    assert (still[14 : 14 + 16, 16:32] == expected).all()
    for name in ("sheet.png", "sheet.gif"):
        t2v_sheet.write_sheet(tmp_path / name, prompts, both)
        assert (tmp_path / name).stat().st_size > 100
    monkeypatch.setattr(t2v_sheet, "is_validation", lambda name: False)
    with pytest.raises(UserError, match="has no held-out assets; name sentences with --prompts"):
        t2v_sheet.true_clips(inputs["pack"], model, 2)


@torch.no_grad()
def test_the_shipped_prior_draws_what_the_words_say():
    """Creatures that it was not trained on: one step from noise is nearer to them with their words than with others."""
    model = load_t2v("t2v-tiny")
    creatures = [make_creature(seed) for seed in (5000, 5002, 5006, 5007, 5013)]  # of five kinds
    with tempfile.TemporaryDirectory() as folder:
        write_pack(creatures, Path(folder) / "pack.npz")
        meshes = PosedMeshes.load(str(Path(folder) / "pack.npz"), CPU)
    captions = Captions.from_meshes(meshes)
    sampler = ClipSampler(
        meshes, model.frames, model.image_size, 0, None, captions=captions, cfg=ClipSampler.Config(strides=(2,))
    )
    clips = t2v_evaluation.CaptionedClips.draw(sampler, captions, meshes.pose_asset, 6)
    scores = {}
    for name, numbers in (("right", clips.caption), ("wrong", clips.wrong_captions())):
        context = model.embed([captions.sentences[number] for number in numbers.tolist()])
        scores[name] = t2v_evaluation.psnr(t2v_evaluation.one_step_clips(model, context), clips.video)
    assert scores["right"] > scores["wrong"] + 0.3
    assert scores["right"] > 15
