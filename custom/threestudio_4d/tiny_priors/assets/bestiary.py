"""Random creatures made by code alone, to train priors on more bodies than a folder of assets has.

``python -m threestudio_4d.tiny_priors.assets.bestiary --count 100 --out creatures.npz`` writes a pack. Each creature
has a body plan (quadruped, biped, fish, bird, hopper), random proportions, parts and colours, and one looping clip.
Parts are faceted low-poly solids, each fixed to one joint. World: z up, facing +x.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import trimesh

from ...arguments import Frames, Rows, Seed, checked, pack_file
from ...command import command
from ...srgb import linear_to_srgb
from .pack import PackedAsset, _normalisation, skin, write_pack

Motion = Callable[[np.ndarray], np.ndarray]  # phases [T] in radians -> [T, 4, 4] about the joint's pivot

#: clip of each plan, as captions name it
PLANS = {"Quadruped": "Walk", "Biped": "Walk", "Fish": "Swim", "Bird": "Fly", "Hopper": "Jump"}


def rotation(axis: int, angles: np.ndarray) -> np.ndarray:
    """Turns [T, 4, 4] about a coordinate axis by angles [T] in radians."""
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    out = np.tile(np.eye(4), (len(angles), 1, 1))
    out[:, i, i], out[:, j, j] = np.cos(angles), np.cos(angles)
    out[:, i, j], out[:, j, i] = -np.sin(angles), np.sin(angles)
    return out


def swing(axis: int, amplitude: float, offset: float = 0.0, rest: float = 0.0, harmonic: int = 1) -> Motion:
    """A turn that goes to and fro: ``rest + amplitude sin(harmonic * phase + offset)``."""
    return lambda phase: rotation(axis, rest + amplitude * np.sin(harmonic * phase + offset))


def bob(height: float, sway: float, harmonic: int = 2, hop: bool = False) -> Motion:
    """A body that rises and falls (``hop``: leaves the ground for half of the time) and sways about its length."""

    def motion(phase: np.ndarray) -> np.ndarray:
        out = rotation(0, sway * np.sin(phase))
        out[:, 2, 3] = height * (np.clip(np.sin(phase), 0, None) if hop else np.sin(harmonic * phase))
        return out

    return motion


@dataclass
class Creature:
    """Joints and the parts that hang on them. ``parents[j] < j``; pivots and vertices are in the rest pose's world."""

    parents: list[int] = field(default_factory=list)
    pivots: list[np.ndarray] = field(default_factory=list)
    motions: list[Motion] = field(default_factory=list)
    vertices: list[np.ndarray] = field(default_factory=list)
    joints: list[np.ndarray] = field(default_factory=list)
    colours: list[np.ndarray] = field(default_factory=list)

    def joint(self, parent: int, pivot: np.ndarray, motion: Motion) -> int:
        self.parents.append(parent)
        self.pivots.append(np.asarray(pivot, float))
        self.motions.append(motion)
        return len(self.parents) - 1

    def part(self, joint: int, solid: trimesh.Trimesh, colour: np.ndarray, below: np.ndarray | None = None) -> None:
        """Hang a solid on a joint; faces that look down may have another colour. Colours are linear, [3]."""
        faces = solid.triangles
        colours = np.tile(colour, (len(faces), 1))
        if below is not None:
            colours[solid.face_normals[:, 2] < -0.35] = below
        self.vertices.append(faces.reshape(-1, 3))
        self.joints.append(np.full(3 * len(faces), joint))
        self.colours.append(np.repeat(colours, 3, 0))

    def poses(self, frames: int) -> np.ndarray:
        """World matrices of all joints over one loop, [frames, J, 4, 4]."""
        phase = 2 * np.pi * np.arange(frames) / frames
        world: list[np.ndarray] = []
        for parent, pivot, motion in zip(self.parents, self.pivots, self.motions, strict=True):
            to, back = np.eye(4), np.eye(4)
            to[:3, 3], back[:3, 3] = pivot, -pivot
            local = to @ motion(phase) @ back
            world.append(local if parent < 0 else world[parent] @ local)
        return np.stack(world, 1)


