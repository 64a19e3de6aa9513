"""The loss functions against values worked out by hand."""

import math

import pytest
import torch

from threestudio_4d.objective import losses


def test_reconstruction_is_the_mean_squared_error_of_each_level():
    target = torch.zeros(1, 2, 2, 3)
    prediction = torch.stack([torch.full((1, 2, 2, 3), 0.5), torch.ones(1, 2, 2, 3)])
    assert losses.reconstruction_loss(prediction, target).tolist() == [0.25, 1.0]


def test_orientation_counts_only_normals_that_face_away():
    normals = torch.tensor([[[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [0.0, 0.6, 0.8]]])
    directions = torch.tensor([[0.0, 0.0, 1.0]]).expand(3, 3)
    weights = torch.tensor([[[0.5], [0.5], [1.0]]], requires_grad=True)
    opacity = torch.tensor([0.0, 0.2, 0.9, 0.0]).view(1, 1, 2, 2, 1)
    value = losses.orientation_loss(weights, normals, directions, opacity)
    assert value.item() == pytest.approx((0.5 * 1 + 1.0 * 0.64) / 2)
    assert not value.requires_grad


def test_orientation_without_samples_is_zero():
    empty = torch.zeros(2, 0, 3, requires_grad=True)
    value = losses.orientation_loss(torch.zeros(2, 0, 1), empty, torch.zeros(0, 3), torch.zeros(2, 1, 2, 2, 1))
    value.backward()
    assert value.item() == 0


def test_normal_consistency():
    normals = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    other = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 1.0, 3.0]]])
    assert losses.normal_consistency_3d(normals, other).item() == pytest.approx(4 / 6)
    assert losses.normal_consistency_3d(torch.zeros(2, 0, 3), torch.zeros(2, 0, 3)).item() == 0


def test_normal_smoothness_looks_along_height_and_width():
    ramp = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 3, 4, 3)
    assert losses.normal_smoothness_2d(ramp).item() == pytest.approx(1.0)
    assert losses.normal_smoothness_2d(ramp.transpose(1, 2)).item() == pytest.approx(1.0)
    batch_differs = torch.stack([torch.zeros(3, 3, 3), torch.ones(3, 3, 3)])
    assert losses.normal_smoothness_2d(batch_differs).item() == 0


def test_sparsity_and_opaque():
    assert losses.sparsity_loss(torch.tensor([[0.0], [math.sqrt(0.99)]])).item() == pytest.approx((0.1 + 1) / 2)
    assert losses.opaque_loss(torch.tensor([[0.5]])).item() == pytest.approx(math.log(2))
    edge = -(0.001 * math.log(0.001) + 0.999 * math.log(0.999))
    assert losses.opaque_loss(torch.tensor([[0.0], [1.0]])).item() == pytest.approx(edge, rel=1e-4)


def test_depth_variance_is_the_mean_over_solid_pixels_of_all_levels():
    variance = torch.tensor([[1.0, 5.0], [3.0, 8.0]])[..., None]  # [L, pixels, 1]
    opacity = torch.tensor([[0.9, 0.1], [0.8, 0.7]])[..., None]
    assert losses.z_variance_loss(variance, opacity).item() == pytest.approx((1 + 3 + 8) / 3)


def test_depth_variance_of_an_empty_picture_is_zero_not_nan():
    variance = torch.tensor([[1.0], [3.0], [100.0]], requires_grad=True)
    assert losses.z_variance_loss(variance, torch.tensor([[0.6], [0.9], [0.5]])).item() == pytest.approx(2.0)
    empty = losses.z_variance_loss(variance, torch.zeros(3, 1))
    empty.backward()
    assert empty.item() == 0 and variance.grad.abs().sum() == 0
