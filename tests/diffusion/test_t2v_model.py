"""Text-to-video networks: against diffusers' retired pipeline, on single frames, and through folders."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_t2v import FRAMES, tiny_t2v

from threestudio_4d.diffusion.t2v.model import TextToVideoModel, guided, load_t2v
from threestudio_4d.diffusion.t2v.temporal_bypass import temporal_bypass, temporal_modules
from threestudio_4d.errors import UserError

CODECS = ("pixels", "latents")


def noise(model: TextToVideoModel, clips: int = 1, frames: int = FRAMES) -> torch.Tensor:
    channels, height, width = model.latent_shape()
    return torch.randn(clips, channels, frames, height, width, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
def test_samples_are_those_of_the_retired_pipeline(guidance_scale):
    from diffusers import TextToVideoSDPipeline

    model = tiny_t2v("latents")
    pipeline = TextToVideoSDPipeline(
        vae=model.vae, text_encoder=model.text.text_encoder, tokenizer=model.text.tokenizer, unet=model.unet,
        scheduler=copy.deepcopy(model.scheduler),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    start = noise(model)
    expected = pipeline(
        "a fox walking", num_frames=FRAMES, num_inference_steps=3, guidance_scale=guidance_scale, height=16, width=16,
        negative_prompt="a red car", latents=start.clone(), output_type="pt",
    ).frames  # fmt: skip
    text, negative = model.embed(["a fox walking"]), model.embed(["a red car"])
    got = model.sample(text, negative, chunk_size=3, latents=start, steps=3, guidance_scale=guidance_scale)
    assert got.shape == (1, FRAMES, 3, 16, 16) and got.std() > 0.01
    torch.testing.assert_close(got, expected.float(), atol=1e-5, rtol=1e-4)


def test_models_on_pixels_sample_with_fresh_noise():
    """At zero terminal SNR too, for every number of steps."""
    model = tiny_t2v("pixels")
    start, text = torch.randn(1, *model.latent_shape()[:1], FRAMES, *model.latent_shape()[1:]), model.embed(["a fox"])

    def draw(seed: int, **options) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return model.sample_latents(text, guidance_scale=1.0, latents=start, generator=generator, **options)

    assert torch.equal(draw(0, steps=3, eta=0.0), draw(1, steps=3, eta=0.0))
    assert torch.equal(draw(0, steps=3), draw(0, steps=3)) and (draw(0, steps=3) != draw(1, steps=3)).any()
    for steps in (2, 7, 16, 24):
        assert torch.isfinite(draw(0, steps=steps)).all()


def test_clips_keep_their_order_through_the_codec():
    model = tiny_t2v("pixels")
    video = torch.rand(2, 3, 3, 16, 16)
    latents = model.encode(video)
    assert latents.shape == (2, 12, 3, 8, 8)
    torch.testing.assert_close(model.decode(latents, chunk_size=2), video)
    torch.testing.assert_close(latents[1, :, 2], model.encode(video[1:, 2:])[0, :, 0])
    model = tiny_t2v("latents")
    latents = model.encode(video, sample=False)
    frame = model.vae.encode(video[1, 2:3] * 2 - 1).latent_dist.mode()[0] * 0.18215
    torch.testing.assert_close(latents[1, :, 2], frame, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("codec", CODECS)
def test_guidance_combines_the_two_predictions(codec):
    model = tiny_t2v(codec)
    noisy, t = noise(model, 2), torch.tensor([300, 700])
    text, negative = model.embed(["a fox", "a pine tree"]), model.embed(["", ""])
    eps_c, x0_c = model.predict(noisy, t, text)
    eps_u, _ = model.predict(noisy, t, negative)
    assert (eps_c - eps_u).abs().max() > 1e-4
    eps, x0 = model.predict(noisy, t, text, negative, 3.0)
    torch.testing.assert_close(eps, eps_u + 3 * (eps_c - eps_u), atol=1e-4, rtol=1e-3)
    plus, _ = model.predict(noisy, t, text, negative, 2.0, "text_plus")
    torch.testing.assert_close(plus, eps, atol=1e-4, rtol=1e-3)
    alpha_bar = model.alphas_cumprod[t].view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps, noisy, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="needs the embeddings of the negative or empty prompt"):
        model.predict(noisy, t, text, guidance_scale=3.0)


def test_both_forms_of_guidance():
    u, c = torch.tensor([1.0]), torch.tensor([3.0])
    assert guided(u, c, 100.0) == 201 and guided(u, c, 100.0, "text_plus") == 203


def as_pictures(model: TextToVideoModel) -> UNet2DConditionModel:
    """The UNet for pictures that is left of a text-to-video UNet without its temporal modules."""
    config = model.unet.config
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=config.block_out_channels,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,  # heads: 16 channels of 8 each
        norm_num_groups=4,
        use_linear_projection=True,
    )
    state = {key: value for key, value in model.unet.state_dict().items() if "temp_" not in key}
    state = {key: value for key, value in state.items() if not key.startswith("transformer_in")}
    linear = {key: value.shape for key, value in unet.state_dict().items()}
    unet.load_state_dict({key: value.view(linear[key]) for key, value in state.items()})
    return unet.eval()


@pytest.mark.parametrize("frames", [1, 3])
def test_bypassed_a_clip_is_a_stack_of_pictures(frames):
    model, t = tiny_t2v("latents"), torch.tensor([400])
    noisy, text = noise(model, 1, frames), model.embed(["a fox"])
    with torch.no_grad():
        stock = model.denoise(noisy, t, text)
        with temporal_bypass(model.unet):
            got = model.denoise(noisy, t, text)
        expected = torch.stack([as_pictures(model)(noisy[:, :, f], t, text).sample for f in range(frames)], 2)
        after = model.denoise(noisy, t, text)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    assert (stock - got).abs().max() > 0.05  # diffusers runs them for one frame too
    assert torch.equal(stock, after)


def test_the_bypass_may_keep_the_first_convolution_of_the_middle():
    """As MotionDirector without gradient checkpointing; each frame is a clip of its own also there."""
    model, t = tiny_t2v("latents"), torch.tensor([400])
    noisy, text = noise(model, 1, 3), model.embed(["a fox"])
    seen = []
    handle = model.unet.mid_block.temp_convs[0].conv1.register_forward_hook(lambda *call: seen.append(call[2].shape[2]))
    with torch.no_grad():
        with temporal_bypass(model.unet):
            without = model.denoise(noisy, t, text)
        assert seen == []
        with temporal_bypass(model.unet, keep_middle=True):
            kept = model.denoise(noisy, t, text)
            alone = torch.cat([model.denoise(noisy[:, :, f : f + 1], t, text) for f in range(3)], 2)
        assert seen == [1] * 4
        for module in temporal_modules(model.unet):
            if module is not model.unet.mid_block.temp_convs[0]:
                module.forward = {
                    "TemporalConvLayer": lambda x, **_: x,
                    "TransformerTemporalModel": lambda x, **_: (x,),
                }[type(module).__name__]
        stock = model.denoise(noisy[:, :, :1], t, text)
    handle.remove()
    torch.testing.assert_close(kept, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(kept[:, :, :1], stock, atol=1e-5, rtol=1e-4)
    assert (kept - without).abs().max() > 1e-3


def test_the_bypass_ends_with_an_error_too():
    unet = tiny_t2v().unet
    modules = temporal_modules(unet)
    assert len(modules) == 1 + 2 * 3 + 3 + 3  # transformer_in, three layers with attention, three without, the middle
    with pytest.raises(RuntimeError, match="stop"), temporal_bypass(unet):
        raise RuntimeError("stop")
    assert not any("forward" in module.__dict__ for module in modules)


@pytest.mark.parametrize("codec", CODECS)
def test_a_saved_prior_is_found_and_gives_the_same(codec, tmp_path, monkeypatch):
    model = tiny_t2v(codec)
    model.save(tmp_path / "load/priors/mini", dtype=torch.float32)
    monkeypatch.chdir(tmp_path)
    loaded = load_t2v("mini")
    assert loaded.frames == FRAMES and not any(p.requires_grad for p in loaded.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key
    text = model.embed(["a fox walking"])
    torch.testing.assert_close(loaded.embed(["a fox walking"]), text)
    noisy, t = noise(model), torch.tensor([500])
    torch.testing.assert_close(loaded.predict(noisy, t, text)[1], model.predict(noisy, t, text)[1])


def test_a_tower_shared_with_a_sibling(tmp_path):
    model = tiny_t2v("pixels")
    model.text.save(tmp_path / "words", dtype=torch.float32)
    model.save(tmp_path / "clips", int8=True, text_from="words")
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == [
        "model_index.json", "scheduler", "unet", "vae",
    ]  # fmt: skip
    loaded = TextToVideoModel.load(tmp_path / "clips")
    torch.testing.assert_close(loaded.embed(["a fox"]), model.embed(["a fox"]))
    error = (loaded.unet.conv_in.weight - model.unet.conv_in.weight).abs().max()
    assert 0 < error < 0.01


def test_diffusers_reads_what_is_saved(tmp_path):
    from diffusers import DiffusionPipeline

    model = tiny_t2v("latents")
    model.save(tmp_path, dtype=torch.float32)
    pipeline = DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    torch.testing.assert_close(pipeline.unet.conv_in.weight, model.unet.conv_in.weight)


def test_mistakes(tmp_path):
    model = tiny_t2v("pixels")
    with pytest.raises(UserError, match="sides divide by 2, got 17x16"):
        model.latent_shape(17, 16)
    with pytest.raises(UserError, match="loaded without its text tower"):
        TextToVideoModel(model.unet, model.vae, model.scheduler).embed(["a fox"])
    from tiny_text import tiny_text

    with pytest.raises(UserError, match="embeddings of 32 channels, the UNet attends to 16"):
        TextToVideoModel(model.unet, model.vae, model.scheduler, tiny_text())
    (tmp_path / "zeroscope.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match="read from a folder in diffusers layout"):
        load_t2v(str(tmp_path / "zeroscope.ckpt"))
    model.save(tmp_path / "p", dtype=torch.float32)
    from safetensors.torch import load_file, save_file

    path = next((tmp_path / "p/unet").glob("*.safetensors"))
    state = load_file(path)
    state.pop("transformer_in.proj_in.weight")
    save_file(state, path)
    with pytest.raises(UserError, match="do not fit UNet3DConditionModel: 1 missing keys"):
        TextToVideoModel.load(tmp_path / "p")
