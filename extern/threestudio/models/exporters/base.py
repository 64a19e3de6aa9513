"""Interface of exporters, and the one that writes nothing."""

from dataclasses import dataclass
from typing import Any

from threestudio import register
from threestudio.models.background.base import BaseBackground
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.materials.base import BaseMaterial
from threestudio.models.parts import HasParts, Parts
from threestudio.utils.base import BaseObject

__all__ = ["DummyExporter", "Exporter", "ExporterOutput"]


@dataclass
class ExporterOutput:
    """One file to write: the system calls ``save_<save_type>(<export folder>/<save_name>, **params)``."""

    save_name: str
    save_type: str
    params: dict[str, Any]


class Exporter(HasParts, BaseObject):
    """Called without arguments it returns the files to write. With ``save_video`` the test views are rendered
    as well.
    """

    @dataclass
    class Config(BaseObject.Config):
        save_video: bool = False

    cfg: Config

    def configure(self, geometry: BaseImplicitGeometry, material: BaseMaterial, background: BaseBackground) -> None:
        self.sub_modules = Parts(geometry, material, background)

    def __call__(self, *args: Any, **kwargs: Any) -> list[ExporterOutput]:
        raise NotImplementedError


@register("dummy-exporter")
class DummyExporter(Exporter):
    """Writes nothing."""

    def __call__(self, *args: Any, **kwargs: Any) -> list[ExporterOutput]:
        return []
