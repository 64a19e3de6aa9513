"""Convolutions over time in two dimensions equal those in three."""

import copy

import pytest
import torch
from tiny_svd import tiny_svd
from torch import nn

from threestudio_4d.diffusion.t2v.temporal_convolution import TemporalConv3d, flatten_temporal_convolutions


@pytest.mark.parametrize(
    "settings",
    [{"padding": (1, 0, 0)}, {"stride": (2, 1, 1)}, {"padding": (2, 0, 0), "dilation": (2, 1, 1), "groups": 2}],
)
def test_same_values_and_gradients(settings):
    plain = nn.Conv3d(4, 6, (3, 1, 1), **settings)
    flat = copy.deepcopy(plain)
    assert flatten_temporal_convolutions(flat) == 1 and isinstance(flat, TemporalConv3d)
    video = torch.randn(2, 7, 4, 5, 3).transpose(1, 2).requires_grad_()
    results = []
    for layer in (plain, flat):
        out = layer(video)
        results.append([out, *torch.autograd.grad(out.square().sum(), (video, *layer.parameters()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_other_convolutions_stay():
    network = nn.Sequential(nn.Conv3d(2, 2, 3), nn.Conv3d(2, 2, (3, 1, 1), padding="same"), nn.Conv2d(2, 2, 1))
    assert flatten_temporal_convolutions(network) == 0


def test_an_svd_has_none_left():
    model = tiny_svd()
    assert not [module for module in model.modules() if type(module) is nn.Conv3d and module.kernel_size[1:] == (1, 1)]
    assert sum(isinstance(module, TemporalConv3d) for module in model.modules()) > 10
