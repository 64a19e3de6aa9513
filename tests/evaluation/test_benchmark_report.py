"""The report of a small benchmark: numbers, names that are escaped, videos that play, what is said of failures."""

import base64
import json
import re
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from bench_maker import FRAMES, write_data, write_launcher
from PIL import Image

from threestudio_4d.evaluation.benchmark import charts, layout, pictures, scores
from threestudio_4d.evaluation.benchmark.__main__ import main
from threestudio_4d.evaluation.benchmark.report import read_curve
from threestudio_4d.evaluation.novel_views import NOVEL_VIEWS, score_folders

NASTY = "a <script>alert(1)</script> | b"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two configs and the truth itself as a result from elsewhere; one run fails, one lacks a frame."""
    folder = tmp_path_factory.mktemp("report")
    write_data(folder / "data")
    write_launcher(folder)
    (folder / "a.yaml").write_text("name: a\n")
    content = {
        "name": "small",
        "data": "data",
        "configs": [
            {"name": NASTY, "path": "a.yaml", "overrides": ["fake.fail=cat"]},
            {"name": "short", "path": "a.yaml", "overrides": ["fake.wrong=true"]},
        ],
        "results": [{"name": "oracle", "folder": "data"}],
        "evaluation": {"metrics": ["psnr", "iou", "flicker", "lpips_vgg"], "lpips": "data"},
    }
    (folder / "bench.yaml").write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CUDA_VISIBLE_DEVICES", "-1")
        assert main(["bench.yaml", "--launcher", "fake_launch.py", "--out", "out", "common=1"]) == 1
    return folder


@pytest.fixture
def results(folder):
    return json.loads((folder / "out" / "results.json").read_text())


def row(text, name):
    return next(line for line in text.splitlines() if line.startswith(f"| {name} |"))


def test_scores_are_the_evaluators(folder, results):
    expected = score_folders(folder / "out" / "baselines" / "mirror" / "cat", folder / "data" / "cat")
    mirror = results["scores"]["mirror"]["0"]["objects"]["cat"]
    assert mirror == pytest.approx(expected)
    # the launcher copies its input, as the baseline does
    assert results["scores"][NASTY]["0"]["objects"]["dog"] == results["scores"]["copy"]["0"]["objects"]["dog"]
    assert list(results["scores"][NASTY]["0"]["objects"]) == ["dog"]
    assert results["scores"]["oracle"]["0"]["mean"] == pytest.approx({"psnr": 100, "iou": 1, "flicker": 0})
    assert results["scores"]["short"] == {}
    assert all(run["commits"] == [results["made_with"]["commit"]] for run in results["runs"])


def test_markdown(folder, results):
    text = (folder / "out" / "report.md").read_text()
    assert "2 configs x 2 objects x 1 seed: 3 of 4 runs done, 1 failed" in text
    assert row(text, "oracle").startswith("| oracle | **100.00** | **1.000** | **0.00** | 2 of 2 |")
    name = r"a \<script\>alert(1)\</script\> \| b"
    copy = results["scores"]["copy"]["0"]["objects"]["dog"]
    assert f"| {name} | {copy['psnr']:.2f} | {copy['iou']:.3f} | {copy['flicker']:.2f} | 1 of 2 |" in text
    assert f"| {name} | failed | {copy['psnr']:.2f} |" in text  # by object
    assert "copy: the input clip in place of every view." in text
    assert r"error: system.loss.lambda\_\<b\>rgb\</b\> is 'x'" in text
    assert re.search(r"short: cat: .*az-75 has 3 frames|short: cat: .*lacks frame 0", text)
    assert "Left out: LPIPS (VGG): " in text
    for path in re.findall(r"\]\(([^)]+)\)", text):
        assert (folder / "out" / path).is_file(), path


def test_the_page_stands_alone_and_escapes(folder):
    page = (folder / "out" / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "lambda_<b>" not in page
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", page) and "@import" not in page
    for path in re.findall(r'href="([^"#]+)"', page):
        assert (folder / "out" / path).is_file(), path
    assert page.count('src="data:video/mp4;base64,') == 2
    video = base64.b64decode(re.search(r'src="data:video/mp4;base64,([^"]+)"', page).group(1))
    assert video == (folder / "out" / "videos" / "cat.mp4").read_bytes()
    assert 'id="failed"' in page and "bench4d (version 1)" in page and "SHA-256" in page


def test_large_videos_are_linked(folder):
    content = {"comparisons": [{"video": "videos/cat.mp4", "sheet": "sheets/cat.jpg"}]}
    template = "{% for item in comparisons %}{{ media(item.video) }}{% endfor %}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "PAGE", template)
        patch.setattr(layout, "_facts", lambda content: [])
        assert layout.html_page(content, folder / "out", embed_bytes=10) == "videos/cat.mp4"
        assert layout.html_page(content, folder / "out").startswith("data:video/mp4;base64,")


def test_videos_show_input_methods_and_truth(folder):
    with av.open(str(folder / "out" / "videos" / "dog.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    step = pictures.TILE + pictures.MARGIN
    assert len(frames) == FRAMES and frames[0].shape == (pictures.HEADER + 4 * step, 5 * step, 3)
    tiles = [frames[1][pictures.HEADER + step :, column * step :][: step - 6, : step - 6] for column in range(5)]
    truth = pictures.read_tile(folder / "data" / "dog" / "az15" / "1.png")
    source = pictures.read_tile(folder / "data" / "dog" / "ref" / "1.png")
    inside = slice(40, 90), slice(30, 110)  # without the label

    def error(tile, picture):
        return np.abs(tile[inside].astype(float) - picture[inside]).mean()

    # input, the first config (which copied its input), the short one, the truth as a result, the truth
    assert error(tiles[0], source) < 6 and error(tiles[1], source) < 6
    assert error(tiles[3], truth) < 6 and error(tiles[4], truth) < 6
    assert error(tiles[0], truth) > 6


def test_without_pyav_there_are_stills(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["bench.yaml", "--launcher", "fake_launch.py", "--out", str(tmp_path), "--report", "common=1"]) == 0
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    assert "<video" not in page and page.count("data:image/jpeg;base64,") == 2 and "pip install av" in page
    assert "![stills](sheets/cat.jpg)" in text and "pip install av" in text
    assert "0 of 4 runs done, 4 not run yet" in text


def test_a_second_report_reads_scores_that_have_not_changed(folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = (folder / "out" / "results.json").read_text()
    monkeypatch.setattr(scores, "evaluate_folders", None)
    code = main(["bench.yaml", "--launcher", "fake_launch.py", "--out", "out", "--report", "common=1"])
    assert code == 1
    after = json.loads((folder / "out" / "results.json").read_text())
    assert after["scores"] == json.loads(before)["scores"]


def test_mirror_turns_only_views_from_behind(folder):
    made = folder / "out" / "baselines" / "mirror" / "cat"
    source = np.asarray(Image.open(folder / "data" / "cat" / "ref" / "0.png"))
    assert [view for view in NOVEL_VIEWS if scores.is_behind(view)] == ["az195"]
    for view in NOVEL_VIEWS:
        shown = np.asarray(Image.open(made / view / "0.png"))
        np.testing.assert_array_equal(shown, source[:, ::-1] if view == "az195" else source)


def test_curves_go_on_over_resumed_runs(tmp_path):
    for version, rows in enumerate(("10,5\n20,4\n30,3\n", "20,4.5\n40,2\n")):
        Path(tmp_path, "csv_logs", f"version_{version}").mkdir(parents=True)
        Path(tmp_path, "csv_logs", f"version_{version}", "metrics.csv").write_text("step,train/loss\n" + rows + "50,\n")
    assert read_curve(tmp_path) == [(10, 5), (20, 4.5), (40, 2)]
    assert read_curve(tmp_path / "none") == []


def test_charts_escape_names_and_leave_gaps():
    svg = charts.bar_chart("a < b", ["x & y", "z"], {"<m>": [1.0, None], "n": [2.0, 3.0]}, ["#111111", "#222222"])
    assert svg.count("<rect") == 1 + 3 + 2  # background, bars, legend
    assert "<m>" not in svg and "x &amp; y" in svg and "a &lt; b" in svg
    assert charts.bar_chart("t", ["x"], {"m": [None]}, ["#111111"]) == ""
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" fill="#(?:111111|222222)"><title>', svg)]
    assert heights[1] == pytest.approx(2 * heights[0], rel=0.02)


def test_mistakes_on_the_command_line(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for arguments, message in (
        ([], "give a benchmark file (before options of several values), or --config"),
        (["bench.yaml", "--config", "a.yaml", "--data", "data"], "not both"),
        (["--config", "a.yaml"], "--config FILE needs --data FOLDER"),
        (["bench.yaml", "--objects", "cow"], "'data.objects'"),
        (["--ray", "bench.yaml"], "put the benchmark file before --ray"),
        (["bench.yaml", "--launcher", "no.py"], "there is no no.py"),
        (["bench.yaml", "--metrics", "psrn"], "there is no metric 'psrn'"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_means_over_seeds():
    found = {seed: {"objects": {"cat": {"psnr": value}}, "mean": {"psnr": value}} for seed, value in ((0, 20), (1, 22))}
    method = scores.Method("a", "config", scores=found)
    assert (method.value("psnr", "cat"), method.spread("psnr", "cat"), method.total("psnr")) == (21, 1, 21)
    assert method.value("iou", "cat") is None and method.value("psnr", "dog") is None and method.objects() == ["cat"]
    found[1]["objects"] = {}
    assert method.objects() == [] and method.spread("psnr", "cat") is None


@pytest.mark.parametrize("damage", [b"step,train/loss\n10,5\nx,y\n", b"step,train/loss\n\xff\xfe,3\n"])
def test_a_damaged_log_is_named_and_left_out(damage, tmp_path):
    from types import SimpleNamespace

    from threestudio_4d.evaluation.benchmark.report import _curve_charts

    jobs = []
    for name in ("good", "bad"):
        log = tmp_path / name / "csv_logs" / "version_0" / "metrics.csv"
        log.parent.mkdir(parents=True)
        log.write_bytes(b"step,train/loss\n10,5\n20,4\n" if name == "good" else damage)
        jobs.append(SimpleNamespace(config="a", seed=0, object=name, folder=str(tmp_path / name)))
    said = []
    charts = _curve_charts(jobs, said.append)
    assert list(charts) == ["a"] and "good" in charts["a"] and "bad" not in charts["a"]
    assert len(said) == 1 and str(tmp_path / "bad") in said[0] and "left out" in said[0]
