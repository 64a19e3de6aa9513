"""GLB reading, packing and skinning, on tiny files made here."""

import json
import struct

import numpy as np
import pytest
import torch

from threestudio_4d.errors import UserError
from threestudio_4d.tiny_priors.assets.gltf import Channel, read_glb, sample_channel
from threestudio_4d.tiny_priors.assets.pack import RADIUS, _planes, _unplanes, main, pack_asset, pack_assets, read_pack
from threestudio_4d.tiny_priors.rendering.scenes import PosedMeshes, is_validation

KINDS = {np.dtype(np.float32): 5126, np.dtype(np.uint16): 5123, np.dtype(np.uint8): 5121}
TYPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


class Writer:
    """Collects accessors and writes a GLB file."""

    def __init__(self):
        self.blob, self.views, self.accessors = b"", [], []

    def add(self, array):
        array = np.ascontiguousarray(array)
        self.blob += b"\0" * (-len(self.blob) % 4)
        self.views.append({"buffer": 0, "byteOffset": len(self.blob), "byteLength": array.nbytes})
        self.blob += array.tobytes()
        flat = array.reshape(len(array), -1)
        entry = {"bufferView": len(self.views) - 1, "componentType": KINDS[array.dtype], "count": len(flat)}
        self.accessors.append({**entry, "type": TYPES[flat.shape[1]]})
        return len(self.accessors) - 1

    def write(self, path, **document):
        blob = self.blob + b"\0" * (-len(self.blob) % 4)
        document |= {"asset": {"version": "2.0"}, "buffers": [{"byteLength": len(blob)}]}
        document |= {"bufferViews": self.views, "accessors": self.accessors}
        text = json.dumps(document).encode()
        text += b" " * (-len(text) % 4)
        total = 12 + 8 + len(text) + 8 + len(blob)
        head = struct.pack("<4sIII4s", b"glTF", 2, total, len(text), b"JSON")
        path.write_bytes(head + text + struct.pack("<I4s", len(blob), b"BIN\0") + blob)
        return path


def bar(path, nan=False, interpolation="LINEAR"):
    """A bar of two bones along glTF's y, one unit each; the upper one turns by 90 degrees about z during one second."""
    w = Writer()
    ring = np.array([[-0.1, 0, -0.1], [0.1, 0, -0.1], [0.1, 0, 0.1], [-0.1, 0, 0.1]], np.float32)
    heights = (0.0, 0.9, 1.1, 2.0)
    vertices = np.concatenate([ring + [0, h, 0] for h in heights]).astype(np.float32)
    faces = [[4 * r + i, 4 * (r + 1) + i, 4 * r + (i + 1) % 4] for r in range(3) for i in range(4)]
    faces += [[4 * r + (i + 1) % 4, 4 * (r + 1) + i, 4 * (r + 1) + (i + 1) % 4] for r in range(3) for i in range(4)]
    joints = np.zeros((16, 4), np.uint8)
    joints[8:, 0] = 1
    weights = np.zeros((16, 4), np.float32)
    weights[:, 0] = 1
    if nan:  # one more triangle on a bone that the clip breaks
        vertices = np.concatenate([vertices, [[0, 5, 0], [1, 5, 0], [0, 5, 1]]]).astype(np.float32)
        faces += [[16, 17, 18]]
        joints = np.concatenate([joints, np.full((3, 4), 2, np.uint8)])
        weights = np.concatenate([weights, np.eye(4, dtype=np.float32)[[0, 0, 0]]])
    inverse = np.tile(np.eye(4, dtype=np.float32), (3, 1, 1))
    inverse[1, 3, 1] = -1.0  # column-major: translation (0, -1, 0)
    turn = np.array([[0, 0, 0, 1], [0, 0, np.sqrt(0.5), np.sqrt(0.5)]], np.float32)
    if interpolation == "CUBICSPLINE":
        turn = np.stack([np.zeros_like(turn), turn, np.zeros_like(turn)], 1)
    primitive = {
        "attributes": {"POSITION": w.add(vertices), "JOINTS_0": w.add(joints), "WEIGHTS_0": w.add(weights)},
        "indices": w.add(np.array(faces, np.uint16).reshape(-1)),
        "material": 0,
    }
    times = w.add(np.array([0, 1], np.float32))
    samplers = [{"input": times, "output": w.add(turn.reshape(-1, 4)), "interpolation": interpolation}]
    channels = [{"sampler": 0, "target": {"node": 2, "path": "rotation"}}]
    if nan:
        samplers.append({"input": times, "output": w.add(np.full((2, 3), np.nan, np.float32))})
        channels.append({"sampler": 1, "target": {"node": 3, "path": "translation"}})
    return w.write(
        path,
        scenes=[{"nodes": [0, 1]}],
        nodes=[
            {"mesh": 0, "skin": 0, "translation": [9, 9, 9]},
            {"children": [2, 3]},
            {"translation": [0, 1, 0]},
            {},
        ],
        meshes=[{"primitives": [primitive]}],
        skins=[{"joints": [1, 2, 3], "inverseBindMatrices": w.add(inverse)}],
        materials=[{"pbrMetallicRoughness": {"baseColorFactor": [0.5, 0.25, 0.1, 1], "metallicFactor": 0.4}}],
        animations=[{"name": "Bend", "channels": channels, "samplers": samplers}],
    )


