"""Triangle meshes on tensors, with derived quantities computed when first asked for."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import threestudio
from threestudio.utils.ops import cross, dot

__all__ = ["Mesh"]


class Mesh:
    """Positions ``v_pos`` [V, 3] and triangles ``t_pos_idx`` [F, 3] (long, counter-clockwise seen from outside).

    ``v_nrm`` [V, 3], ``v_tng`` [V, 3], ``edges`` [E, 2], ``v_tex`` [T, 2] and ``t_tex_idx`` [F, 3] appear on first use;
    ``v_rgb`` [V, 3] is None until ``set_vertex_color``. Further keyword arguments are kept in ``extras``.
    """

    def __init__(self, v_pos: Tensor, t_pos_idx: Tensor, **kwargs: Any) -> None:
        self.v_pos = v_pos
        self.t_pos_idx = t_pos_idx
        self._v_nrm: Tensor | None = None
        self._v_tng: Tensor | None = None
        self._v_tex: Tensor | None = None
        self._t_tex_idx: Tensor | None = None
        self._v_rgb: Tensor | None = None
        self._edges: Tensor | None = None
        self.extras: dict[str, Any] = {}
        for key, value in kwargs.items():
            self.add_extra(key, value)

    def add_extra(self, key: str, value: Any) -> None:
        self.extras[key] = value

    @property
    def requires_grad(self) -> bool:
        return self.v_pos.requires_grad

    def remove_outlier(self, outlier_n_faces_threshold: int | float) -> "Mesh":
        """A mesh without small components; itself if positions need gradients.

        Args:
            outlier_n_faces_threshold: least number of faces of a component, or (float) least share of those of the
            largest.
        """
        if self.requires_grad:
            threestudio.debug("Mesh is differentiable: outliers are kept.")
            return self
        if len(self.t_pos_idx) == 0:
            return self
        faces = self.t_pos_idx.cpu().numpy()
        labels = _components(faces, len(self.v_pos))
        face_labels = labels[faces[:, 0]]
        counts = np.bincount(face_labels, minlength=labels.max() + 1)
        threshold = outlier_n_faces_threshold
        least = threshold * counts.max() if isinstance(threshold, float) else threshold
        kept = faces[counts[face_labels] >= least]
        used, new_faces = np.unique(kept, return_inverse=True)
        device = self.v_pos.device
        return Mesh(
            self.v_pos[torch.as_tensor(used, device=device)],
            torch.as_tensor(new_faces.reshape(-1, 3), dtype=torch.long, device=device),
        )

    @property
    def v_nrm(self) -> Tensor:
        """Unit vertex normals [V, 3], weighted by face area; +z where a vertex has none."""
        if self._v_nrm is None:
            corners = self.v_pos[self.t_pos_idx]
            face_normals = cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            normals = torch.zeros_like(self.v_pos)
            for i in range(3):
                normals = normals.index_add(0, self.t_pos_idx[:, i], face_normals)
            up = torch.tensor([0.0, 0.0, 1.0], dtype=normals.dtype, device=normals.device)
            self._v_nrm = F.normalize(torch.where(dot(normals, normals) > 1e-20, normals, up), dim=-1)
        return self._v_nrm

    @property
    def v_tng(self) -> Tensor:
        """Unit tangents [V, 3] along the u direction of the texture, orthogonal to ``v_nrm``."""
        if self._v_tng is None:
            pos, tex = self.v_pos[self.t_pos_idx], self.v_tex[self.t_tex_idx]
            edge1, edge2 = pos[:, 1] - pos[:, 0], pos[:, 2] - pos[:, 0]
            uv1, uv2 = tex[:, 1] - tex[:, 0], tex[:, 2] - tex[:, 0]
            det = uv1[:, 0:1] * uv2[:, 1:2] - uv1[:, 1:2] * uv2[:, 0:1]
            det = torch.where(det >= 0, det.clamp(min=1e-6), det.clamp(max=-1e-6))
            face_tangents = (edge1 * uv2[:, 1:2] - edge2 * uv1[:, 1:2]) / det
            tangents = torch.zeros_like(self.v_pos)
            for i in range(3):
                tangents = tangents.index_add(0, self.t_pos_idx[:, i], face_tangents)
            tangents = F.normalize(tangents, dim=-1)
            self._v_tng = F.normalize(tangents - dot(tangents, self.v_nrm) * self.v_nrm, dim=-1)
        return self._v_tng

    @property
    def v_tex(self) -> Tensor:
        if self._v_tex is None:
            self._v_tex, self._t_tex_idx = self._unwrap({}, {})
        return self._v_tex

    @property
    def t_tex_idx(self) -> Tensor:
        if self._t_tex_idx is None:
            self._v_tex, self._t_tex_idx = self._unwrap({}, {})
        return self._t_tex_idx

    @property
    def v_rgb(self) -> Tensor | None:
        return self._v_rgb

    @property
    def edges(self) -> Tensor:
        """Undirected edges [E, 2], each once, the smaller index first."""
        if self._edges is None:
            pairs = torch.cat([self.t_pos_idx[:, [0, 1]], self.t_pos_idx[:, [1, 2]], self.t_pos_idx[:, [2, 0]]])
            self._edges = torch.unique(pairs.sort(dim=1).values, dim=0)
        return self._edges

    def set_vertex_color(self, v_rgb: Tensor) -> None:
        """Keep colours [V, 3] in [0, 1]."""
        if v_rgb.shape[0] != self.v_pos.shape[0]:
            raise ValueError(f"{v_rgb.shape[0]} colours for {self.v_pos.shape[0]} vertices.")
        self._v_rgb = v_rgb

    def set_uv(self, v_tex: Tensor, t_tex_idx: Tensor) -> None:
        """Keep texture coordinates [T, 2] in [0, 1] and their triangles [F, 3]."""
        self._v_tex, self._t_tex_idx = v_tex, t_tex_idx

    def unwrap_uv(self, xatlas_chart_options: Any = None, xatlas_pack_options: Any = None) -> None:
        """Lay the surface out in a texture with xatlas; options set attributes of its ChartOptions and PackOptions."""
        self._v_tex, self._t_tex_idx = self._unwrap(dict(xatlas_chart_options or {}), dict(xatlas_pack_options or {}))

    def _unwrap(self, chart_options: dict, pack_options: dict) -> tuple[Tensor, Tensor]:
        import xatlas

        atlas = xatlas.Atlas()
        atlas.add_mesh(
            self.v_pos.detach().cpu().numpy().astype(np.float32), self.t_pos_idx.cpu().numpy().astype(np.uint32)
        )
        chart, pack = xatlas.ChartOptions(), xatlas.PackOptions()
        for target, options in ((chart, chart_options), (pack, pack_options)):
            for key, value in options.items():
                setattr(target, key, value)
        atlas.generate(chart, pack)
        _, indices, uvs = atlas.get_mesh(0)
        device = self.v_pos.device
        return (
            torch.as_tensor(uvs, dtype=torch.float32, device=device),
            torch.as_tensor(indices.astype(np.int64), device=device),
        )

    def normal_consistency(self) -> Tensor:
        """Mean of one minus the cosine between the vertex normals at the two ends of every edge."""
        ends = self.v_nrm[self.edges]
        return (1.0 - F.cosine_similarity(ends[:, 0], ends[:, 1], dim=-1)).mean()

    def laplacian(self) -> Tensor:
        """Mean length of the uniform Laplacian: the vector from each vertex to the mean of its neighbours."""
        edges = torch.cat([self.edges, self.edges.flip(1)])
        count = torch.zeros(len(self.v_pos), 1, device=self.v_pos.device, dtype=self.v_pos.dtype)
        count = count.index_add(0, edges[:, 0], torch.ones_like(count[:1]).expand(len(edges), 1))
        total = torch.zeros_like(self.v_pos).index_add(0, edges[:, 0], self.v_pos[edges[:, 1]])
        return (total / count.clamp(min=1) - self.v_pos * (count > 0)).norm(dim=1).mean()


def _components(faces: np.ndarray, n_vertices: int) -> np.ndarray:
    """Number of the connected component of every vertex."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows = np.concatenate([faces[:, 0], faces[:, 1]])
    columns = np.concatenate([faces[:, 1], faces[:, 2]])
    graph = coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(n_vertices, n_vertices))
    return connected_components(graph, directed=False)[1]
