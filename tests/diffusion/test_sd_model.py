"""The networks of Stable Diffusion: predictions, guidance, the sampler against that of diffusers, loading."""

import json

import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline
from tiny_sd import tiny_sd

from threestudio_4d.diffusion.model import load_scheduler
from threestudio_4d.diffusion.sd.model import StableDiffusionModel
from threestudio_4d.diffusion.text import TextConditioner
from threestudio_4d.errors import UserError
from threestudio_4d.guidance import score_distillation as sd

CODECS = ["pixels", "latents"]


@pytest.mark.parametrize("codec", CODECS)
def test_sizes(codec):
    model = tiny_sd(codec)
    assert model.image_size == 16
    assert model.latent_shape == ((12, 8, 8) if codec == "pixels" else (4, 8, 8))
    images = torch.rand(2, 3, 16, 16)
    latents = model.encode(images, sample=False)
    assert latents.shape == (2, *model.latent_shape)
    assert model.decode(latents).shape == images.shape
    if codec == "pixels":
        torch.testing.assert_close(model.decode(latents), images)
    assert model.resize(torch.rand(1, 3, 40, 40)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("codec", CODECS)
def test_predictions_belong_together(codec):
    """z_t = sqrt(a) x0 + sqrt(1 - a) eps, whatever the network predicts."""
    model, t = tiny_sd(codec), torch.tensor([100, 700])
    noisy = torch.randn(2, *model.latent_shape)
    eps, x0 = model.predict(noisy, t, model.embed(["a fox", "a red car"]))
    torch.testing.assert_close(sd.add_noise(x0, eps, model.alphas_cumprod[t]), noisy, rtol=1e-4, atol=1e-4)


def test_guidance_is_away_from_the_negative_prompt():
    model, t = tiny_sd("latents"), torch.tensor([100, 700])
    noisy, text = torch.randn(2, *model.latent_shape), model.embed(["a fox", "a red car"])
    negative = model.embed(["a horse galloping"] * 2)
    got = model.denoise_guided(noisy, t, text, negative, 7.5)
    cond, uncond = model.denoise(noisy, t, text), model.denoise(noisy, t, negative)
    torch.testing.assert_close(got, uncond + 7.5 * (cond - uncond), rtol=1e-4, atol=1e-4)
    assert (cond - uncond).abs().max() > 1e-4
    torch.testing.assert_close(model.denoise_guided(noisy, t, text), cond)
    with pytest.raises(ValueError, match="needs the embeddings of the negative or empty prompt"):
        model.denoise_guided(noisy, t, text, guidance_scale=2.0)


@pytest.mark.parametrize("negative", ["", "an old wooden chair"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_samples_are_those_of_diffusers(tmp_path, negative, prediction):
    """A saved prior opens in ``StableDiffusionPipeline``, and the same noise gives the same picture."""
    model = tiny_sd("latents", prediction)
    model.save(tmp_path, dtype=torch.float32)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    latents = torch.randn(1, *model.latent_shape)
    expected = pipeline(
        "a fox walking",
        negative_prompt=negative,
        height=16,
        width=16,
        num_inference_steps=5,
        guidance_scale=4.0,
        latents=latents,
        output_type="pt",
    ).images
    got = model.sample(model.embed(["a fox walking"]), model.embed([negative]), 5, 4.0, latents=latents)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_sampling_follows_the_generator():
    model = tiny_sd("pixels")
    text, none = model.embed(["a fox", "a red car"]), model.embed([""])
    draws = [model.sample(text, none, 3, 2.0, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert draws[0].shape == (2, 3, 16, 16) and torch.isfinite(draws[0]).all()
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("codec", CODECS)
def test_saving_and_loading(codec, tmp_path):
    model = tiny_sd(codec)
    model.save(tmp_path, dtype=torch.float32)
    loaded = StableDiffusionModel.load(tmp_path)
    assert set(loaded.state_dict()) == set(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key
    assert torch.equal(loaded.alphas_cumprod, model.alphas_cumprod)
    assert loaded.prediction_type == model.prediction_type
    without = StableDiffusionModel.load(tmp_path, text=False)
    with pytest.raises(UserError, match="loaded without its text tower"):
        without.embed(["a fox"])


def test_eight_bits_and_a_shared_tower(tmp_path):
    model = tiny_sd("pixels")
    model.text.save(tmp_path / "clip")
    model.save(tmp_path / "sd", int8=True, text_from="clip")
    assert not (tmp_path / "sd/text_encoder").exists() and not (tmp_path / "sd/tokenizer").exists()
    index = json.loads((tmp_path / "sd/model_index.json").read_text())
    shared = {"text_encoder": "clip", "tokenizer": "clip"}
    assert index == {"_class_name": "StableDiffusionModel", "shared": shared}
    loaded = StableDiffusionModel.load(tmp_path / "sd")
    text = TextConditioner.load(tmp_path / "clip")
    assert torch.equal(loaded.embed(["a fox"]), text.encode(["a fox"]))
    noisy, t = torch.randn(1, *model.latent_shape), torch.tensor([500])
    error = (loaded.denoise(noisy, t, loaded.embed(["a fox"])) - model.denoise(noisy, t, model.embed(["a fox"]))).abs()
    assert error.max() < 0.1


def test_a_schedule_saved_for_another_sampler(tmp_path, capfd):
    """Stable Diffusion 1.5 ships PNDM; its noise schedule is what counts."""
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **schedule).save_pretrained(tmp_path)
    scheduler = load_scheduler(tmp_path)
    torch.testing.assert_close(scheduler.alphas_cumprod[[0, 999]], torch.tensor([0.99915, 0.00466]), atol=1e-5, rtol=0)
    assert scheduler.config.prediction_type == "epsilon"
    assert "expected" not in capfd.readouterr().err


def test_mistakes(tmp_path):
    model = tiny_sd("pixels")
    model.text.text_encoder.config.hidden_size = 99
    with pytest.raises(UserError, match="embeddings of 99 channels, the UNet attends to 16"):
        StableDiffusionModel(model.unet, model.vae, model.scheduler, model.text)
    tiny_sd("latents").save(tmp_path / "p")
    (tmp_path / "p/scheduler/scheduler_config.json").unlink()
    (tmp_path / "p/scheduler").rmdir()
    with pytest.raises(UserError, match="it has no folder 'scheduler'"):
        StableDiffusionModel.load(tmp_path / "p")
