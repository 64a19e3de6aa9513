"""Attention along time by matrix products equals fused kernels, and stands where networks look along time."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from tiny_svd import tiny_svd
from tiny_t2v import tiny_t2v

from threestudio_4d.guidance import temporal_attention
from threestudio_4d.guidance.temporal_attention import ShortSequenceAttention


@pytest.mark.parametrize("context_tokens", [None, 1, 5])
def test_same_values_and_gradients(context_tokens):
    fused = Attention(query_dim=12, cross_attention_dim=None if context_tokens is None else 8, heads=3, dim_head=4)
    fused.set_processor(AttnProcessor2_0())
    short = copy.deepcopy(fused)
    short.set_processor(ShortSequenceAttention())
    tokens = torch.randn(7, 6, 12, requires_grad=True)
    context = None if context_tokens is None else torch.randn(7, context_tokens, 8)
    results = []
    for layer in (fused, short):
        out = layer(tokens, encoder_hidden_states=context)
        results.append([out, *torch.autograd.grad(out.square().sum(), (tokens, *layer.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_long_sequences_are_left_to_fused_kernels(monkeypatch):
    layer = Attention(query_dim=4, heads=1, dim_head=4, processor=ShortSequenceAttention())
    monkeypatch.setattr(layer.processor, "fused", lambda *args: "fused")
    assert torch.is_tensor(layer(torch.randn(1, 4, 4)))
    monkeypatch.setattr(temporal_attention, "MOST_TOKENS", 3)
    assert layer(torch.randn(1, 4, 4)) == "fused"


@pytest.mark.parametrize("build", [tiny_svd, tiny_t2v])
def test_networks_attend_so_along_time_and_only_there(build):
    unet = build().unet
    short = {
        name for name, module in unet.named_modules()
        if isinstance(module, Attention) and isinstance(module.processor, ShortSequenceAttention)
    }  # fmt: skip
    along_time = {
        name for name, module in unet.named_modules()
        if isinstance(module, Attention) and any(word in name for word in ("temp", "transformer_in"))
    }  # fmt: skip
    assert short == along_time and len(short) >= 6
