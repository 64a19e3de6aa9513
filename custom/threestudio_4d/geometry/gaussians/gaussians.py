"""A set of 3D Gaussians as plain tensors, activated: what a renderer or an exporter needs to know of any splats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from threestudio.utils.typing import Float, Tensor

from .rotations import matrix_of_quaternion, multiply_quaternions, quaternion_of_matrix
from .spherical_harmonics import SH_C0


@dataclass
class Gaussians:
    """N Gaussians, or batches of as many each. World: z up; lengths in world units.

    Attributes:
        means: centres.
        quats: orientations as quaternions w, x, y, z; of any length but zero.
        scales: standard deviations along the Gaussian's own axes, positive.
        opacities: in [0, 1].
        sh: K = (degree + 1)² coefficients of spherical harmonics for each colour channel, in the order of 3D Gaussian
            Splatting; seen from direction d the colour is ``max(0, 0.5 + sum_k sh_k Y_k(d))``.
    """

    means: Float[Tensor, "... N 3"]
    quats: Float[Tensor, "... N 4"]
    scales: Float[Tensor, "... N 3"]
    opacities: Float[Tensor, "... N"]
    sh: Float[Tensor, "... N K 3"]

    @classmethod
    def with_colours(
        cls,
        means: Float[Tensor, "... N 3"],
        quats: Float[Tensor, "... N 4"],
        scales: Float[Tensor, "... N 3"],
        opacities: Float[Tensor, "... N"],
        colours: Float[Tensor, "... N 3"],
    ) -> Gaussians:
        """Gaussians of one colour from all sides, ``colours`` in [0, 1]."""
        return cls(means, quats, scales, opacities, ((colours - 0.5) / SH_C0)[..., None, :])

    @property
    def batch_shape(self) -> torch.Size:
        """What stands before N."""
        return self.means.shape[:-2]

    @property
    def count(self) -> int:
        """N."""
        return self.means.shape[-2]

    @property
    def base_colours(self) -> Float[Tensor, "... N 3"]:
        """The part of the colour that does not depend on the direction, not clamped."""
        return 0.5 + SH_C0 * self.sh[..., 0, :]

    def map(self, function: Callable[[Tensor], Tensor]) -> Gaussians:
        """``function`` of every tensor: ``gaussians.map(torch.detach)``, ``gaussians.map(lambda x: x[frame])``."""
        return Gaussians(**{name: function(value) for name, value in vars(self).items()})

    def covariances(self) -> Float[Tensor, "... N 3 3"]:
        """R S² Rᵀ."""
        root = matrix_of_quaternion(self.quats) * self.scales[..., None, :]
        return root @ root.transpose(-1, -2)

    def turned(self, rotation: Float[Tensor, "3 3"], scale: float | Tensor = 1.0) -> Gaussians:
        """The same in a world turned about the origin, then scaled: means become ``scale * rotation @ mean``.

        Args:
            rotation: [3, 3].
            scale: a number, or one for each batch, as broadcasts to [..., N, 3].

        Raises:
            ValueError: colours depend on the direction, which would have to turn too.
        """
        if self.sh.shape[-2] > 1:
            raise ValueError("only Gaussians whose colour is the same from all sides can be turned")
        rotation = rotation.to(self.means)
        quats = multiply_quaternions(quaternion_of_matrix(rotation), F.normalize(self.quats, dim=-1))
        return Gaussians(scale * self.means @ rotation.T, quats, scale * self.scales, self.opacities, self.sh)


class Splats(Protocol):
    """Anything that is Gaussians at a moment: a fixed set, or a deformed one."""

    def at(self, time: Float[Tensor, " T"]) -> Gaussians:
        """Gaussians with batch shape [T] at times in [0, 1]."""
        ...
