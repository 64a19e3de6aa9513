"""Losses that belong to no single system."""

import torch

__all__ = ["tv_loss"]


def tv_loss(x: torch.Tensor) -> torch.Tensor:
    """Total variation of images [B, C, H, W]: mean squared difference of neighbours, twice, averaged over the batch.

    For example a batch of constant images has 0.
    """
    batch, _, height, width = x.shape
    count_h = x[:, :, 1:, :].shape[1:].numel()
    count_w = x[:, :, :, 1:].shape[1:].numel()
    variation_h = (x[:, :, 1:, :] - x[:, :, : height - 1, :]).square().sum()
    variation_w = (x[:, :, :, 1:] - x[:, :, :, : width - 1]).square().sum()
    return 2 * (variation_h / count_h + variation_w / count_w) / batch
