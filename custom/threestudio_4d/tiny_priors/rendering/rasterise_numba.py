"""The CPU backend of the batch rasteriser, and the reference for the Triton kernels: numba, one image a task."""

from __future__ import annotations

import numba
import numpy as np
import torch

from threestudio.utils.typing import Tensor

from .scenes import PosedMeshes


@numba.njit(cache=True, error_model="numpy")
def _project(vertices, count, row, width, screen):
    """screen [V, 3] = x, y in samples (y down) and inverse depth of an image's vertices [V, 3]."""
    for i in range(count):
        x = vertices[i, 0] * row[13] + row[14] - row[9]
        y = vertices[i, 1] * row[13] + row[15] - row[10]
        z = vertices[i, 2] * row[13] + row[16] - row[11]
        depth = -(row[6] * x + row[7] * y + row[8] * z)
        inverse = np.float32(1.0) / max(depth, np.float32(1e-6))
        half = row[12] * inverse * np.float32(0.5 * width)
        screen[i, 0] = (row[0] * x + row[1] * y + row[2] * z) * half + np.float32(0.5 * width)
        screen[i, 1] = np.float32(0.5 * width) - (row[3] * x + row[4] * y + row[5] * z) * half
        screen[i, 2] = inverse


@numba.njit(cache=True, error_model="numpy")
def _fill(screen, faces, flags, width, depth, winner):
    """Draws triangles [F, 3] into the depth and winner buffers [width * width]."""
    for f in range(len(faces)):
        x0, y0, q0 = screen[faces[f, 0]]
        x1, y1, q1 = screen[faces[f, 1]]
        x2, y2, q2 = screen[faces[f, 2]]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if not (area < -1e-9 or (area > 1e-9 and (flags[f] & 4) != 0)) or max(q0, q1, q2) >= 20.0:
            continue
        left = int(max(np.ceil(min(x0, x1, x2) - np.float32(0.5)), 0))
        right = int(min(np.floor(max(x0, x1, x2) - np.float32(0.5)), width - 1))
        top = int(max(np.ceil(min(y0, y1, y2) - np.float32(0.5)), 0))
        bottom = int(min(np.floor(max(y0, y1, y2) - np.float32(0.5)), width - 1))
        for py in range(top, bottom + 1):
            sy = np.float32(py) + np.float32(0.5) - y0
            for px in range(left, right + 1):
                sx = np.float32(px) + np.float32(0.5) - x0
                b1 = (sx * (y2 - y0) - (x2 - x0) * sy) / area
                b2 = ((x1 - x0) * sy - sx * (y1 - y0)) / area
                b0 = np.float32(1.0) - b1 - b2
                if b0 >= 0 and b1 >= 0 and b2 >= 0:
                    q = b0 * q0 + b1 * q1 + b2 * q2
                    at = py * width + px
                    if q >= depth[at]:
                        depth[at] = q
                        winner[at] = f


@numba.njit(cache=True, error_model="numpy")
def _encode(c):
    c = min(max(c, 0.0), 1.0)
    return c * 12.92 if c <= 0.0031308 else 1.055 * c ** (1.0 / 2.4) - 0.055


@numba.njit(cache=True, error_model="numpy")
def _unit(v):
    return v / np.sqrt(max((v * v).sum(), 1e-30))


