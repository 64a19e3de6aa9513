"""Explicit 3D Gaussians, and what becomes Gaussians at a moment."""

from .gaussians import Gaussians, Splats

__all__ = ["Gaussians", "Splats"]
