"""CLIP: embeddings against transformers' own processor, 4DGen's distance by hand, and models that are not there."""

import numpy as np
import pytest
import torch
from PIL import Image

from threestudio_4d.errors import UserError
from threestudio_4d.evaluation import clip_similarity
from threestudio_4d.evaluation.clip_similarity import clip_4dgen, clip_t, cosine, half_squared_angle, load_clip
from threestudio_4d.evaluation.hashes import file_digest

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=sizes | {"vocab_size": 20, "max_position_embeddings": 8},
        vision_config=sizes | {"image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    path = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(path)
    return path


def test_embeddings_are_those_of_transformers(folder):
    from transformers import CLIPImageProcessorPil, CLIPModel

    pixels = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8)
    embedder = load_clip(str(folder), CPU)
    found = embedder.embed(pixels / np.float32(255))
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    prepared = processor([Image.fromarray(p) for p in pixels], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(embedder.prepare(pixels / np.float32(255)), prepared, atol=1e-5, rtol=0)
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(folder).get_image_features(pixel_values=prepared)
    expected = getattr(expected, "pooler_output", expected)
    expected = expected / expected.norm(dim=-1, keepdim=True)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    assert embedder.sha256 == file_digest(folder / "model.safetensors")
    assert not embedder.is_published_architecture


def test_distances_by_hand():
    angles = np.array([0, np.pi / 2, np.pi / 2 + 0.2])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], -1)
    np.testing.assert_allclose(half_squared_angle(embeddings[1:], embeddings[:-1]), [np.pi**2 / 8, 0.02])
    assert clip_t(embeddings) == pytest.approx((np.pi**2 / 8 + 0.02) / 2)
    assert clip_4dgen(embeddings, embeddings[[0, 0, 0]]) == pytest.approx((0 + angles[1] ** 2 + angles[2] ** 2) / 6)
    assert cosine(embeddings, embeddings[[0, 1, 1]]) == pytest.approx((2 + np.cos(0.2)) / 3)
    assert half_squared_angle(embeddings[0], -embeddings[0]) == pytest.approx(np.pi**2 / 2)


def test_nothing_is_downloaded_unasked(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(clip_similarity, "LOCAL_FOLDER", str(tmp_path / "absent"))
    with pytest.raises(UserError, match="needs openai/clip-vit-base-patch32 .*not on this machine: --clip"):
        load_clip(None, CPU)


def test_folders_that_are_no_clip(folder, tmp_path):
    with pytest.raises(UserError, match="no prior weights found for 'absent'"):
        load_clip("absent", CPU)
    with pytest.raises(UserError, match="config.json is missing"):
        load_clip(str(tmp_path), CPU)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="config.json is missing"):
        load_clip(str(tmp_path), CPU)
    with pytest.raises(UserError, match="takes the folder of a CLIP model or a hub id"):
        load_clip(str(tmp_path / "model.safetensors"), CPU)


def test_missing_weights_are_not_made_up(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UserError, match="do not fit CLIPModel: .*visual_projection.weight"):
        load_clip(str(tmp_path), CPU)