@numba.njit(cache=True, error_model="numpy")
def _shade(vertices, normals, screen, face, flag, colours, row, px, py, out):
    """sRGB colour of one sample of a triangle, added to out [3]."""
    i0, i1, i2 = face
    x0, y0, q0 = screen[i0]
    x1, y1, q1 = screen[i1]
    x2, y2, q2 = screen[i2]
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    sx, sy = px + 0.5 - x0, py + 0.5 - y0
    b1 = (sx * (y2 - y0) - (x2 - x0) * sy) / area
    b2 = ((x1 - x0) * sy - sx * (y1 - y0)) / area
    w0, w1, w2 = (1.0 - b1 - b2) * q0, b1 * q1, b2 * q2
    total = w0 + w1 + w2
    w0, w1, w2 = w0 / total, w1 / total, w2 / total
    if flag & 1:
        n = _unit(w0 * normals[i0] + w1 * normals[i1] + w2 * normals[i2])
    else:
        n = _unit(np.cross(vertices[i1] - vertices[i0], vertices[i2] - vertices[i0]))
    if (flag & 4) != 0 and area > 0:
        n = -n
    point = (w0 * vertices[i0] + w1 * vertices[i1] + w2 * vertices[i2]) * row[13] + row[14:17]
    view, light = _unit(row[9:12] - point), row[17:20]
    half = _unit(view + light)
    nl, nv = max((n * light).sum(), 0.0), max((n * view).sum(), 1e-3)
    nh, vh = max((n * half).sum(), 0.0), max((view * half).sum(), 0.0)
    alpha2 = row[23] * row[23]
    spread = nh * nh * (alpha2 - 1.0) + 1.0
    masking = nl * np.sqrt(nv * nv * (1.0 - alpha2) + alpha2) + nv * np.sqrt(nl * nl * (1.0 - alpha2) + alpha2)
    gloss = row[24] * row[22] * nl * 0.5 / max(masking, 1e-6) * alpha2 / max(spread * spread, 1e-9)
    fresnel = (1.0 - vh) ** 5
    bright = row[20] + row[21] * n[2] + row[22] * nl
    if flag & 2:
        bright, gloss = 1.0, 0.0
    albedo = w0 * colours[i0] + w1 * colours[i1] + w2 * colours[i2]
    for c in range(3):
        mixed = max((row[25 + 3 * c : 28 + 3 * c] * albedo).sum(), 0.0)
        base = 0.03 + 0.6 * mixed
        out[c] += _encode(mixed * bright + gloss * (base + (1.0 - base) * fresnel))


@numba.njit(cache=True, parallel=True, error_model="numpy")
def _render(
    vertices, normals, vertex_start, vertex_count, faces, flags, face_start, face_end, colours, colour_start, table,
    size, samples, out,
):  # fmt: skip
    width = size * samples
    for image in numba.prange(len(table)):
        row = table[image]
        v = vertices[vertex_start[image] : vertex_start[image] + vertex_count[image]].astype(np.float32)
        n = normals[vertex_start[image] : vertex_start[image] + vertex_count[image]].astype(np.float32)
        f, flag = faces[face_start[image] : face_end[image]], flags[face_start[image] : face_end[image]]
        c = colours[colour_start[image] : colour_start[image] + vertex_count[image]].astype(np.float32)
        screen = np.empty((len(v), 3), np.float32)
        depth = np.zeros(width * width, np.float32)
        winner = np.full(width * width, -1, np.int64)
        _project(v, len(v), row, width, screen)
        _fill(screen, f, flag, width, depth, winner)
        for line in range(size):
            for column in range(size):
                hits = 0
                to = out[image, line, size - 1 - column if row[34] > 0.5 else column]
                for sample in range(samples * samples):
                    px, py = column * samples + sample % samples, line * samples + sample // samples
                    one = winner[py * width + px]
                    if one >= 0:
                        hits += 1
                        _shade(v, n, screen, f[one], flag[one], c, row, px, py, to)
                if hits:
                    to[:3] /= hits
                    to[3] = hits / (samples * samples)


def render_table(meshes: PosedMeshes, pose: Tensor, table: Tensor, resolution: int, supersample: int) -> Tensor:
    """Renders poses [B] with parameter rows [B, 36]: straight-alpha images [B, S, S, 4]. See ``rasterise.render``."""
    asset = meshes.pose_asset[pose].long()
    start, end = meshes.asset_face[asset], meshes.asset_face[asset + 1]
    first = meshes.asset_vertex[asset]
    out = torch.zeros(len(pose), resolution, resolution, 4)
    wide = _widened(meshes)
    _render(
        *wide[:2], meshes.pose_vertex[pose].numpy(), (meshes.asset_vertex[asset + 1] - first).numpy(),
        meshes.faces.numpy(), meshes.flags.numpy(), start.numpy(), end.numpy(), wide[2], first.numpy(), table.numpy(),
        resolution, supersample, out.numpy(),
    )  # fmt: skip
    return out


def _widened(meshes: PosedMeshes) -> list[np.ndarray]:
    """Vertices, normals and colours of CPU meshes as float32 arrays, made again only when one was written to."""
    tensors = (meshes.vertices, meshes.normals, meshes.colours)
    versions = [(id(t), t._version) for t in tensors]
    if "_float32" not in vars(meshes) or vars(meshes)["_float32"][0] != versions:
        vars(meshes)["_float32"] = (versions, [t.float().numpy() for t in tensors])
    return vars(meshes)["_float32"][1]
