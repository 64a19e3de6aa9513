"""The networks of MVDream: what crosses views, how cameras enter, saving, sampling."""

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.models.attention_processor import AttnProcessor2_0
from tiny_mvdream import TEXT_WIDTH, tiny_mvdream

from threestudio_4d.diffusion.mvdream.model import MVDreamModel, attend_across_views, camera_condition, rescale_std
from threestudio_4d.diffusion.weights.ldm_layout import SCHEDULER_CONFIG
from threestudio_4d.errors import UserError
from threestudio_4d.tiny_priors.mvdream.networks import build_mvdream_tiny
from threestudio_4d.tiny_priors.rendering.rasterise import camera_to_world


def inputs(model: MVDreamModel, groups: int = 2) -> tuple[torch.Tensor, ...]:
    rows = groups * model.views
    noisy = torch.randn(rows, *model.latent_shape)
    azimuth = torch.arange(rows) * 90.0
    camera = camera_condition(camera_to_world(torch.full((rows,), 10.0), azimuth, torch.full((rows,), 2.0)))
    return noisy, torch.full((rows,), 500), torch.randn(rows, 5, TEXT_WIDTH), camera


def test_cameras_lose_their_distance_and_nothing_else():
    c2w = camera_to_world(torch.tensor([0.0, 30.0]), torch.tensor([0.0, 90.0]), torch.tensor([2.0, 3.5]))
    before = c2w.clone()
    vector = camera_condition(c2w)
    assert torch.equal(c2w, before), "the input is not written to"
    matrix = vector.view(2, 4, 4)
    torch.testing.assert_close(matrix[:, :3, 3].norm(dim=1), torch.ones(2))
    torch.testing.assert_close(matrix[:, :, :3], c2w[:, :, :3])
    # Row by row: right (y), up (z), back (x), position of a camera on +x at distance 1.
    row = [0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    torch.testing.assert_close(vector[0], torch.tensor(row).float(), atol=1e-6, rtol=0)


def test_views_of_a_group_see_each_other_and_other_groups_do_not():
    model = tiny_mvdream()
    noisy, t, text, camera = inputs(model)
    before = model.denoise(noisy, t, text, camera)
    changed = noisy.clone()
    changed[1] += 1.0
    difference = (model.denoise(changed, t, text, camera) - before).abs().amax(dim=(1, 2, 3))
    assert (difference[:4] > 1e-4).all(), "a view changes all views of its group"
    assert (difference[4:] < 1e-6).all(), "and no view of another"


def test_one_view_is_the_plain_network():
    """With groups of one, the multi-view attention is the attention of the stock UNet."""
    model = tiny_mvdream()
    noisy, t, text, camera = inputs(model)
    across = model.denoise(noisy, t, text, camera)
    alone = attend_across_views(model.unet, 1)(noisy, t, text, class_labels=camera).sample
    model.unet.set_attn_processor(AttnProcessor2_0())
    torch.testing.assert_close(model.unet(noisy, t, text, class_labels=camera).sample, alone)
    assert (across - alone).abs().max() > 1e-3


def test_attention_over_four_views_by_hand():
    """One self-attention layer: four pictures of L tokens give what one picture of 4 L tokens gives."""
    model = tiny_mvdream()
    layer = model.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    tokens = torch.randn(8, 6, 32)
    out = layer(tokens)
    layer.set_processor(AttnProcessor2_0())
    torch.testing.assert_close(out, layer(tokens.reshape(2, 24, 32)).reshape(8, 6, 32))


def test_every_view_depends_on_its_camera():
    model = tiny_mvdream()
    noisy, t, text, camera = inputs(model)
    before = model.denoise(noisy, t, text, camera)
    assert (model.denoise(noisy, t, text, camera.roll(1, 0)) - before).abs().amax(dim=(1, 2, 3)).min() > 1e-4


def test_the_deviation_is_taken_over_all_views_of_a_group():
    torch.manual_seed(1)
    guided, plain = torch.randn(8, 3, 4, 4) * torch.arange(1, 9).view(-1, 1, 1, 1), torch.randn(8, 3, 4, 4)
    full = rescale_std(guided, plain, 4, 1.0)
    for group in (slice(0, 4), slice(4, 8)):
        torch.testing.assert_close(full[group].std(), plain[group].std())
        ratio = full[group] / guided[group]
        torch.testing.assert_close(ratio, ratio[:1, :1, :1, :1].expand_as(ratio))
    torch.testing.assert_close(rescale_std(guided, plain, 4, 0.5), (full + guided) / 2)
    torch.testing.assert_close(rescale_std(guided, plain, 4, 0.0), guided)


@pytest.mark.parametrize("codec", ["pixels", "latents"])
def test_guidance_by_hand(codec):
    model = tiny_mvdream(codec)
    noisy, t, text, camera = inputs(model)
    negative = torch.randn_like(text)
    eps, x0 = model.predict(noisy, t, text, negative, camera, 7.0)
    u, c = (model.denoise(noisy, t, words, camera) for words in (negative, text))
    expected = model.to_epsilon_and_x0(u + 7 * (c - u), noisy, t)
    torch.testing.assert_close(eps, expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(x0, expected[1], atol=1e-4, rtol=1e-4)
    eps, x0 = model.predict(noisy, t, text, negative, camera, 7.0, 0.5)
    plain = model.to_epsilon_and_x0(c, noisy, t)[1]
    torch.testing.assert_close(x0, rescale_std(expected[1], plain, 4, 0.5), atol=1e-4, rtol=1e-4)
    a = model.alphas_cumprod[t].view(-1, 1, 1, 1)
    torch.testing.assert_close(a.sqrt() * x0 + (1 - a).sqrt() * eps, noisy, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("codec", ["pixels", "latents"])
@pytest.mark.parametrize("int8", [False, True])
def test_saving_and_loading(tmp_path, codec, int8):
    model = tiny_mvdream(codec)
    model.save(tmp_path / "prior", dtype=torch.float32, int8=int8)
    again = MVDreamModel.load(tmp_path / "prior", text=False)
    noisy, t, text, camera = inputs(model)
    tolerance = 0.05 if int8 else 1e-6
    torch.testing.assert_close(
        again.denoise(noisy, t, text, camera), model.denoise(noisy, t, text, camera), atol=tolerance, rtol=tolerance
    )
    assert again.views == 4 and again.prediction_type == model.prediction_type


def test_missing_parts_and_wrong_networks(tmp_path):
    model = tiny_mvdream()
    model.save(tmp_path / "prior")
    (tmp_path / "prior" / "unet" / "config.json").unlink()
    with pytest.raises(Exception, match=r"config\.json"):
        MVDreamModel.load(tmp_path / "prior", text=False)
    plain = tiny_mvdream().unet
    plain.register_to_config(class_embed_type=None)
    with pytest.raises(UserError, match="takes cameras through a class embedding"):
        MVDreamModel(plain, model.vae, model.scheduler)
    with pytest.raises(ValueError, match="do not divide into groups of 4"):
        model.denoise(*(value[:3] for value in inputs(model)))


@pytest.mark.parametrize("codec", ["pixels", "latents"])
def test_sampling(codec):
    model = tiny_mvdream(codec)
    _, _, text, camera = inputs(model, groups=1)
    images = [
        model.sample(text, torch.zeros_like(text), camera, 3, 4.0, 0.5, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert images[0].shape == (4, 3, model.image_size, model.image_size)
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])
    assert images[0].min() >= 0 and images[0].max() <= 1


def test_timesteps_of_the_published_schedule():
    model, seen = tiny_mvdream("latents"), []
    model.scheduler = DDIMScheduler(**SCHEDULER_CONFIG)
    _, _, text, camera = inputs(model, groups=1)
    predict = model.predict
    model.predict = lambda latents, t, *rest: (seen.append(int(t[0])), predict(latents, t, *rest))[1]
    model.sample(text, None, camera, 4, 1.0)
    assert seen == [751, 501, 251, 1]  # 981, 961, ... 1 with 50 steps


def test_the_built_in_architecture():
    model = build_mvdream_tiny(None, context_width=192)
    assert (model.image_size, model.views, model.prediction_type) == (64, 4, "v_prediction")
    assert model.alphas_cumprod[-1] == 0
    assert sum(p.numel() for p in model.unet.parameters()) < 4.05e6
