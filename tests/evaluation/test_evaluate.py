"""Whole evaluations on tiny folders: numbers, provenance, what is left out, and the command line."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
from frame_folders import VIEWS, picture, write_object, write_view
from PIL import Image

from threestudio_4d.errors import UserError
from threestudio_4d.evaluation import Result, evaluate_folders
from threestudio_4d.evaluation.__main__ import main
from threestudio_4d.evaluation.novel_views import score_folders
from threestudio_4d.evaluation.protocols import METRICS, PROTOCOLS
from threestudio_4d.evaluation.video_features import VideoFeatures

PIXELS = ("psnr", "ssim", "iou", "flicker")


def _toy(clips):
    return clips.mean((3, 4)).amax(2)


TOY = VideoFeatures(_toy, "toy", "1" * 64, "toy", minimum_frames=1)


@pytest.fixture
def sides(tmp_path):
    """Two objects, four views, three frames; deer is 10 levels too bright in one half, frog is right."""
    write_object(tmp_path / "gt" / "deer", (100, 120, 140))
    write_object(tmp_path / "pred" / "deer", (110, 130, 150))
    for side in ("gt", "pred"):
        write_object(tmp_path / side / "frog", (50, 60, 90))
    write_view(tmp_path / "gt" / "deer" / "ref", [picture(90)] * 3)
    write_view(tmp_path / "gt" / "frog" / "ref", [picture(90)] * 3)
    return tmp_path / "pred", tmp_path / "gt"


def test_numbers_by_hand(sides):
    result = evaluate_folders(*sides, metrics=PIXELS, size=16)
    error = (10 / 255) ** 2 / 2  # half of the pixels are background on both sides
    assert result.objects["deer"]["psnr"] == pytest.approx(-10 * np.log10(error), abs=1e-3)
    assert result.objects["frog"]["psnr"] == pytest.approx(100)
    assert result.mean["psnr"] == pytest.approx((100 - 10 * np.log10(error)) / 2, abs=1e-3)
    assert result.mean["iou"] == 1 and result.mean["flicker"] == pytest.approx(0, abs=1e-4)
    assert result.per_view["az15"]["psnr"] == pytest.approx(result.mean["psnr"], abs=1e-3)
    assert (
        result.values["frog"]["az15"]["ssim"] == pytest.approx(1, abs=2e-5)
        and result.values["deer"]["az15"]["ssim"] < 0.999
    )


def test_equals_the_scores_of_the_benchmarks(sides):
    result = evaluate_folders(sides[0] / "deer", sides[1] / "deer", metrics=PIXELS)
    for name, value in score_folders(sides[0] / "deer", sides[1] / "deer").items():
        assert result.mean[name] == pytest.approx(value, rel=1e-12)


def test_the_result_says_where_it_comes_from(sides):
    result = evaluate_folders(*sides, metrics=PIXELS, size=16)
    content = json.loads(result.to_json())
    assert content["format"] == "threestudio4d-evaluation/1"
    assert (content["protocol"], content["protocol_version"]) == ("bench4d", 1)
    assert content["metrics"]["iou"] == {"id": "silhouette-iou/1", "better": "higher"}
    assert (content["size"], content["background"], content["resize"]) == (16, "white", "premultiplied-area")
    assert content["views"] == list(VIEWS) and content["frames"]["deer/az15"] == 3
    assert content["sha256"]["predicted"] != content["sha256"]["truth"]
    assert {"torch", "torchmetrics", "numpy", "pillow", "python"} <= set(content["versions"])
    assert str(sides[0]) not in result.to_json()
    assert isinstance(result, Result)


def test_what_needs_a_network_is_left_out_with_the_reason(sides, tmp_path, monkeypatch):
    monkeypatch.setattr("threestudio_4d.evaluation.clip_similarity.LOCAL_FOLDER", str(tmp_path / "absent"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "nothing").mkdir()
    result = evaluate_folders(*sides, size=32, lpips=tmp_path / "nothing")
    assert result.metrics == list(PIXELS)
    assert set(result.skipped) == set(PROTOCOLS["bench4d"].metrics) - set(PIXELS)
    assert "fetch" in result.skipped["lpips_vgg"] and "--fvd-network" in result.skipped["fv4d"]
    assert "--clip" in result.skipped["clip_t"]
    assert set(result.mean) == set(PIXELS)
    with pytest.raises(UserError, match="lpips_vgg was asked for and cannot be computed: no LPIPS weights"):
        evaluate_folders(*sides, metrics=["psnr", "lpips_vgg"], lpips=tmp_path / "nothing", require=True)
    assert "32 pixels or more" in evaluate_folders(*sides, metrics=["lpips_alex"], size=16).skipped["lpips_alex"]


def test_lpips_is_in_place(sides, tmp_path):
    from safetensors.torch import save_file

    from threestudio_4d.evaluation.lpips import LPIPS

    network = LPIPS("alex")
    save_file(network.state_dict(), tmp_path / "alex.safetensors")
    result = evaluate_folders(*sides, metrics=["lpips_alex"], size=64, lpips=tmp_path)
    assert result.objects["frog"]["lpips_alex"] == 0 < result.objects["deer"]["lpips_alex"]
    assert result.networks["lpips-alex"]["file"] == "alex.safetensors"
    assert len(result.networks["lpips-alex"]["sha256"]) == 64


def test_clip_is_in_place(sides, tmp_path):
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text, vision = small | {"vocab_size": 20}, small | {"image_size": 32, "patch_size": 16}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(tmp_path / "clip")
    names = ["clip", "clip_t", "clip_t_truth", "clip_4dgen"]
    result = evaluate_folders(*sides, metrics=names, size=32, clip=str(tmp_path / "clip"))
    frog = result.objects["frog"]
    assert frog["clip"] == pytest.approx(1) and frog["clip_t"] == frog["clip_t_truth"] > 0
    assert result.objects["deer"]["clip"] < 1 and frog["clip_4dgen"] > 0
    assert "not a ViT-B/32" in result.networks["clip"]["note"] and result.networks["clip"]["name"] == "clip"
    assert set(result.digests) == {"predicted", "truth", "reference"}
    shutil.rmtree(sides[1] / "frog" / "ref")
    result = evaluate_folders(*sides, metrics=names, size=32, clip=str(tmp_path / "clip"))
    assert result.metrics == names[:3] and "no view ref" in result.skipped["clip_4dgen"]
    assert "clip_4dgen" not in result.objects["deer"]


def test_fvd_is_in_place(sides):
    names = ["fvd_consistent4d", "fvd_styleganv", "fvd_f", "fvd_v", "fvd_diag", "fv4d"]
    result = evaluate_folders(*sides, metrics=names, fvd_network=TOY)
    assert result.objects["frog"]["fvd_consistent4d"] == 0 < result.objects["deer"]["fvd_consistent4d"]
    assert set(result.overall) == {"fvd_f", "fvd_v", "fvd_diag", "fv4d"}
    assert result.networks["fvd"]["clips"] == {"fvd_f": 8, "fvd_v": 6, "fvd_diag": 8, "fv4d": 2}
    assert result.networks["fvd"]["sha256"] == "1" * 64
    assert "16 frames" in result.skipped["fvd_styleganv"]
    assert result.mean["fv4d"] == result.overall["fv4d"]


def test_consistent4d_protocol(sides, tmp_path):
    result = evaluate_folders(
        *sides, "consistent4d", metrics=["psnr", "psnr_published", "ssim_published", "iou"], size=32
    )
    assert set(result.views) == set(VIEWS) and "without alpha" in result.skipped["iou"]
    # The truth spans 100 ... 255 at most, so the inferred range is smaller than 255 and the number with it.
    assert result.objects["deer"]["psnr_published"] < result.objects["deer"]["psnr"] - 4
    with pytest.raises(UserError, match="blends alpha onto white"):
        evaluate_folders(*sides, "bench4d", background="white-mask")


def test_native_size(sides):
    result = evaluate_folders(*sides, metrics=["psnr"], size="native")
    assert (result.size, result.resize) == (16, "none")
    Image.fromarray(picture(100, 24)).save(sides[0] / "deer" / "az15" / "1.png")
    with pytest.raises(UserError, match="is 16 x 16 pixels and .* is 24 x 24: give --size N"):
        evaluate_folders(*sides, metrics=["psnr"], size="native")
    with pytest.raises(UserError, match="--size takes a number of pixels from 11"):
        evaluate_folders(*sides, metrics=["psnr"], size="large")
    for path in (frame for side in sides for frame in side.glob("*/*/*.png")):
        Image.fromarray(picture(100, 4)).save(path)
    with pytest.raises(UserError, match="is 4 x 4 pixels, less than the window of SSIM"):
        evaluate_folders(*sides, metrics=["ssim"], size="native")


def test_16_bit_pictures_count_as_8_bit_ones(sides):
    before = evaluate_folders(*sides, metrics=["psnr"], size=16).mean
    for path in sides[0].glob("*/*/*.png"):
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.uint16) * 257)
    assert evaluate_folders(*sides, metrics=["psnr"], size=16).mean == before
    grey = {}
    for bits, factor in ((np.uint8, 1), (np.uint16, 257)):
        for path in sides[0].glob("*/*/*.png"):
            ramp = np.tile(np.arange(0, 256, 16, dtype=bits) * bits(factor), (16, 1))
            cv2.imwrite(str(path), ramp)
        grey[bits] = evaluate_folders(*sides, "consistent4d", ["psnr"], size=16).mean
    assert grey[np.uint8] == grey[np.uint16]


@pytest.mark.parametrize(
    ("content", "fault"), [("cut", "cannot be read as a picture"), ("huge", "has too many pixels: 64 million")]
)
@pytest.mark.parametrize("protocol", ["bench4d", "consistent4d"])
def test_damaged_pictures_are_named(sides, protocol, content, fault):
    path = sides[0] / "deer" / "az15" / "1.png"
    if content == "cut":
        path.write_bytes(path.read_bytes()[:60])
    else:  # what Pillow takes for a bomb
        Image.new("1", (20000, 20000)).save(path)
    with pytest.raises(UserError, match=f"az15/1.png {fault}"):
        evaluate_folders(*sides, protocol, ["psnr"], size=16)


def test_single_frames_have_no_motion(tmp_path):
    for side in ("gt", "pred"):
        write_object(tmp_path / side, (100,))
    result = evaluate_folders(tmp_path / "pred", tmp_path / "gt", metrics=PIXELS, size=16)
    assert result.skipped == {"flicker": "takes two frames or more"} and result.mean["psnr"] == pytest.approx(100)


def test_a_device_that_is_not_there(sides):
    with pytest.raises(UserError, match="--device tpus cannot be used"):
        evaluate_folders(*sides, device="tpus")


def test_unknown_names(sides):
    with pytest.raises(UserError, match="no protocol 'bench5d'; choose from bench4d, consistent4d"):
        evaluate_folders(*sides, "bench5d")
    with pytest.raises(UserError, match="no metric 'psnrr'; choose from psnr"):
        evaluate_folders(*sides, metrics=["psnrr"])


def test_a_number_that_is_none_is_an_error(sides):
    bad = VideoFeatures(lambda clips: clips.mean((3, 4)).amax(2) * float("nan"), "toy", "", "toy", 1)
    with pytest.raises(UserError, match="fvd_consistent4d of deer, view az.* is not a finite number"):
        evaluate_folders(*sides, metrics=["fvd_consistent4d"], fvd_network=bad)


def test_ids_are_unique_and_protocols_use_known_metrics():
    assert len({metric.id for metric in METRICS.values()}) == len(METRICS)
    for protocol in PROTOCOLS.values():
        assert set(protocol.metrics) <= set(METRICS)


def test_command_line(sides, tmp_path, capsys):
    out = tmp_path / "results" / "deer.json"
    command = [str(sides[0]), str(sides[1]), "--metrics", "psnr", "iou", "--size", "16", "--objects", "deer"]
    assert main([*command, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "bench4d (version 1): 16 x 16, white" in printed.out and "31.14" in printed.out
    assert json.loads(out.read_text())["objects"]["deer"]["psnr"] == pytest.approx(31.141, abs=1e-3)
    assert [path.name for path in out.parent.iterdir()] == ["deer.json"]
    for place, message in ((out / "x.json", "is not a folder"), (out.parent, "is a folder")):
        with pytest.raises(SystemExit, match="2"):
            main([*command, "--out", str(place)])
        printed = capsys.readouterr()
        assert re.search(f"error: argument --out: '{place}' .*{message}", printed.err) and not printed.out
    (sides[0] / "deer" / "az15" / "1.png").unlink()
    assert main(command) == 2
    assert "error: " in (error := capsys.readouterr().err) and "lacks frame 1" in error
    assert main([*command[:2], "--metrics", "fv4d", "--objects", "frog"]) == 2
    assert "fv4d was asked for and cannot be computed: needs an I3D network" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "Loading TorchScript runs the program" in " ".join(capsys.readouterr().out.split())


def test_command_line_says_what_it_left_out(sides, capsys):
    assert main([str(sides[0]), str(sides[1]), "--size", "32", "--lpips", "absent"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "left out: fvd_consistent4d, fvd_styleganv, fvd_f, fvd_v, fvd_diag, fv4d: needs an I3D network" in printed


@pytest.mark.gpu
def test_lpips_on_a_gpu_as_on_the_cpu(sides, tmp_path):
    from safetensors.torch import save_file

    from threestudio_4d.evaluation.lpips import LPIPS

    torch.manual_seed(0)
    save_file(LPIPS("vgg").state_dict(), tmp_path / "vgg.safetensors")
    settings = {"metrics": ["lpips_vgg"], "objects": ["deer"], "size": 64, "lpips": tmp_path}
    cpu, gpu = (evaluate_folders(*sides, device=device, **settings).mean for device in ("cpu", "cuda"))
    assert gpu["lpips_vgg"] == pytest.approx(cpu["lpips_vgg"], rel=1e-3)
