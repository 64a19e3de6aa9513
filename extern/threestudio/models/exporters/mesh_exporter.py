"""``mesh-exporter``: the isosurface as OBJ, with textures or with colours at the vertices."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import threestudio
from threestudio import register
from threestudio.models.exporters.base import Exporter, ExporterOutput
from threestudio.models.exporters.uv_texture import bake_texture
from threestudio.models.mesh import Mesh
from threestudio.utils.errors import UserError
from threestudio.utils.ops import chunk_batch

__all__ = ["MeshExporter"]

_MAPS = {"albedo": "map_Kd", "metallic": "map_Pm", "roughness": "map_Pr", "bump": "map_Bump"}


@register("mesh-exporter")
class MeshExporter(Exporter):
    """``fmt`` "obj-mtl" bakes the material into textures; "obj" writes colours at the vertices. No GPU or OpenGL is
    needed.

    ``context_type`` is accepted for configs written for upstream and has no effect.
    """

    @dataclass
    class Config(Exporter.Config):
        fmt: str = "obj-mtl"
        save_name: str = "model"
        save_normal: bool = False
        save_uv: bool = True
        save_texture: bool = True
        texture_size: int = 1024
        texture_format: str = "jpg"
        xatlas_chart_options: dict = field(default_factory=dict)
        xatlas_pack_options: dict = field(default_factory=dict)
        context_type: str = "gl"

    cfg: Config

    def __call__(self, *args: Any, **kwargs: Any) -> list[ExporterOutput]:
        mesh: Mesh = self.geometry.isosurface()
        if self.cfg.fmt == "obj-mtl":
            return self.export_obj_with_mtl(mesh)
        if self.cfg.fmt == "obj":
            return self.export_obj(mesh)
        raise UserError(f"exporter.fmt is 'obj-mtl' or 'obj', got '{self.cfg.fmt}'.")

    def export_obj_with_mtl(self, mesh: Mesh) -> list[ExporterOutput]:
        params: dict[str, Any] = {
            "mesh": mesh,
            "save_mat": True,
            "save_normal": self.cfg.save_normal,
            "save_uv": self.cfg.save_uv,
            "save_vertex_color": False,
            "map_format": self.cfg.texture_format,
        }
        if self.cfg.save_uv:
            mesh.unwrap_uv(self.cfg.xatlas_chart_options, self.cfg.xatlas_pack_options)
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
        }
        return [ExporterOutput(f"{self.cfg.save_name}.obj", "obj", params)]

    @torch.no_grad()
    def _material_at(self, points: Tensor) -> dict[str, Tensor]:
        def query(points: Tensor) -> dict[str, Tensor]:
            return self.material.export(points=points, **self.geometry.export(points=points))

        return chunk_batch(query, 65536, points)
