"""The CUDA backend of the batch rasteriser: two Triton kernels. Import only where Triton is installed."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from threestudio.utils.typing import Tensor

from .scenes import PosedMeshes

BLOCK = 64  # triangles a step of a program; also pixels a step when it fills one large triangle
PROGRAMS = 16  # programs that share an image's triangles
SMALL = 64  # bounding boxes up to this many samples are filled one triangle a lane
PIXELS = 128  # pixels a program shades


@triton.jit
def _load3(pointer, index, valid):
    at = index * 3
    x = tl.load(pointer + at, mask=valid, other=0.0).to(tl.float32)
    y = tl.load(pointer + at + 1, mask=valid, other=0.0).to(tl.float32)
    z = tl.load(pointer + at + 2, mask=valid, other=0.0).to(tl.float32)
    return x, y, z


@triton.jit
def _corner(vertices, index, base, row, valid, width):
    """Screen position and inverse depth of one vertex of each lane's triangle."""
    scale = tl.load(row + 13)
    x, y, z = _load3(vertices, base + index, valid)
    x = x * scale + (tl.load(row + 14) - tl.load(row + 9))
    y = y * scale + (tl.load(row + 15) - tl.load(row + 10))
    z = z * scale + (tl.load(row + 16) - tl.load(row + 11))
    cx = tl.load(row) * x + tl.load(row + 1) * y + tl.load(row + 2) * z
    cy = tl.load(row + 3) * x + tl.load(row + 4) * y + tl.load(row + 5) * z
    depth = -(tl.load(row + 6) * x + tl.load(row + 7) * y + tl.load(row + 8) * z)
    inverse = 1.0 / tl.maximum(depth, 1e-6)
    half = tl.load(row + 12) * inverse * (0.5 * width)
    return cx * half + 0.5 * width, 0.5 * width - cy * half, inverse


@triton.jit
def _triangle(vertices, faces, flags, face, base, row, valid, width):
    """Screen triangle of each lane: 9 coordinates, signed area and whether it is to be drawn."""
    at = face * 3
    i0 = tl.load(faces + at, mask=valid, other=0).to(tl.int64)
    i1 = tl.load(faces + at + 1, mask=valid, other=0).to(tl.int64)
    i2 = tl.load(faces + at + 2, mask=valid, other=0).to(tl.int64)
    x0, y0, q0 = _corner(vertices, i0, base, row, valid, width)
    x1, y1, q1 = _corner(vertices, i1, base, row, valid, width)
    x2, y2, q2 = _corner(vertices, i2, base, row, valid, width)
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    both = (tl.load(flags + face, mask=valid, other=0).to(tl.int32) & 4) != 0
    near = tl.maximum(q0, tl.maximum(q1, q2))
    drawn = valid & ((area < -1e-9) | (both & (area > 1e-9))) & (near < 20.0)
    return x0, y0, q0, x1, y1, q1, x2, y2, q2, area, drawn


@triton.jit
def _write(zbuffer, image, px, py, inside, number, x0, y0, q0, x1, y1, q1, x2, y2, q2, area, width):
    """Puts the samples (px, py) of the triangles that cover them into the z-buffer."""
    sx, sy = px.to(tl.float32) + 0.5 - x0, py.to(tl.float32) + 0.5 - y0
    b1 = (sx * (y2 - y0) - (x2 - x0) * sy) / area
    b2 = ((x1 - x0) * sy - sx * (y1 - y0)) / area
    b0 = 1.0 - b1 - b2
    hit = inside & (b0 >= 0.0) & (b1 >= 0.0) & (b2 >= 0.0)
    q = b0 * q0 + b1 * q1 + b2 * q2
    key = (q.to(tl.int32, bitcast=True).to(tl.int64) << 32) | number.to(tl.int64)
    tl.atomic_max(zbuffer + image * width * width + py.to(tl.int64) * width + px, key, mask=hit, sem="relaxed")


