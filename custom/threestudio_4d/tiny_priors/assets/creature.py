"""A walking creature made by code alone: the demo clip, and its ground truth from other views.

``python -m threestudio_4d.tiny_priors.assets.creature OUT`` writes the frames of one walk cycle as seen from azimuth 0;
``--views`` writes the benchmark's five views in folders instead. The body is one tube swept along a spine that sways;
two-bone legs follow their feet round a loop; everything is a function of the phase, so the clip loops without a seam.
World: z up; before it is turned, the creature walks along +x.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from threestudio.utils.typing import Tensor

from ...arguments import Frames, Side, checked
from ...command import command
from ..rendering.rasterise import Shot, render
from ..rendering.scenes import PosedMeshes
from .pack import _normalisation

Colour = tuple[float, float, float]
Frame = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float, float]  # centre, ahead, left, up, width, height

HEADING = 42.0  # degrees about z: from azimuth 0 the creature walks to the right and shows its face, in the sun
VIEWS = {"ref": 0.0, "az-75": -75.0, "az15": 15.0, "az105": 105.0, "az195": 195.0}

BACK, STRIPE, BELLY = (0.03, 0.30, 0.33), (0.012, 0.11, 0.17), (0.72, 0.52, 0.26)
CREST, FOOT, NOSE = (0.85, 0.22, 0.03), (0.02, 0.07, 0.10), (0.02, 0.05, 0.07)
IRIS, PUPIL, GLINT = (0.95, 0.50, 0.04), (0.006, 0.006, 0.008), (0.85, 0.85, 0.80)

# Spine from tail tip to nose: x forward, z up, half width, half height.
SPINE = np.array([
    [-0.70, 1.00, 0.020, 0.020], [-0.78, 0.86, 0.055, 0.055], [-0.75, 0.70, 0.085, 0.085], [-0.63, 0.57, 0.115, 0.115],
    [-0.47, 0.51, 0.165, 0.170], [-0.26, 0.51, 0.225, 0.220], [0.00, 0.49, 0.245, 0.235], [0.23, 0.53, 0.225, 0.220],
    [0.37, 0.65, 0.175, 0.180], [0.45, 0.80, 0.185, 0.185], [0.56, 0.91, 0.240, 0.215], [0.71, 0.90, 0.215, 0.175],
    [0.85, 0.84, 0.155, 0.120], [0.94, 0.82, 0.070, 0.055],
])  # fmt: skip
# Where each leg hangs (spine position 0 ... 1), its side, and its phase in the walk.
LEGS = ((0.655, 1, 0.0), (0.655, -1, 0.5), (0.385, 1, 0.55), (0.385, -1, 0.05))


class _Mesh:
    """Collects parts: vertices [T, V, 3], faces, one colour a face."""

    def __init__(self) -> None:
        self.vertices: list[np.ndarray] = []
        self.faces: list[np.ndarray] = []
        self.colours: list[np.ndarray] = []
        self.count = 0

    def add(self, vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray) -> None:
        """Adds a part; colours are one [3] or [F, 3]. Vertices are split so that each face keeps its own colour."""
        self.vertices.append(vertices[:, faces.reshape(-1)])
        self.faces.append(np.arange(faces.size).reshape(-1, 3) + self.count)
        self.colours.append(np.repeat(np.broadcast_to(colours, (len(faces), 3)), 3, 0))
        self.count += faces.size

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.concatenate(self.vertices, 1), np.concatenate(self.faces), np.concatenate(self.colours)


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)


def _frames(centres: np.ndarray, aside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Forward, left and up vectors [T, N, 3] along curves [T, N, 3]; ``aside`` is roughly left."""
    forward = _unit(np.gradient(centres, axis=1))
    up = _unit(np.cross(forward, aside))
    return forward, np.cross(up, forward), up


