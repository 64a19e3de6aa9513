"""Attention along time: few tokens, very many sequences.

Video networks attend across frames at every position of the picture: some ten tokens, tens of thousands of sequences.
Fused attention kernels give each sequence and head a tile made for hundreds of tokens, most of which stays empty, and
take at most 65,535 sequences a call on CUDA. Two batched matrix products and a softmax have neither trouble.
"""

from __future__ import annotations

import torch
from diffusers import UNet3DConditionModel, UNetSpatioTemporalConditionModel
from diffusers.models.attention import TemporalBasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor, nn

MOST_TOKENS = 64  # beyond, fused kernels fill their tiles and save memory


class ShortSequenceAttention:
    """Attention processor that forms the weights; above ``MOST_TOKENS`` it leaves the work to fused kernels.

    So it does where it is compiled.
    """

    def __init__(self) -> None:
        self.fused = AttnProcessor2_0()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """[N, L, C] -> [N, L, C]; keys and values from ``encoder_hidden_states`` [N, K, D] or the tokens themselves."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        # Compiled by torch 2.11 for a training on an H100, the products ended in a misaligned address.
        compiling = torch.compiler.is_compiling()
        if compiling or attention_mask is not None or max(hidden_states.shape[1], context.shape[1]) > MOST_TOKENS:
            return self.fused(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        query, key, value = (
            layer(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, tokens in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        scores = (query * query.shape[-1] ** -0.5) @ key.mT
        attended = scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value
        attended = attended.transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](attended))


def shorten_temporal_attention(unet: UNet3DConditionModel | UNetSpatioTemporalConditionModel) -> int:
    """Let every self-attention across frames run as :class:`ShortSequenceAttention`, weights as they are.

    Returns how many there were.
    """
    blocks: list[nn.Module] = []
    for module in unet.modules():
        if isinstance(module, TransformerTemporalModel):
            blocks += module.transformer_blocks
        elif isinstance(module, TemporalBasicTransformerBlock):
            blocks.append(module)
    layers = [layer for block in blocks for layer in block.modules() if isinstance(layer, Attention)]
    for layer in layers:
        layer.set_processor(ShortSequenceAttention())
    return len(layers)
