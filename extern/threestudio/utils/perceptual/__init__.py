"""Perceptual distance of pictures, under upstream's import path."""

from .perceptual import PerceptualLoss, PerceptualLossObject

__all__ = ["PerceptualLoss", "PerceptualLossObject"]