def _tube(
    mesh: _Mesh,
    centres: np.ndarray,
    left: np.ndarray,
    up: np.ndarray,
    widths: np.ndarray,
    heights: np.ndarray,
    sides: int,
    paint: Callable[[float, float], Colour],
) -> None:
    """Sweeps ellipses along a curve; ``paint(ring, angle)`` colours the quads, whose angle runs from left over up."""
    angles = (np.arange(sides) + 0.5) * 2 * np.pi / sides
    ring = (
        centres[:, :, None]
        + left[:, :, None] * (np.cos(angles)[:, None] * widths[:, None, None])
        + up[:, :, None] * (np.sin(angles)[:, None] * heights[:, None, None])
    )
    rings = centres.shape[1]
    vertices = np.concatenate([ring.reshape(len(ring), -1, 3), centres[:, [0, -1]]], 1)
    faces, colours = [], []
    for r in range(rings - 1):
        for s in range(sides):
            a, b = r * sides + s, r * sides + (s + 1) % sides
            faces += [[a, b + sides, b], [a, a + sides, b + sides]]
            colours += [paint((r + 0.5) / (rings - 1), angles[s] + np.pi / sides)] * 2
    for s in range(sides):
        nxt, last = (s + 1) % sides, (rings - 1) * sides
        faces += [[rings * sides, s, nxt], [rings * sides + 1, last + nxt, last + s]]
        colours += [paint(0.0, np.pi / 2), paint(1.0, np.pi / 2)]
    mesh.add(vertices, np.array(faces)[:, ::-1], np.array(colours))


def _ball(
    mesh: _Mesh,
    centre: np.ndarray,
    axes: np.ndarray,
    radii: tuple[float, float, float],
    colour: Colour,
    detail: int = 2,
) -> None:
    """An ellipsoid at [T, 3] with axes [T, 3, 3] (rows)."""
    import trimesh

    ball = trimesh.creation.icosphere(detail)
    offset = (ball.vertices * radii) @ axes
    mesh.add(centre[:, None] + offset, np.asarray(ball.faces), np.array(colour))


def _fin(
    mesh: _Mesh,
    base: np.ndarray,
    along: np.ndarray,
    side: np.ndarray,
    tip: np.ndarray,
    size: tuple[float, float],
    colour: Colour,
) -> None:
    """A four-sided spike: base centre, two base directions and tip, all [T, 3]."""
    corners = [base + along * size[0], base + side * size[1], base - along * size[0], base - side * size[1], tip]
    faces = np.array([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4], [0, 3, 2], [0, 2, 1]])
    if np.linalg.det(np.stack([along[0], side[0], tip[0] - base[0]])) < 0:
        faces = faces[:, ::-1]
    shades = np.array(colour) * np.array([1.0, 0.85, 0.85, 1.0, 0.7, 0.7])[:, None]
    mesh.add(np.stack(corners, 1), faces, shades)