class Maker:
    """Draws sizes, colours and solids from one generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        hue, second = rng.random(), rng.random()
        self.main = self.colour(hue, rng.uniform(0.2, 0.9), rng.uniform(0.25, 0.9))
        self.belly = self.colour(hue + rng.normal(0, 0.05), rng.uniform(0.05, 0.5), rng.uniform(0.6, 1.0))
        self.accent = self.colour(second, rng.uniform(0.3, 0.95), rng.uniform(0.2, 1.0))
        self.dark = self.colour(hue, rng.uniform(0, 0.5), rng.uniform(0.03, 0.25))
        self.white = np.full(3, rng.uniform(0.7, 0.95))

    @staticmethod
    def colour(hue: float, saturation: float, value: float) -> np.ndarray:
        """Linear albedo of a hue (0 to 1), saturation and sRGB value."""
        wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
        return (value * (1 - saturation * (1 - wheel))) ** 2.2

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def _placed(self, solid: trimesh.Trimesh, centre: np.ndarray, roughness: float) -> trimesh.Trimesh:
        size = np.ptp(solid.vertices, axis=0).max()
        solid.vertices = solid.vertices + self.rng.normal(0, roughness * size, solid.vertices.shape) + centre
        return trimesh.Trimesh(solid.vertices, solid.faces, process=False)

    def ball(self, centre: np.ndarray, radii: tuple[float, float, float], detail: int = 2) -> trimesh.Trimesh:
        """An ellipsoid, or a box with rounded looks, with rough vertices."""
        solid = trimesh.creation.icosphere(detail if self.chance(0.8) else 1)
        if self.chance(0.25):  # squarer
            solid.vertices = np.sign(solid.vertices) * np.abs(solid.vertices) ** self.between(0.5, 0.85)
        solid.vertices = solid.vertices * radii
        return self._placed(solid, np.asarray(centre, float), 0.008 if detail < 3 else 0.002)

    def limb(self, start: np.ndarray, end: np.ndarray, radius: float, taper: float) -> trimesh.Trimesh:
        """A tapered prism with five to eight sides from one point to another."""
        start, end = np.asarray(start, float), np.asarray(end, float)
        axis = end - start
        length = float(np.linalg.norm(axis))
        solid = trimesh.creation.cylinder(radius, length, sections=int(self.rng.integers(5, 9)))
        along = solid.vertices[:, 2] / length + 0.5
        solid.vertices[:, :2] *= (1 + (taper - 1) * along)[:, None]
        turn = trimesh.geometry.align_vectors([0, 0, 1], axis / max(length, 1e-9))[:3, :3]
        solid.vertices = solid.vertices @ turn.T
        return self._placed(solid, (start + end) / 2, 0.01)

    def spike(self, base: np.ndarray, tip: np.ndarray, width: float, flat: float = 1.0) -> trimesh.Trimesh:
        """A cone; ``flat`` < 1 squeezes it sideways (along y) into a plate, an ear or a fin."""
        solid = self.limb(base, tip, width, 0.05)
        solid.vertices[:, 1] = base[1] + (solid.vertices[:, 1] - base[1]) * flat
        return trimesh.Trimesh(solid.vertices, solid.faces, process=False)


def _head(c: Creature, m: Maker, neck: int, at: np.ndarray, size: float) -> None:
    """Head with snout, ears or horns, and eyes, facing +x."""
    joint = c.joint(neck, at, swing(1, m.between(0, 0.2), m.between(0, 6), harmonic=int(m.rng.integers(1, 3))))
    shape = (size * m.between(0.8, 1.3), size * m.between(0.7, 1.0), size * m.between(0.7, 1.1))
    c.part(joint, m.ball(at, shape), m.main, m.belly)
    if m.chance(0.65):
        reach = m.between(0.6, 1.6) * size
        snout = at + [shape[0] * 0.6, 0, -0.2 * size]
        if m.chance(0.5):
            c.part(joint, m.ball(snout + [reach * 0.4, 0, 0], (reach * 0.7, size * 0.5, size * 0.4), 1), m.belly)
        else:
            c.part(joint, m.limb(snout, snout + [reach, 0, -0.1 * reach], size * 0.45, 0.6), m.accent)
    kind = int(m.rng.integers(0, 4))
    for side in (-1, 1):
        eye = at + [shape[0] * 0.55, side * shape[1] * 0.72, shape[2] * 0.45]
        radius = size * m.between(0.12, 0.3)
        c.part(joint, m.ball(eye, (radius,) * 3, 1), m.white)
        c.part(joint, m.ball(eye + [radius * 0.6, side * radius * 0.35, 0], (radius * 0.65,) * 3, 1), m.dark)
        if kind < 3:
            base = at + [-0.1 * size, side * shape[1] * 0.55, shape[2] * 0.7]
            tip = base + np.array([m.between(-0.5, 0.3), side * m.between(0.1, 0.9), m.between(0.4, 1.6)]) * size
            colour = [m.main, m.accent, m.dark][kind]
            c.part(joint, m.spike(base, tip, size * m.between(0.15, 0.4), m.between(0.3, 1.0)), colour)


def _leg(
    c: Creature, m: Maker, body: int, hip: np.ndarray, length: float, radius: float, offset: float, stride: float
) -> None:
    """Two bones and a foot, down to the ground below the hip."""
    knee, ankle = hip - [0, 0, 0.5 * length], hip - [0, 0, 0.95 * length]
    upper = c.joint(body, hip, swing(1, stride, offset))
    c.part(upper, m.limb(hip + [0, 0, 0.1 * length], knee, radius * 1.25, 0.75), m.main)
    lower = c.joint(upper, knee, swing(1, 0.7 * stride, offset + 1.2, rest=m.between(0, 0.3)))
    c.part(lower, m.limb(knee, ankle, radius * 0.95, m.between(0.6, 1.0)), m.main if m.chance(0.6) else m.accent)
    c.part(lower, m.ball(ankle + [0.5 * radius, 0, 0], (1.8 * radius, 1.2 * radius, 0.7 * radius), 1), m.dark)


def _tail(c: Creature, m: Maker, body: int, root: np.ndarray, length: float, radius: float, axis: int) -> None:
    joint, offset = body, m.between(0, 6)
    direction = np.array([-1.0, 0.0, m.between(-0.3, 0.8)])
    direction /= np.linalg.norm(direction)
    for k in range(3):
        joint = c.joint(joint, root, swing(axis, m.between(0.1, 0.4), offset - 0.8 * k))
        end = root + direction * length / 3
        taper = 0.7 if k < 2 else m.between(0.1, 1.4)
        c.part(joint, m.limb(root, end, radius * 0.7**k, taper), m.main if k < 2 or m.chance(0.5) else m.accent)
        root = end


def quadruped(c: Creature, m: Maker) -> None:
    length, width, height = m.between(0.5, 1.1), m.between(0.18, 0.4), m.between(0.18, 0.42)
    leg, thin = m.between(0.25, 0.9), m.between(0.05, 0.12)
    centre = np.array([0, 0, leg + 0.6 * height])
    body = c.joint(-1, centre, bob(m.between(0.01, 0.05), m.between(0, 0.08)))
    c.part(body, m.ball(centre, (length / 2 + 0.1, width, height)), m.main, m.belly if m.chance(0.6) else None)
    chest = centre + [0.35 * length, 0, m.between(0, 0.3) * height]
    c.part(body, m.ball(chest, (height, width * m.between(0.85, 1.1), height * m.between(0.8, 1.1)), 1), m.main)
    if m.chance(0.35):  # plates or spikes along the back
        flat, tall = m.between(0.15, 1.0), m.between(0.1, 0.45)
        for x in np.linspace(-0.45, 0.45, int(m.rng.integers(4, 9))):
            base = centre + [x * length, 0, 0.85 * height * np.sqrt(1 - 0.8 * x * x)]
            c.part(body, m.spike(base, base + [-0.05, 0, tall], m.between(0.05, 0.12), flat), m.accent)
    up = m.between(0.0, 0.9)
    neck_end = chest + np.array([m.between(0.15, 0.4), 0, up])
    neck = c.joint(body, chest, swing(1, m.between(0.02, 0.15), m.between(0, 6), harmonic=2))
    c.part(neck, m.limb(chest, neck_end, height * m.between(0.35, 0.7), m.between(0.5, 1.0)), m.main)
    _head(c, m, neck, neck_end, m.between(0.13, 0.3))
    stride, gallop = m.between(0.25, 0.7), m.chance(0.3)
    for x, phase in ((0.38, 0.0), (-0.38, 0.5)):
        for side in (-1, 1):
            lag = phase + (0.08 if gallop else 0.5) * (side > 0)
            hip = centre + [x * length, side * width * 0.65, -0.3 * height]
            _leg(c, m, body, hip, leg + 0.3 * height, thin * m.between(0.9, 1.1), 2 * np.pi * lag, stride)
    if m.chance(0.85):
        root = centre + [-0.5 * length, 0, 0.3 * height]
        _tail(c, m, body, root, m.between(0.2, 1.0), m.between(0.04, 0.2), axis=2)


def biped(c: Creature, m: Maker) -> None:
    leg, torso, wide = m.between(0.3, 0.8), m.between(0.35, 0.7), m.between(0.15, 0.35)
    hips = np.array([0, 0, leg])
    body = c.joint(-1, hips, bob(m.between(0.02, 0.06), m.between(0, 0.15)))
    deep = wide * m.between(0.6, 1.0)
    if m.chance(0.5):
        c.part(body, m.ball(hips + [0, 0, torso / 2], (deep, wide, 0.6 * torso)), m.main, m.belly)
    else:
        solid = m.limb(hips - [0, 0, 0.05], hips + [0, 0, torso], wide, m.between(0.7, 1.4))
        solid.vertices[:, 0] *= deep / wide
        c.part(body, trimesh.Trimesh(solid.vertices, solid.faces, process=False), m.main)
    shoulders = hips + [0, 0, 0.85 * torso]
    size = m.between(0.14, 0.34)
    neck = c.joint(body, shoulders, swing(2, m.between(0, 0.3), m.between(0, 6)))
    _head(c, m, neck, shoulders + [0, 0, 0.15 * torso + 0.8 * size], size)
    if m.chance(0.35):  # a hat
        brim = shoulders + [0, 0, 0.15 * torso + 1.5 * size]
        c.part(neck, m.limb(brim, brim + [0, 0, 0.06], size * m.between(0.9, 1.5), 1.0), m.accent)
        c.part(neck, m.limb(brim, brim + [0, 0, m.between(0.1, 0.5)], size * 0.8, m.between(0.05, 1.0)), m.accent)
    stride, thick = m.between(0.3, 0.8), m.between(0.06, 0.12)
    raised = m.between(-0.3, 2.4) if m.chance(0.4) else 0.0
    for side in (-1, 1):
        hip = hips + [0, side * wide * 0.5, 0]
        _leg(c, m, body, hip, leg, thick, np.pi * (side > 0), stride)
        arm, root = m.between(0.35, 0.7), shoulders + [0, side * (wide + 0.02), 0]
        upper = c.joint(body, root, swing(1, stride, np.pi * (side < 0), rest=-raised))
        elbow = root + [0, side * 0.25 * arm, -0.45 * arm]
        c.part(upper, m.limb(root, elbow, thick, 0.8), m.accent if m.chance(0.5) else m.main)
        lower = c.joint(upper, elbow, swing(1, 0.4, np.pi * (side < 0), rest=-m.between(0, 0.8)))
        hand = elbow + [0, side * 0.05, -0.45 * arm]
        c.part(lower, m.limb(elbow, hand, 0.8 * thick, 0.8), m.belly)
        c.part(lower, m.ball(hand, (1.3 * thick,) * 3, 1), m.belly)
    if m.chance(0.25):
        _tail(c, m, body, hips + [-deep, 0, 0.05], m.between(0.3, 0.9), m.between(0.03, 0.12), axis=2)
    if m.chance(0.2):  # wings
        _wings(c, m, body, shoulders + [-deep, 0, -0.1], m.between(0.3, 0.8), 0.5)


def _wings(c: Creature, m: Maker, body: int, root: np.ndarray, span: float, beat: float) -> None:
    chord = m.between(0.12, 0.3)
    for side in (-1, 1):
        start = root + [0, side * 0.05, 0]
        joint = c.joint(body, start, swing(0, side * beat, m.between(0, 0.3), rest=side * m.between(0, 0.4)))
        solid = m.limb(start, start + [m.between(-0.2, 0.05), side * span, m.between(0, 0.2)], chord, m.between(0.2, 1))
        solid.vertices[:, 2] = start[2] + 0.15 * (solid.vertices[:, 2] - start[2])
        c.part(joint, trimesh.Trimesh(solid.vertices, solid.faces, process=False), m.accent)


def fish(c: Creature, m: Maker) -> None:
    length, thin, tall = m.between(0.7, 1.2), m.between(0.1, 0.28), m.between(0.18, 0.5)
    nose = c.joint(-1, np.zeros(3), swing(2, 0.1, 0.0))
    bands, offset = int(m.rng.integers(0, 4)), m.between(0, 6)
    solid = m.ball(np.zeros(3), (length / 2, thin, tall), 3)
    middle = c.joint(nose, np.array([-0.1 * length, 0, 0]), swing(2, 0.15, -0.8))
    c.part(nose, solid, m.main, m.belly)
    if bands:
        x = solid.triangles_center[:, 0]
        painted = np.sin(x / length * 2 * np.pi * bands + offset) > 0.55
        c.colours[-1][np.repeat(painted, 3)] = m.accent
    tail = c.joint(middle, np.array([-0.42 * length, 0, 0]), swing(2, m.between(0.3, 0.6), -1.6))
    fork = m.between(0.15, 0.4)
    for side in (-1, 1):
        base = np.array([-0.4 * length, 0, 0])
        tip = base + [-fork, 0, side * fork * m.between(0.4, 1.0)]
        c.part(tail, m.spike(base, tip, m.between(0.08, 0.18), 0.15), m.accent)
        gill = np.array([0.15 * length, side * 0.8 * thin, -0.2 * tall])
        fin = c.joint(nose, gill, swing(0, 0.4, m.between(0, 6)))
        c.part(fin, m.spike(gill, gill + [-0.2, side * 0.25, -0.1], 0.1, 0.4), m.accent)
        eye = np.array([0.3 * length, side * 0.72 * thin, 0.2 * tall])
        c.part(nose, m.ball(eye, (0.07,) * 3, 1), m.white)
        c.part(nose, m.ball(eye + [0.02, side * 0.03, 0], (0.045,) * 3, 1), m.dark)
    top = np.array([m.between(-0.1, 0.15) * length, 0, 0.85 * tall])
    c.part(nose, m.spike(top, top + [-0.25, 0, m.between(0.1, 0.4)], m.between(0.1, 0.3), 0.12), m.accent)


def bird(c: Creature, m: Maker) -> None:
    length, girth = m.between(0.3, 0.6), m.between(0.15, 0.3)
    centre = np.array([0, 0, 0.5])
    body = c.joint(-1, centre, bob(0.05, 0.05, harmonic=1))
    c.part(body, m.ball(centre, (length, girth, girth * m.between(0.8, 1.2))), m.main, m.belly)
    _wings(c, m, body, centre + [0.05, 0, 0.5 * girth], m.between(0.4, 1.0), m.between(0.4, 0.9))
    neck = c.joint(body, centre + [0.7 * length, 0, 0.4 * girth], swing(1, 0.1, 1.0))
    at = centre + [length + m.between(0, 0.2), 0, girth + m.between(0, 0.4)]
    c.part(neck, m.limb(centre + [0.6 * length, 0, 0.2 * girth], at, 0.5 * girth, 0.6), m.main)
    _head(c, m, neck, at, m.between(0.1, 0.22))
    end = centre + [-length - m.between(0.1, 0.4), 0, m.between(-0.1, 0.3)]
    c.part(body, m.limb(centre + [-0.7 * length, 0, 0], end, 0.5 * girth, m.between(0.4, 1.6)), m.accent)
    for side in (-1, 1):
        hip = centre + [0, side * 0.4 * girth, -0.7 * girth]
        _leg(c, m, body, hip, m.between(0.15, 0.5), 0.03, m.between(0, 6), 0.2)


def hopper(c: Creature, m: Maker) -> None:
    wide, tall = m.between(0.25, 0.45), m.between(0.2, 0.45)
    centre = np.array([0, 0, tall + m.between(0, 0.15)])
    body = c.joint(-1, centre, bob(m.between(0.1, 0.4), 0.0, hop=True))
    c.part(body, m.ball(centre, (wide * m.between(0.9, 1.4), wide, tall)), m.main, m.belly)
    for side in (-1, 1):
        eye = centre + [0.6 * wide, side * 0.5 * wide, 0.8 * tall]
        radius = m.between(0.06, 0.15)
        c.part(body, m.ball(eye, (radius,) * 3, 1), m.white if m.chance(0.7) else m.accent)
        c.part(body, m.ball(eye + [0.6 * radius, side * 0.3 * radius, 0], (0.6 * radius,) * 3, 1), m.dark)
        for x, size in ((0.55, 0.7), (-0.55, 1.0)):
            hip = centre + [x * wide, side * 0.8 * wide, -0.3 * tall]
            leg = c.joint(body, hip, swing(1, m.between(0.3, 0.8) * size, 0.5, rest=0.2))
            foot = hip + [0.15, side * 0.15, -0.6 * tall]
            c.part(leg, m.limb(hip, foot, m.between(0.05, 0.12) * size, 0.8), m.main)
            c.part(leg, m.ball(foot + [0.08, 0, 0], (0.15 * size, 0.1 * size, 0.04), 1), m.accent)
    if m.chance(0.4):
        top = centre + [0, 0, 0.9 * tall]
        c.part(body, m.spike(top, top + [m.between(-0.2, 0.1), 0, m.between(0.1, 0.4)], 0.1), m.accent)


BUILDERS = {"Quadruped": quadruped, "Biped": biped, "Fish": fish, "Bird": bird, "Hopper": hopper}
SHARES = {"Quadruped": 0.38, "Biped": 0.32, "Fish": 0.12, "Bird": 0.08, "Hopper": 0.10}


def make_creature(seed: int, frames: int = 24) -> PackedAsset:
    """One creature, the same for the same seed, with one looping clip of ``frames`` poses."""
    rng = np.random.default_rng(seed)
    plan = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    creature = Creature()
    BUILDERS[plan](creature, Maker(rng))
    vertices, joints = np.concatenate(creature.vertices), np.concatenate(creature.joints)
    weights = np.tile(np.array([[255, 0, 0, 0]], np.uint8), (len(vertices), 1))
    slots = np.tile(joints[:, None], (1, 4)).astype(np.uint8)
    matrices = creature.poses(frames)
    matrices = _normalisation(skin(vertices, slots, weights / 255.0, matrices)) @ matrices
    low, high = vertices.min(0), vertices.max(0)
    box = np.eye(4)
    box[:3, :3] *= (high - low).max() / 2
    box[:3, 3] = (low + high) / 2
    srgb = linear_to_srgb(np.concatenate(creature.colours).clip(0, 1))
    return PackedAsset(
        name=f"bestiary/{plan}_{seed:04d}", animated=True,
        rest=np.round((vertices - box[:3, 3]) / box[0, 0] * 32767).astype(np.int16), joints=slots, weights=weights,
        colours=np.round(srgb * 255).astype(np.uint8), faces=np.arange(len(vertices), dtype=np.int32).reshape(-1, 3),
        flags=np.zeros(len(vertices) // 3, np.uint8), matrices=(matrices @ box)[:, :, :3].astype(np.float16),
        clips=[PLANS[plan]], pose_clip=np.zeros(frames, np.int16),
    )  # fmt: skip


@command()
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="threestudio_4d.tiny_priors.assets.bestiary", description="Pack random creatures."
    )
    parser.add_argument("--count", type=checked(Rows), default=100)
    parser.add_argument("--frames", type=checked(Frames), default=24, help="poses of each clip")
    parser.add_argument("--seed", type=checked(Seed), default=0, help="number of the first creature")
    parser.add_argument("--out", type=pack_file, required=True, help="the pack to write (.npz)")
    args = parser.parse_args(argv)
    write_pack([make_creature(args.seed + i, args.frames) for i in range(args.count)], args.out)
    print(f"{args.out}: {args.count} creatures, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
