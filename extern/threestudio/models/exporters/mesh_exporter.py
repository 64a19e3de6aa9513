"""``mesh-exporter``: the isosurface as OBJ, with textures or with colours at the vertices."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

import threestudio
from threestudio import register
from threestudio.models.exporters.base import Exporter, ExporterOutput
from threestudio.models.exporters.uv_texture import bake_texture
from threestudio.models.mesh import Mesh
from threestudio.utils.errors import UserError
from threestudio.utils.ops import chunk_batch
from threestudio.utils.values import Pixels, Text

__all__ = ["MeshExporter"]

_MAPS = {"albedo": "map_Kd", "metallic": "map_Pm", "roughness": "map_Pr", "bump": "map_Bump"}


@register("mesh-exporter")
class MeshExporter(Exporter):
    """``fmt`` "obj-mtl" bakes the material into textures; "obj" writes colours at the vertices. No GPU or OpenGL is
    needed.

    ``up`` is the file's axis that points up: "y", as most programs expect (what the world shows +x then faces +z), or
    "z", the world frame, which upstream writes. Normals are written unless ``save_normal`` is false.
    ``context_type`` is accepted for configs written for upstream and has no effect.
    """

    @dataclass
    class Config(Exporter.Config):
        fmt: Annotated[str, Literal["obj-mtl", "obj"]] = "obj-mtl"
        save_name: Text = "model"
        up: Annotated[str, Literal["y", "z"]] = "y"
        save_normal: bool = True
        save_uv: bool = True
        save_texture: bool = True
        texture_size: Pixels = 1024
        texture_format: Annotated[str, Literal["jpg", "png"]] = "jpg"
        xatlas_chart_options: dict = field(default_factory=dict)
        xatlas_pack_options: dict = field(default_factory=dict)
        context_type: str = "gl"

    cfg: Config

    def __call__(self, *args: Any, **kwargs: Any) -> list[ExporterOutput]:
        mesh: Mesh = self.geometry.isosurface()
        if self.cfg.fmt == "obj-mtl":
            return self.export_obj_with_mtl(mesh)
        return self.export_obj(mesh)

    def export_obj_with_mtl(self, mesh: Mesh) -> list[ExporterOutput]:
        params: dict[str, Any] = {
            "mesh": mesh,
            "save_mat": True,
            "save_normal": self.cfg.save_normal,
            "save_uv": self.cfg.save_uv,
            "save_vertex_color": False,
            "map_format": self.cfg.texture_format,
            "up": self.cfg.up,
        }
        if self.cfg.save_uv:
            # The gap between charts keeps a viewer's filter from mixing them.
            spaced = {"resolution": self.cfg.texture_size, "padding": 4}
            mesh.unwrap_uv(self.cfg.xatlas_chart_options, spaced | dict(self.cfg.xatlas_pack_options))
        if self.cfg.save_texture:
            if not self.cfg.save_uv:
                raise UserError("exporter.save_texture needs exporter.save_uv.")
            threestudio.info("Exporting textures ...")
            textures = bake_texture(mesh, self.cfg.texture_size, self._material_at)
            params |= {_MAPS[name]: texture for name, texture in textures.items() if name in _MAPS}
        return [ExporterOutput(f"{self.cfg.save_name}.obj", "obj", params)]

    def export_obj(self, mesh: Mesh) -> list[ExporterOutput]:
        colored = False
        if self.cfg.save_texture:
            material = self._material_at(mesh.v_pos)
            if "albedo" in material:
                mesh.set_vertex_color(material["albedo"].to(mesh.v_pos.device))
                colored = True
            else:
                threestudio.warn("The material exports no albedo: the mesh has no colours.")
        if self.cfg.save_uv:
            mesh.unwrap_uv(self.cfg.xatlas_chart_options, self.cfg.xatlas_pack_options)
        params = {
            "mesh": mesh,
            "save_mat": False,
            "save_normal": self.cfg.save_normal,
            "save_uv": self.cfg.save_uv,
            "save_vertex_color": colored,
            "map_format": self.cfg.texture_format,
            "up": self.cfg.up,
        }
        return [ExporterOutput(f"{self.cfg.save_name}.obj", "obj", params)]

    @torch.no_grad()
    def _material_at(self, points: Tensor) -> dict[str, Tensor]:
        def query(points: Tensor) -> dict[str, Tensor]:
            return self.material.export(points=points, **self.geometry.export(points=points))

        return chunk_batch(query, 65536, points)
