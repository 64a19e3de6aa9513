"""Benchmark clips from a pack: the layout, the times of the frames, and the messages."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from threestudio_4d.errors import UserError
from threestudio_4d.tiny_priors.assets.bestiary import make_creature
from threestudio_4d.tiny_priors.assets.creature import VIEWS
from threestudio_4d.tiny_priors.assets.pack import read_pack, write_pack
from threestudio_4d.tiny_priors.rendering.make_benchmark import choose, clip_meshes, main
from threestudio_4d.tiny_priors.rendering.scenes import PosedMeshes


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    path = tmp_path_factory.mktemp("pack") / "creatures.npz"
    write_pack([make_creature(seed) for seed in (0, 1)], path)
    return path


def test_a_folder_for_each_view(pack, tmp_path, capsys):
    names = [asset.name for asset in read_pack(pack)]
    main([str(pack), str(tmp_path / "bench"), "--assets", *names, "--frames", "3", "--size", "24"])
    about = json.loads((tmp_path / "bench" / "benchmark.json").read_text())
    assert [entry["asset"] for entry in about["objects"].values()] == names and about["frames"] == 3
    printed = capsys.readouterr().out
    for folder, entry in about["objects"].items():
        assert f"{folder}: {entry['caption']}" in printed
        for view in VIEWS:
            files = sorted(path.name for path in (tmp_path / "bench" / folder / view).iterdir())
            assert files == ["0.png", "1.png", "2.png"]
            with Image.open(tmp_path / "bench" / folder / view / "1.png") as image:
                assert image.mode == "RGBA" and image.size == (24, 24)
                alpha = np.asarray(image)[..., 3]
            assert 0.02 < (alpha > 127).mean() < 0.9 and not alpha[[0, -1]].any()


def test_frames_stand_at_even_times_of_the_loop(pack):
    choice = choose(read_pack(pack), [read_pack(pack)[0].name])[0]
    poses = PosedMeshes.from_assets([choice.asset], dtype=torch.float32).vertices.view(24, -1, 3)
    same = clip_meshes(choice, 24, heading=0).vertices.view(24, -1, 3)
    scale = same.norm(dim=-1).max() / poses.norm(dim=-1).max()
    torch.testing.assert_close(same, poses * scale)
    twice = clip_meshes(choice, 48, heading=0).vertices.view(48, -1, 3)
    middle = (poses[23] + poses[0]) / 2  # it goes round
    ratio = twice[47] / middle.where(middle.abs() > 0.05, torch.nan)
    assert ratio[~ratio.isnan()].std() < 1e-3
    turned = clip_meshes(choice, 24, heading=90).vertices.view(24, -1, 3)  # from +x to +y
    torch.testing.assert_close(turned, torch.stack([-same[..., 1], same[..., 0], same[..., 2]], -1))
    assert twice.norm(dim=-1).max() == pytest.approx(0.72, abs=1e-4)


def test_messages(pack):
    assets = read_pack(pack)
    with pytest.raises(UserError, match="fits no animated asset"):
        choose(assets, ["Unicorn"])
    with pytest.raises(UserError, match="fits several animated assets"):
        choose(assets, ["bestiary"])
    with pytest.raises(UserError, match="has no clip 'Moonwalk'; it has"):
        choose(assets, [assets[0].name], "Moonwalk")
    assets[0].pose_clip = np.arange(24, dtype=np.int16) // 4
    assets[0].clips = list("abcdef")
    with pytest.raises(UserError, match="--clip-frames 24"):
        choose(assets, [assets[0].name])
