"""A lopsided stone with a colour in every octant, known in closed form: no two of its sides look alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from threestudio.models.background.solid_color_background import SolidColorBackground
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.materials.no_material import NoMaterial

#: Soft balls whose sum is the stone: centre, size, weight. A head to the front (+x), a hump above, a foot to the left.
BALLS = (
    ((0.0, 0.0, 0.0), 0.45, 1.0),
    ((0.32, 0.0, 0.12), 0.25, 0.8),
    ((-0.15, 0.05, 0.3), 0.25, 0.6),
    ((0.0, 0.3, -0.2), 0.22, 0.6),
)
LEVEL = 0.5
#: Density grows by HARDNESS per unit of solidity, from a soft start about one voxel wide, as trained fields have it.
HARDNESS, SOFTNESS = 4000.0, 60.0


class Pebble(BaseImplicitGeometry):
    """As a cascade of one level, as ``mesh-exporter`` wants it, and with normals. It stands still."""

    def solidity(self, points):
        """[..., 3] to [..., 1]: positive inside."""
        parts = [w * torch.exp(-((points - points.new_tensor(c)) / s).square().sum(-1)) for c, s, w in BALLS]
        return sum(parts)[..., None] - LEVEL

    def colors(self, points):
        """sRGB: red in front, green on the left, blue above, from nearly black to nearly full; flat in every octant."""
        low, high = points.new_tensor([[0.04, 0.08, 0.02], [0.97, 0.7, 0.5]])
        return low + (high - low) * torch.sigmoid(40 * F.normalize(points, dim=-1))

    def forward_density(self, points, timestamps=None):
        return (HARDNESS * F.softplus(self.solidity(points), beta=SOFTNESS))[None]

    def forward(self, points, timestamps=None, output_normal=False):
        return {"density": self.forward_density(points), "features": self.colors(points)[None]}

    def normals(self, points, timestamps=None):
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            slope = torch.autograd.grad(self.solidity(points).sum(), points)[0]
        return -F.normalize(slope, dim=-1)[None]

    def forward_field(self, points):
        return self.forward_density(points)[0], None

    def forward_level(self, field, threshold):
        return threshold - field

    def export(self, points, **kwargs):
        return {"features": self.colors(points)}


def parts(**geometry):
    """Geometry, material and background, as an exporter or a renderer takes them."""
    return {
        "geometry": Pebble({"radius": 1.0, **geometry}),
        "material": NoMaterial({"color_activation": "none"}),
        "background": SolidColorBackground({}),
    }