@triton.jit
def fill_kernel(
    vertices, pose_vertex, pose_asset, faces, flags, asset_face, pose, table, zbuffer,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, PROGRAMS: tl.constexpr, SMALL: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Program (p, b) draws every PROGRAMS-th block of triangles of image b."""
    image = tl.program_id(1).to(tl.int64)
    row = table + image * COLUMNS
    own = tl.load(pose + image)
    base = tl.load(pose_vertex + own)
    asset = tl.load(pose_asset + own)
    first = tl.load(asset_face + asset).to(tl.int64)
    count = tl.load(asset_face + asset + 1) - first.to(tl.int32)
    lane = tl.arange(0, BLOCK)
    for start in range(tl.program_id(0) * BLOCK, count, PROGRAMS * BLOCK):
        number = start + lane
        x0, y0, q0, x1, y1, q1, x2, y2, q2, area, drawn = _triangle(
            vertices, faces, flags, first + number, base, row, number < count, WIDTH
        )
        left = tl.maximum(tl.ceil(tl.minimum(x0, tl.minimum(x1, x2)) - 0.5), 0.0).to(tl.int32)
        right = tl.minimum(tl.floor(tl.maximum(x0, tl.maximum(x1, x2)) - 0.5), WIDTH - 1.0).to(tl.int32)
        top = tl.maximum(tl.ceil(tl.minimum(y0, tl.minimum(y1, y2)) - 0.5), 0.0).to(tl.int32)
        bottom = tl.minimum(tl.floor(tl.maximum(y0, tl.maximum(y1, y2)) - 0.5), WIDTH - 1.0).to(tl.int32)
        columns = tl.maximum(right - left + 1, 1)
        size = tl.where(drawn & (right >= left) & (bottom >= top), columns * (bottom - top + 1), 0)
        small = tl.where(size <= SMALL, size, 0)
        for step in range(0, tl.max(small, 0)):
            _write(
                zbuffer, image, left + step % columns, top + step // columns, step < small, number,
                x0, y0, q0, x1, y1, q1, x2, y2, q2, area, WIDTH,
            )  # fmt: skip
        big = tl.min(tl.where(size > SMALL, lane, BLOCK), 0)
        while big < BLOCK:
            chosen = lane == big
            one = start + big
            u0, v0, p0, u1, v1, p1, u2, v2, p2, large, good = _triangle(
                vertices, faces, flags, first + one, base, row, one < count, WIDTH
            )
            x = tl.sum(tl.where(chosen, left, 0), 0)
            y = tl.sum(tl.where(chosen, top, 0), 0)
            across = tl.sum(tl.where(chosen, columns, 0), 0)
            samples = tl.sum(tl.where(chosen, size, 0), 0)
            for step in range(0, samples, BLOCK):
                at = step + lane
                _write(
                    zbuffer, image, x + at % across, y + at // across, (at < samples) & good, one + lane * 0,
                    u0, v0, p0, u1, v1, p1, u2, v2, p2, large, WIDTH,
                )  # fmt: skip
            big = tl.min(tl.where((size > SMALL) & (lane > big), lane, BLOCK), 0)


@triton.jit
def _encode(c):
    c = tl.minimum(tl.maximum(c, 0.0), 1.0)
    curve = 1.055 * tl.exp2(tl.log2(tl.maximum(c, 1e-6)) * (1.0 / 2.4)) - 0.055
    return tl.where(c <= 0.0031308, c * 12.92, curve)


@triton.jit
def shade_kernel(
    vertices, normals, pose_vertex, pose_asset, faces, flags, asset_face, colours, asset_vertex, pose, table, zbuffer,
    out, SIZE: tl.constexpr, SAMPLES: tl.constexpr, PIXELS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Program (t, b) shades PIXELS pixels of image b: the mean over SAMPLES x SAMPLES samples."""
    WIDTH: tl.constexpr = SIZE * SAMPLES
    image = tl.program_id(1).to(tl.int64)
    row = table + image * COLUMNS
    own = tl.load(pose + image)
    base = tl.load(pose_vertex + own)
    asset = tl.load(pose_asset + own)
    first = tl.load(asset_face + asset).to(tl.int64)
    colour_base = tl.load(asset_vertex + asset).to(tl.int64)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    present = pixel < SIZE * SIZE
    column, line = pixel % SIZE, pixel // SIZE
    scale = tl.load(row + 13)
    ox, oy, oz = tl.load(row + 14), tl.load(row + 15), tl.load(row + 16)
    ex, ey, ez = tl.load(row + 9), tl.load(row + 10), tl.load(row + 11)
    lx, ly, lz = tl.load(row + 17), tl.load(row + 18), tl.load(row + 19)
    ambient, slope, direct = tl.load(row + 20), tl.load(row + 21), tl.load(row + 22)
    alpha, specular = tl.load(row + 23), tl.load(row + 24)
    alpha2 = alpha * alpha
    red = tl.zeros([PIXELS], tl.float32)
    green = tl.zeros([PIXELS], tl.float32)
    blue = tl.zeros([PIXELS], tl.float32)
    hits = tl.zeros([PIXELS], tl.float32)
    for sample in range(SAMPLES * SAMPLES):
        px = column * SAMPLES + sample % SAMPLES
        py = line * SAMPLES + sample // SAMPLES
        key = tl.load(zbuffer + image * WIDTH * WIDTH + py.to(tl.int64) * WIDTH + px, mask=present, other=0)
        hit = key > 0
        face = first + (key & 0xFFFFFFFF)
        at = face * 3
        i0 = tl.load(faces + at, mask=hit, other=0).to(tl.int64)
        i1 = tl.load(faces + at + 1, mask=hit, other=0).to(tl.int64)
        i2 = tl.load(faces + at + 2, mask=hit, other=0).to(tl.int64)
        flag = tl.load(flags + face, mask=hit, other=0).to(tl.int32)
        x0, y0, q0 = _corner(vertices, i0, base, row, hit, WIDTH)
        x1, y1, q1 = _corner(vertices, i1, base, row, hit, WIDTH)
        x2, y2, q2 = _corner(vertices, i2, base, row, hit, WIDTH)
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        area = tl.where(hit, area, 1.0)
        sx, sy = px.to(tl.float32) + 0.5 - x0, py.to(tl.float32) + 0.5 - y0
        b1 = (sx * (y2 - y0) - (x2 - x0) * sy) / area
        b2 = ((x1 - x0) * sy - sx * (y1 - y0)) / area
        w0, w1, w2 = (1.0 - b1 - b2) * q0, b1 * q1, b2 * q2
        total = tl.where(hit, w0 + w1 + w2, 1.0)
        w0, w1, w2 = w0 / total, w1 / total, w2 / total

        ax, ay, az = _load3(vertices, base + i0, hit)
        bx, by, bz = _load3(vertices, base + i1, hit)
        cx, cy, cz = _load3(vertices, base + i2, hit)
        gx, gy, gz = bx - ax, by - ay, bz - az
        hx, hy, hz = cx - ax, cy - ay, cz - az
        nx, ny, nz = gy * hz - gz * hy, gz * hx - gx * hz, gx * hy - gy * hx
        smooth = (flag & 1) != 0
        rx, ry, rz = _load3(normals, base + i0, hit & smooth)
        sx0, sy0, sz0 = _load3(normals, base + i1, hit & smooth)
        tx, ty, tz = _load3(normals, base + i2, hit & smooth)
        nx = tl.where(smooth, w0 * rx + w1 * sx0 + w2 * tx, nx)
        ny = tl.where(smooth, w0 * ry + w1 * sy0 + w2 * ty, ny)
        nz = tl.where(smooth, w0 * rz + w1 * sz0 + w2 * tz, nz)
        size = tl.rsqrt(tl.maximum(nx * nx + ny * ny + nz * nz, 1e-30))
        nx, ny, nz = nx * size, ny * size, nz * size
        vx = ex - ((w0 * ax + w1 * bx + w2 * cx) * scale + ox)
        vy = ey - ((w0 * ay + w1 * by + w2 * cy) * scale + oy)
        vz = ez - ((w0 * az + w1 * bz + w2 * cz) * scale + oz)
        size = tl.rsqrt(tl.maximum(vx * vx + vy * vy + vz * vz, 1e-12))
        vx, vy, vz = vx * size, vy * size, vz * size
        turn = tl.where(((flag & 4) != 0) & (area > 0), -1.0, 1.0)
        nx, ny, nz = nx * turn, ny * turn, nz * turn

        mx, my, mz = vx + lx, vy + ly, vz + lz
        size = tl.rsqrt(tl.maximum(mx * mx + my * my + mz * mz, 1e-12))
        nl = tl.maximum(nx * lx + ny * ly + nz * lz, 0.0)
        nv = tl.maximum(nx * vx + ny * vy + nz * vz, 1e-3)
        nh = tl.maximum((nx * mx + ny * my + nz * mz) * size, 0.0)
        vh = tl.maximum((vx * mx + vy * my + vz * mz) * size, 0.0)
        spread = nh * nh * (alpha2 - 1.0) + 1.0
        shape = 0.5 / tl.maximum(
            nl * tl.sqrt(nv * nv * (1.0 - alpha2) + alpha2) + nv * tl.sqrt(nl * nl * (1.0 - alpha2) + alpha2), 1e-6
        )
        gloss = specular * direct * nl * shape * alpha2 / tl.maximum(spread * spread, 1e-9)
        fresnel = (1.0 - vh) * (1.0 - vh)
        fresnel = fresnel * fresnel * (1.0 - vh)
        light = ambient + slope * nz + direct * nl
        unlit = (flag & 2) != 0
        light = tl.where(unlit, 1.0, light)
        gloss = tl.where(unlit, 0.0, gloss)

        ar, ag, ab = _load3(colours, colour_base + i0, hit)
        br, bg, bb = _load3(colours, colour_base + i1, hit)
        cr, cg, cb = _load3(colours, colour_base + i2, hit)
        r, g, b = w0 * ar + w1 * br + w2 * cr, w0 * ag + w1 * bg + w2 * cg, w0 * ab + w1 * bb + w2 * cb
        dr = tl.load(row + 25) * r + tl.load(row + 26) * g + tl.load(row + 27) * b
        dg = tl.load(row + 28) * r + tl.load(row + 29) * g + tl.load(row + 30) * b
        db = tl.load(row + 31) * r + tl.load(row + 32) * g + tl.load(row + 33) * b
        dr, dg, db = tl.maximum(dr, 0.0), tl.maximum(dg, 0.0), tl.maximum(db, 0.0)
        fr, fg, fb = 0.03 + 0.6 * dr, 0.03 + 0.6 * dg, 0.03 + 0.6 * db
        red += tl.where(hit, _encode(dr * light + gloss * (fr + (1.0 - fr) * fresnel)), 0.0)
        green += tl.where(hit, _encode(dg * light + gloss * (fg + (1.0 - fg) * fresnel)), 0.0)
        blue += tl.where(hit, _encode(db * light + gloss * (fb + (1.0 - fb) * fresnel)), 0.0)
        hits += tl.where(hit, 1.0, 0.0)
    share = 1.0 / tl.maximum(hits, 1.0)
    flipped = tl.load(row + 34) > 0.5
    column = tl.where(flipped, SIZE - 1 - column, column)
    to = out + ((image * SIZE + line) * SIZE + column) * 4
    tl.store(to, red * share, mask=present)
    tl.store(to + 1, green * share, mask=present)
    tl.store(to + 2, blue * share, mask=present)
    tl.store(to + 3, hits * (1.0 / (SAMPLES * SAMPLES)), mask=present)


def render_table(meshes: PosedMeshes, pose: Tensor, table: Tensor, resolution: int, supersample: int) -> Tensor:
    """Renders poses [B] with parameter rows [B, 36]: straight-alpha images [B, S, S, 4]. See ``rasterise.render``."""
    count, width = len(pose), resolution * supersample
    zbuffer = torch.zeros(count, width * width, dtype=torch.int64, device=pose.device)
    out = torch.empty(count, resolution, resolution, 4, dtype=torch.float32, device=pose.device)
    fill_kernel[(PROGRAMS, count)](
        meshes.vertices, meshes.pose_vertex, meshes.pose_asset, meshes.faces, meshes.flags, meshes.asset_face, pose,
        table, zbuffer, WIDTH=width, BLOCK=BLOCK, PROGRAMS=PROGRAMS, SMALL=SMALL, COLUMNS=table.shape[1], num_warps=2,
    )  # fmt: skip
    shade_kernel[(triton.cdiv(resolution * resolution, PIXELS), count)](
        meshes.vertices, meshes.normals, meshes.pose_vertex, meshes.pose_asset, meshes.faces, meshes.flags,
        meshes.asset_face, meshes.colours, meshes.asset_vertex, pose, table, zbuffer, out,
        SIZE=resolution, SAMPLES=supersample, PIXELS=PIXELS, COLUMNS=table.shape[1], num_warps=4,
    )  # fmt: skip
    return out