def creature(frames: int = 32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One walk cycle: vertices [frames, V, 3] in the benchmark's frame (centred, radius 0.72), faces [F, 3], and
    linear albedo [V, 3]. Frame i is time i / frames of the loop."""
    from scipy.interpolate import CubicSpline

    phase = 2 * np.pi * np.arange(frames) / frames
    rings = 34
    s = np.linspace(0, 1, rings)
    profile = CubicSpline(np.linspace(0, 1, len(SPINE)), SPINE)(s)
    wave = phase[:, None] - 2 * np.pi * 0.75 * (1 - s)
    sway = 0.20 * np.clip(0.52 - s, 0, None) ** 1.2 * 2.1 + 0.07 * np.clip(s - 0.6, 0, None)
    lift = 0.022 * np.cos(2 * phase)[:, None] + 0.16 * np.clip(s - 0.62, 0, None) * np.sin(2 * phase + 0.6)[:, None]
    lift = lift + 0.30 * np.clip(0.33 - s, 0, None) * np.sin(phase + 1.0)[:, None]
    spine = np.stack(
        [np.broadcast_to(profile[:, 0], wave.shape), sway * np.sin(wave), profile[:, 1] + lift], -1
    )  # [T, N, 3]
    forward, left, up = _frames(spine, np.array([0.0, 1.0, 0.0]))
    widths, heights = profile[:, 2], profile[:, 3]
    mesh = _Mesh()

    def hide(t: float, angle: float) -> Colour:
        height = np.sin(angle)
        if height < -0.35 and t > 0.2:
            return BELLY
        banded = 0.06 < t < 0.70 and int(t * 26) % 3 == 0 and height > -0.1
        return STRIPE if banded else BACK

    _tube(mesh, spine, left, up, widths, heights, 12, hide)

    def at(position: float) -> Frame:
        i = int(round(position * (rings - 1)))
        return spine[:, i], forward[:, i], left[:, i], up[:, i], widths[i], heights[i]

    for k, position in enumerate(np.linspace(0.13, 0.68, 9)):
        centre, ahead, aside, above, _, height = at(position)
        size = 0.055 + 0.075 * np.sin(np.pi * (k + 1) / 10.5)
        root = centre + above * (height - 0.02)
        _fin(mesh, root, ahead, aside, root + above * (1.75 * size) - ahead * 0.06, (0.62 * size, 0.028), CREST)

    _head(mesh, at)
    for position, side, offset in LEGS:
        _leg(mesh, at(position), side, phase + 2 * np.pi * offset, position > 0.5)

    vertices, faces, colours = mesh.arrays()
    turn = np.deg2rad(HEADING)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    vertices = vertices @ rotation.T
    fit = _normalisation(vertices)
    return vertices @ fit[:3, :3].T + fit[:3, 3], faces, colours


def _head(mesh: _Mesh, at: Callable[[float], Frame]) -> None:
    """Eyes, cheeks' frills and nostrils on the spine's front end."""
    centre, ahead, aside, above, width, height = at(0.79)
    axes = np.stack([ahead, aside, above], 1)
    for side in (1, -1):
        eye = centre + aside * (side * width * 0.68) + above * (height * 0.42) + ahead * 0.05
        out = _unit(aside * side + ahead * 0.55 + above * 0.30)
        _ball(mesh, eye, axes, (0.105, 0.105, 0.105), IRIS)
        _ball(mesh, eye + out * 0.036, axes, (0.084, 0.084, 0.084), PUPIL)
        _ball(mesh, eye + out * 0.112 + above * 0.030, axes, (0.020, 0.020, 0.020), GLINT, 1)
    root, ahead, aside, above, width, height = at(0.70)
    for side in (1, -1):
        for tilt, length in ((0.9, 0.22), (0.1, 0.25)):
            direction = _unit(aside * side + above * tilt - ahead * 0.75)
            base = root + aside * (side * width * 0.75) + above * (height * 0.55 * tilt)
            across = _unit(np.cross(direction, ahead))
            _fin(mesh, base, across, _unit(np.cross(direction, across)), base + direction * length, (0.05, 0.03), CREST)
    nose, ahead, aside, above, width, height = at(0.97)
    for side in (1, -1):
        spot = nose + aside * (side * width * 0.45) + above * (height * 0.72)
        _ball(mesh, spot, np.stack([ahead, aside, above], 1), (0.018, 0.014, 0.014), NOSE, 1)


def _leg(mesh: _Mesh, hip_frame: Frame, side: int, phase: np.ndarray, front: bool) -> None:
    """A two-bone leg whose foot goes round: back along the ground, forward through the air."""
    centre, _, aside, above, width, height = hip_frame
    hip = centre + aside * (side * width * 0.72) - above * (height * 0.30)
    stride, rise, sole = 0.20, 0.14, 0.035
    rest_x = float(centre[:, 0].mean()) + (0.03 if front else -0.02)
    foot = np.stack(
        [
            rest_x + stride * np.cos(phase),
            np.full_like(phase, side * (width + 0.03)),
            sole + rise * np.clip(np.sin(phase), 0, None) ** 1.2,
        ],
        -1,
    )
    ankle = foot + np.array([-0.01, 0.0, 0.05])
    bend = np.array([-1.0 if front else 1.0, 0.35 * side, 0.0])
    upper = lower = 0.235
    reach = ankle - hip
    span = np.clip(np.linalg.norm(reach, axis=-1, keepdims=True), 0.05, upper + lower - 0.004)
    direction = _unit(reach)
    along = (upper**2 - lower**2 + span**2) / (2 * span)
    bend = _unit(bend - direction * (direction @ bend)[:, None])
    knee = hip + direction * along + bend * np.sqrt(np.maximum(upper**2 - along**2, 0.0))
    ankle = hip + direction * span
    toes = ankle + np.array([0.0, 0.0, -0.05])
    curve = np.stack([hip, (hip + knee) / 2, knee, (knee + ankle) / 2, ankle, toes], 1)
    _, left, up = _frames(curve, np.array([0.0, 1.0, 0.0]))
    radii = np.array([0.135, 0.115, 0.085, 0.072, 0.070, 0.075])
    _tube(mesh, curve, left, up, radii * 0.9, radii, 8, lambda t, angle: BACK if t < 0.6 else STRIPE)
    axes = np.broadcast_to(np.eye(3), (len(toes), 3, 3))
    _ball(mesh, toes + np.array([0.045, 0.0, 0.0]), axes, (0.115, 0.085, 0.045), FOOT, 1)


def creature_meshes(frames: int = 32, device: torch.device | str = "cpu") -> PosedMeshes:
    """The creature for the rasteriser: one asset, ``frames`` poses."""
    vertices, faces, colours = creature(frames)
    return PosedMeshes.from_arrays([vertices], [faces], [colours], names=["walker"], device=device)


def render_view(meshes: PosedMeshes, azimuth: float, elevation: float = 0.0, size: int = 256) -> Tensor:
    """All poses from one camera at distance 2 in the benchmark's light: straight-alpha images [N, S, S, 4]."""
    poses = torch.arange(meshes.poses)
    return render(meshes, Shot.of(poses, azimuth, elevation, device=meshes.device), size, supersample=4)


def write_frames(folder: Path, images: Tensor) -> None:
    """Writes images [N, S, S, 4] in [0, 1] as ``0.png``, ``1.png`` ..."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate((images * 255).round().to(torch.uint8).cpu().numpy()):
        Image.fromarray(image).save(folder / f"{i}.png", optimize=True)


def write_clip(folder: str | Path, frames: int = 32, size: int = 256) -> None:
    """The clip as seen from azimuth 0: RGBA frames of one loop."""
    write_frames(Path(folder), render_view(creature_meshes(frames), VIEWS["ref"], size=size))


def bench_clips(folder: str | Path, frames: int = 32, size: int = 256) -> None:
    """The clip and its ground truth as the benchmark lays them out: ``<folder>/<view>/<frame>.png``."""
    meshes = creature_meshes(frames)
    for name, azimuth in VIEWS.items():
        write_frames(Path(folder) / name, render_view(meshes, azimuth, size=size))


@command()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="threestudio_4d.tiny_priors.assets.creature", description="Render the walking creature."
    )
    parser.add_argument("out", type=Path, help="folder for the frames")
    parser.add_argument("--views", action="store_true", help="write ref, az-75, az15, az105 and az195 in folders")
    parser.add_argument("--frames", type=checked(Frames), default=32, help="frames of the loop")
    parser.add_argument("--size", type=checked(Side), default=256, help="pixels a side")
    args = parser.parse_args(argv)
    (bench_clips if args.views else write_clip)(args.out, args.frames, args.size)
    print(f"{args.frames} frames in {args.out}")


if __name__ == "__main__":
    sys.exit(main())