def posed(asset):
    meshes = PosedMeshes.from_assets([asset], dtype=torch.float32)
    return meshes, meshes.vertices.reshape(meshes.poses, -1, 3)


def test_a_skinned_bar_bends_in_the_z_up_world(tmp_path):
    asset = pack_asset(bar(tmp_path / "bar.glb"), poses=5)
    meshes, vertices = posed(asset)
    assert asset.animated and asset.clips == ["Bend"] and meshes.poses == 5
    assert meshes.faces.shape == (24, 3) and vertices.shape == (5, 16, 3)
    # glTF (x, y, z) is world (z, x, y). The root ring, which never moves and is 0.2 wide, tells the scale.
    vertices = vertices[:, np.argsort(asset.rest[:, 1], kind="stable")]  # the pack orders vertices by first use
    root = vertices[:, :4]
    scale = 0.2 / (root[0].amax(0) - root[0].amin(0))[0]
    angles = torch.deg2rad(90 * (torch.arange(5) + 0.5) / 5)
    tip = (vertices[:, 12:].mean(1) - root.mean(1)) * scale
    expected = torch.stack([torch.zeros(5), -angles.sin(), 1 + angles.cos()], -1)
    assert torch.allclose(tip, expected, atol=5e-3)


def test_a_clip_fits_the_sphere(tmp_path):
    _, vertices = posed(pack_asset(bar(tmp_path / "bar.glb"), poses=9))
    radius = vertices.norm(dim=-1).max()
    assert 0.95 * RADIUS < radius < RADIUS + 1e-3


def test_whole_clips_are_sampled_as_loops(tmp_path):
    asset = pack_asset(bar(tmp_path / "bar.glb"), clip_frames=6)
    meshes, vertices = posed(asset)
    assert meshes.poses == 6 and asset.pose_clip.tolist() == [0] * 6
    vertices = vertices[:, np.argsort(asset.rest[:, 1], kind="stable")]
    root = vertices[:, :4]
    scale = 0.2 / (root[0].amax(0) - root[0].amin(0))[0]
    turn = torch.deg2rad(90 * torch.arange(6) / 6)
    tip = (vertices[:, 12:].mean(1) - root.mean(1)) * scale
    assert torch.allclose(tip, torch.stack([torch.zeros(6), -turn.sin(), 1 + turn.cos()], -1), atol=5e-3)


