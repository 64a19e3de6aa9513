"""The picture of a pack: every sample is drawn under its caption."""

import numpy as np
from PIL import Image

from threestudio_4d.tiny_priors.assets.bestiary import make_creature
from threestudio_4d.tiny_priors.assets.data_sheet import LINE, main
from threestudio_4d.tiny_priors.assets.pack import write_pack


def test_clips_and_views_under_their_captions(tmp_path, capsys):
    write_pack([make_creature(seed) for seed in (0, 1)], tmp_path / "pack.npz")
    command = [str(tmp_path / "pack.npz"), str(tmp_path / "out" / "sheet.png"), "--count", "2"]
    main([*command, "--size", "24", "--frames", "5"])
    image = np.asarray(Image.open(tmp_path / "out" / "sheet.png"))
    assert image.shape == (4 * (24 + LINE), 5 * 24, 3)
    for row in range(4):
        top = row * (24 + LINE)
        assert (image[top : top + LINE] < 128).any()  # text
        pictures = image[top + LINE : top + LINE + 24]
        assert all((pictures[:, 24 * k : 24 * k + 24] < 200).any() for k in range(5 if row < 2 else 4))
    assert "2 assets" in capsys.readouterr().out
