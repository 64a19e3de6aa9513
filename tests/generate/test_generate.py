"""``threestudio_4d.generate``: from a sentence or a picture to a clip that a 4D system reads, and every refusal."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from tiny_svd import tiny_svd
from tiny_t2v import FRAMES, tiny_t2v

from threestudio_4d import generate as tool
from threestudio_4d.data.clip import load_clip
from threestudio_4d.diffusion.svd.model import SVDModel
from threestudio_4d.diffusion.t2v.model import TextToVideoModel

SIZE = 64


@pytest.fixture(scope="module")
def priors(tmp_path_factory):
    """Folders of untrained priors: their samples are noise."""
    folder = tmp_path_factory.mktemp("priors")
    tiny_t2v("pixels").save(folder / "t2v", dtype=torch.float32)
    tiny_svd().save(folder / "svd", dtype=torch.float32)
    return {"text": str(folder / "t2v"), "picture": str(folder / "svd")}


def disc_clip(frames: int = 5, size: int = SIZE, missing: tuple[int, ...] = ()) -> torch.Tensor:
    """A red disc that moves over white, [1, F, 3, S, S]; not there in some frames."""
    video = np.full((frames, size, size, 3), 255, np.uint8)
    for k in range(frames):
        if k not in missing:
            cv2.circle(video[k], (20 + 5 * k, 32), 10, (200, 40, 30), -1, cv2.LINE_AA)
    return torch.from_numpy(video).permute(0, 3, 1, 2)[None].float() / 255


@pytest.fixture
def draws(monkeypatch):
    """Make every prior draw a given clip; returns what it was asked."""

    def prepare(video: torch.Tensor) -> list[dict]:
        asked = []

        def sample(self, first, *args, on_step, **options):
            asked.append({"first": first, "args": args, **options})
            return video

        monkeypatch.setattr(TextToVideoModel, "sample", sample)
        monkeypatch.setattr(SVDModel, "sample", sample)
        return asked

    return prepare


def run(*arguments: str) -> int:
    return tool.main([str(argument) for argument in arguments] + ["--quiet", "--device", "cpu"])


def test_a_sentence_becomes_the_input_of_a_4d_system(priors, draws, tmp_path, capsys):
    asked = draws(disc_clip())
    out = tmp_path / "fox"
    assert run("a fox walking", out, "--model", priors["text"], "--steps", "3", "--guidance-scale", "5") == 0
    assert asked[0]["steps"] == 3 and asked[0]["guidance_scale"] == 5.0
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted([*(f"{k}.png" for k in range(5)), "clip.gif", "clip.mp4", "contact_sheet.png", tool.RECORD])
    frame = cv2.imread(str(out / "0.png"), cv2.IMREAD_UNCHANGED)
    assert frame.shape == (SIZE, SIZE, 4)
    assert frame[2, 2, 3] == 0 and frame[32, 20].tolist() == [30, 40, 200, 255]
    record = json.loads((out / tool.RECORD).read_text())
    assert record["source"] == "a fox walking" and record["frames"] == 5 and record["alpha"]
    assert "data.image_seq_path" in capsys.readouterr().out
    clip = load_clip(str(out))
    assert len(clip.frames) == 5
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    assert sheet.shape == (3 * 256, 5 * 256, 3)


def test_the_words_and_the_seed_reach_the_prior(priors, tmp_path):
    """An untrained prior draws noise; different words and seeds draw different noise, the same ones the same."""
    frames = {}
    for name, words, seed in (("a", "a fox", 1), ("b", "a fox", 1), ("c", "a pine tree", 1), ("d", "a fox", 2)):
        extra = ("--model", priors["text"], "--steps", "2", "--seed", seed, "--keep-background")
        assert run(words, tmp_path / name, *extra) == 0
        frames[name] = cv2.imread(str(tmp_path / name / "1.png"), cv2.IMREAD_UNCHANGED)
    assert frames["a"].shape == (16, 16, 3)
    assert len(list((tmp_path / "a").glob("[0-9]*.png"))) == FRAMES
    assert (frames["a"] == frames["b"]).all()
    assert (frames["a"] != frames["c"]).any() and (frames["a"] != frames["d"]).mean() > 0.5


def test_a_sample_without_plain_background_is_kept_and_said(priors, tmp_path, capsys):
    assert run("a fox", tmp_path / "noise", "--model", priors["text"], "--steps", "2") == 0
    told = capsys.readouterr()
    assert "no plain background" in told.err and "threestudio_4d.prepare" in told.err and "Train with" not in told.out
    assert cv2.imread(str(tmp_path / "noise/0.png"), cv2.IMREAD_UNCHANGED).shape == (16, 16, 3)


@pytest.mark.parametrize("kind", ["alpha", "white"])
def test_a_picture_is_placed_and_continued(kind, priors, draws, tmp_path):
    asked = draws(disc_clip())
    picture = np.full((90, 60, 4), (255, 255, 255, 0 if kind == "alpha" else 255), np.uint8)
    cv2.rectangle(picture, (30, 60), (49, 79), (0, 0, 255, 255), -1)
    cv2.imwrite(str(tmp_path / "p.png"), picture if kind == "alpha" else picture[..., :3])
    arguments = (
        tmp_path / "p.png",
        tmp_path / "out",
        "--model",
        priors["picture"],
        "--motion-bucket",
        "40",
        "--fps",
        "12",
    )
    assert run(*arguments) == 0
    seen = asked[0]["first"]
    assert asked[0]["motion_bucket"] == 40 and asked[0]["fps"] == 12
    assert seen.shape[:2] == (1, 3) and seen.shape[-1] == seen.shape[-2]
    assert seen[0, :, 0, 0].min() == 1
    red = seen[0, 1] < 0.5
    rows, columns = red.any(1).nonzero().flatten(), red.any(0).nonzero().flatten()
    side = seen.shape[-1]
    for found in (rows, columns):  # centred, three quarters of the frame
        assert len(found) == pytest.approx(0.75 * side, abs=1.5)
        assert (found[0] + found[-1]) / 2 == pytest.approx((side - 1) / 2, abs=1)
    assert len(load_clip(str(tmp_path / "out")).frames) == 5


def test_a_picture_through_an_untrained_prior(priors, tmp_path):
    cv2.imwrite(str(tmp_path / "p.png"), cv2.circle(np.full((40, 40, 3), 255, np.uint8), (20, 20), 9, (0, 90, 0), -1))
    assert (
        run(tmp_path / "p.png", tmp_path / "out", "--model", priors["picture"], "--steps", "2", "--keep-background")
        == 0
    )
    assert (tmp_path / "out" / "0.png").exists()


@pytest.mark.parametrize(
    ("missing", "told"), [(range(5), "nothing in any frame"), ((1, 3), r"nothing in frames 1, 3 of 5")]
)
def test_a_blank_sample_is_no_result(missing, told, priors, draws, tmp_path, capsys):
    draws(disc_clip(missing=tuple(missing)))
    assert run("a fox", tmp_path / "out", "--model", priors["text"]) == 1
    error = capsys.readouterr().err
    assert told in error and "--seed" in error and not (tmp_path / "out").exists()


def test_specks_go(priors, draws, tmp_path):
    video = disc_clip()
    video[0, 2, :, 4:7, 50:53] = 0.2
    draws(video)
    assert run("a fox", tmp_path / "out", "--model", priors["text"]) == 0
    frame = cv2.imread(str(tmp_path / "out/2.png"), cv2.IMREAD_UNCHANGED)
    assert frame[5, 51, 3] == 0 and frame[32, 30, 3] == 255


def test_an_earlier_clip_is_replaced_on_demand_and_nothing_else(priors, draws, tmp_path, capsys):
    draws(disc_clip())
    out = tmp_path / "out"
    arguments = ("a fox", out, "--model", priors["text"])
    assert run(*arguments) == 0
    assert run(*arguments) == 2 and "is not empty" in capsys.readouterr().err
    draws(disc_clip(3))
    assert run(*arguments, "--overwrite") == 0
    assert len(list(out.glob("[0-9]*.png"))) == 3
    (out / "thesis.txt").write_text("mine")
    assert run(*arguments, "--overwrite") == 2
    assert "thesis.txt" in capsys.readouterr().err and (out / "thesis.txt").read_text() == "mine"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_bytes(b"x")
    assert run("a fox", tmp_path / "photos", "--overwrite") == 2
    assert "no generate.json" in capsys.readouterr().err and (tmp_path / "photos" / "1.png").exists()


def test_the_picture_is_never_in_the_folder_that_is_replaced(priors, draws, tmp_path, capsys):
    draws(disc_clip())
    out = tmp_path / "out"
    assert run("a fox", out, "--model", priors["text"]) == 0
    assert run(out / "0.png", out, "--model", priors["picture"], "--overwrite") == 2
    assert "holds the input" in capsys.readouterr().err and (out / "4.png").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["  "], "the sentence is empty"),
        (["a fox", "--model", "t2v-huge"], "no prior weights found for 't2v-huge'"),
        (["absent.png"], "absent.png does not exist"),
        (["damaged.png"], "cannot be read"),
        (["notes.txt"], "is not a picture"),
        (["."], "is a folder"),
        (["white.png"], "nothing"),
        (["~nobody-of-that-name/fox.png"], "does not exist"),
        (["a fox", "--frames", "1"], "--frames is 1; it must be from 2 to 128"),
        (["a fox", "--frames", "100000"], "--frames is 100000; it must be from 2 to 128"),
        (["a fox", "--fps", "nan"], "--fps is nan"),
        (["a fox", "--seed", "9" * 30], "--seed is"),
        (["a fox", "--motion-bucket", "9"], "--motion-bucket is for pictures"),
        (["white.png", "--negative", "fog"], "--negative is for sentences"),
        (["a fox", "--device", "tpu9"], "--device is 'tpu9'"),
    ],
)
def test_mistakes(arguments, told, priors, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    (tmp_path / "notes.txt").write_text("a fox")
    cv2.imwrite("white.png", np.full((30, 30, 3), 255, np.uint8))
    source, *rest = arguments
    assert tool.main([source, "out", "--quiet", *rest]) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_what_counts_as_a_picture(tmp_path):
    (tmp_path / "photo").write_bytes(b"x")
    assert tool.is_picture("shots/fox.png") and tool.is_picture(str(tmp_path / "photo"))
    assert not tool.is_picture("a fox walking") and not tool.is_picture("fox")
    assert not tool.is_picture("a picture of fox.png") and not tool.is_picture("a fox. " * 400)
    assert not tool.is_picture("a fox. " * 60)  # too long for a name, and short of what no path can be


def test_it_runs_as_a_file(repository):
    command = [sys.executable, str(repository / "custom/threestudio_4d/generate.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0 and "a fox walking" in done.stdout