def test_flags_of_whole_clips_are_checked(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--out", str(tmp_path / "out.npz"), "--max-clips", "3"])
    assert "--max-clips needs --clip-frames" in capsys.readouterr().err


def test_cubic_splines_pass_through_their_keys(tmp_path):
    clip = read_glb(bar(tmp_path / "bar.glb", interpolation="CUBICSPLINE")).clips[0]
    ends = sample_channel(clip.channels[0], np.array([-1.0, 0.0, 1.0, 2.0]))
    assert np.allclose(ends[0], [0, 0, 0, 1]) and np.allclose(ends[1], ends[0])
    assert np.allclose(ends[2], [0, 0, np.sqrt(0.5), np.sqrt(0.5)]) and np.allclose(ends[3], ends[2])


def test_steps_hold_and_rotations_take_the_short_way():
    times, values = np.array([0.0, 1.0, 2.0]), np.array([[0.0], [1.0], [5.0]])
    assert sample_channel(Channel(0, "scale", "STEP", times, values), np.array([0.9, 1.0, 1.9, 2.0]))[
        :, 0
    ].tolist() == [0, 1, 1, 5]
    q = np.array([[0, 0, 0, 1.0], [0, 0, -np.sqrt(0.5), -np.sqrt(0.5)]])  # the same turn as +90 degrees
    half = sample_channel(Channel(0, "rotation", "LINEAR", times[:2], q), np.array([0.5]))[0]
    assert np.allclose(np.abs(half), [0, 0, np.sin(np.pi / 8), np.cos(np.pi / 8)])


def test_vertices_of_broken_bones_are_dropped(tmp_path):
    asset = pack_asset(bar(tmp_path / "bar.glb", nan=True), poses=3)
    _, vertices = posed(asset)
    assert len(asset.rest) == 16 and torch.isfinite(vertices).all()


def test_pack_and_unpack(tmp_path):
    folder = tmp_path / "things"
    folder.mkdir()
    bar(folder / "one.glb")
    bar(folder / "two.glb", nan=True)
    (folder / "broken.glb").write_bytes(b"nothing")
    skipped = pack_assets([folder], tmp_path / "pack.npz", poses=4)
    assert len(skipped) == 1 and "things/broken" in skipped[0]
    assets = read_pack(tmp_path / "pack.npz")
    assert [a.name for a in assets] == ["things/one", "things/two"]
    fresh = pack_asset(folder / "one.glb", poses=4)
    for key in ("rest", "joints", "weights", "colours", "faces", "flags", "matrices", "pose_clip"):
        assert np.array_equal(getattr(assets[0], key), getattr(fresh, key)), key
    assert assets[0].clips == ["Bend"]
    assert [a.name for a in read_pack(tmp_path / "pack.npz", limit=1)] == ["things/one"]
    # the base colour comes back linear, and metalness does not darken it
    meshes = PosedMeshes.load(tmp_path / "pack.npz")
    assert torch.allclose(meshes.colours[0].float(), torch.tensor([0.5, 0.25, 0.1]), atol=4e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
def test_byte_planes_round_trip(dtype):
    info = np.iinfo(dtype)
    array = np.random.default_rng(0).integers(info.min, info.max, (50, 3)).astype(dtype)
    assert np.array_equal(_unplanes(_planes(array), 3, dtype), array)


def test_the_split_does_not_depend_on_the_folder_that_is_packed():
    names = [f"animated/animals/Thing{i}" for i in range(300)]
    held = [is_validation(name) for name in names]
    assert 0 < sum(held) < 30
    assert held == [is_validation(f"more/models/{name}") for name in names]
    assert held != [is_validation(name.replace("animals", "birds")) for name in names]


def test_sampling_keeps_to_its_split_and_share(tmp_path):
    names = [f"asset{i}" for i in range(200)]
    held = [n for n in names if is_validation(n)]
    assert 0 < len(held) < 20
    triangle = np.array([[0, -0.4, -0.4], [0, 0.4, -0.4], [0, 0, 0.5]])
    vertices = [np.stack([triangle] * (1 + 3 * (i % 2))) for i in range(200)]
    meshes = PosedMeshes.from_arrays(vertices, [np.array([[0, 1, 2]])] * 200, [np.ones((3, 3))] * 200, names=names)
    poses = meshes.sampler(False)(torch.rand(3, 4000, generator=torch.Generator().manual_seed(0)))
    assets = meshes.pose_asset[poses].tolist()
    assert not {names[a] for a in assets} & set(held)
    assert np.mean([a % 2 for a in assets]) == pytest.approx(0.7, abs=0.03)
    assert set(meshes.pose_range("asset3")) <= set(range(meshes.poses)) and len(meshes.pose_range(3)) == 4


def test_messages(tmp_path, capsys):
    with pytest.raises(UserError, match="not a binary glTF"):
        (tmp_path / "x.glb").write_bytes(b"plain text that is long enough")
        pack_asset(tmp_path / "x.glb")
    with pytest.raises(UserError, match="No asset pack"):
        read_pack(tmp_path / "none.npz")
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), "--out", str(tmp_path / "out.npz")]) == 2
    assert "No GLB file" in capsys.readouterr().err
