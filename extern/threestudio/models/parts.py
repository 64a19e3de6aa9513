"""What renderers and exporters work with: geometry, material and background, without owning them."""

from typing import Any, NamedTuple

from threestudio.models.background.base import BaseBackground
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.materials.base import BaseMaterial

__all__ = ["HasParts", "Parts"]


class Parts(NamedTuple):
    """Holds the parts without making them children of a module: their parameters belong to the system."""

    geometry: Any
    material: Any
    background: Any


class HasParts:
    """Read access to the parts kept in ``sub_modules``."""

    sub_modules: Parts

    @property
    def geometry(self) -> BaseImplicitGeometry:
        return self.sub_modules.geometry

    @property
    def material(self) -> BaseMaterial:
        return self.sub_modules.material

    @property
    def background(self) -> BaseBackground:
        return self.sub_modules.background
