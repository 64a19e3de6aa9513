"""Prompt processors, materials and backgrounds."""

import json
import os

import pytest
import torch

import threestudio
from threestudio.models.prompt_processors.base import PromptProcessor, hash_prompt
from threestudio.utils.errors import UserError


class LetterProcessor(PromptProcessor):
    """The embedding of a prompt is filled with its length."""

    calls: list = []

    @staticmethod
    def spawn_func(pretrained_model_name_or_path, prompts, cache_dir):
        LetterProcessor.calls.append(list(prompts))
        for prompt in prompts:
            path = os.path.join(cache_dir, f"{hash_prompt(pretrained_model_name_or_path, prompt)}.pt")
            torch.save(torch.full((77, 2), float(len(prompt))), path)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    LetterProcessor.calls.clear()


CONFIG = {"prompt": "a fox", "spawn": False, "pretrained_model_name_or_path": "m"}


def test_embeddings_and_cache():
    out = LetterProcessor(CONFIG)()
    assert out.text_embeddings.shape == (1, 77, 2) and out.text_embeddings_vd.shape == (4, 77, 2)
    assert out.direction2idx == {"side": 0, "front": 1, "back": 2, "overhead": 3}
    assert out.prompts_vd == ["a fox, side view", "a fox, front view", "a fox, back view", "a fox, overhead view"]
    assert len(LetterProcessor.calls[0]) == 6
    LetterProcessor(CONFIG)
    assert len(LetterProcessor.calls) == 1
    LetterProcessor({**CONFIG, "use_cache": False})
    assert len(LetterProcessor.calls) == 2
    other = LetterProcessor({**CONFIG, "prompt_back": "tail", "view_dependent_prompt_front": True})()
    assert other.prompts_vd[:3] == ["side view of a fox", "front view of a fox", "tail"]
    first = LetterProcessor({**CONFIG, "view_dependent_prompt_front": True})()
    views = ["side", "front", "backside", "overhead"]  # upstream's words
    assert first.prompts_vd == [f"{view} view of a fox" for view in views]


def test_directions_and_order_of_embeddings():
    out = LetterProcessor(CONFIG)()
    elevation = torch.tensor([0.0, 0, 0, 80, 0])
    azimuth = torch.tensor([90.0, 10, 190, 0, -330])
    distances = torch.ones(5)
    assert out.direction_indices(elevation, azimuth, distances).tolist() == [0, 1, 2, 3, 1]
    embeddings = out.get_text_embeddings(elevation, azimuth, distances)
    assert embeddings.shape == (10, 77, 2)
    assert embeddings[:, 0, 0].tolist() == [len(out.prompts_vd[i]) for i in (0, 1, 2, 3, 1)] + [0.0] * 5
    assert out.get_text_embeddings(elevation, azimuth, distances, False)[:5, 0, 0].tolist() == [5.0] * 5


def test_perp_neg():
    out = LetterProcessor({**CONFIG, "use_perp_neg": True})()
    elevation, azimuth = torch.tensor([0.0, 0.0, 80.0]), torch.tensor([0.0, 135.0, 0.0])
    embeddings, weights = out.get_text_embeddings_perp_neg(elevation, azimuth, torch.ones(3))
    assert embeddings.shape == (12, 77, 2) and weights.shape == (3, 2)
    assert (weights[:2, 0] < 1).all() and weights[2].tolist() == [0.0, 0.0]
    assert embeddings[0, 0, 0] == len("a fox, front view")
    assert embeddings[1, 0, 0] == (len("a fox, side view") + len("a fox, back view")) / 2
    with pytest.raises(AssertionError):
        out.get_text_embeddings_perp_neg(elevation, azimuth, torch.ones(3), view_dependent_prompting=False)


def test_prompt_library(tmp_path):
    with pytest.raises(UserError, match="needs the prompt library"):
        LetterProcessor({**CONFIG, "prompt": "lib:red_fox"})
    (tmp_path / "load").mkdir()
    library = {"dreamfusion": ["a red fox sitting", "a blue bird"]}
    (tmp_path / "load/prompt_library.json").write_text(json.dumps(library))
    assert LetterProcessor({**CONFIG, "prompt": "lib:red_fox"}).prompt == "a red fox sitting"


def test_materials():
    features = torch.rand(2, 4, 4, 3)
    plain = threestudio.find("no-material")({})
    assert torch.equal(plain(features=features, anything=1), features.sigmoid())
    threestudio.find("no-material")({"n_output_dims": 0})
    lit = threestudio.find("diffuse-with-point-light-material")({"ambient_only_steps": 0}).eval()
    assert lit.requires_normal
    lit.update_step(0, 5)
    geometry = {
        "positions": torch.zeros(2, 3),
        "shading_normal": torch.tensor([[0.0, 0, 1], [0, 0, -1]]),
        "light_positions": torch.tensor([[0.0, 0, 3]] * 2),
    }
    color = lit(features=torch.full((2, 3), 100.0), **geometry)
    assert color[:, 0].tolist() == pytest.approx([1.0, 0.1])
    for shading in ("albedo", "textureless", "diffuse"):
        assert lit(features=torch.zeros(2, 3), shading=shading, ambient_ratio=0.5, **geometry).shape == (2, 3)
    lit.train()
    assert lit(features=torch.zeros(2, 3), **geometry).shape == (2, 3)


@pytest.mark.parametrize(
    "name, config",
    [
        ("solid-color-background", {}),
        ("solid-color-background", {"learned": True, "random_aug": True, "random_aug_prob": 1.0}),
        ("textured-background", {}),
        ("neural-environment-map-background", {"random_aug": True, "random_aug_prob": 1.0}),
        ("neural-environment-map-background", {"eval_color": [1.0, 0.5, 0.0]}),
    ],
)
def test_backgrounds(name, config):
    background = threestudio.find(name)(config)
    dirs = torch.nn.functional.normalize(torch.randn(2, 3, 4, 3), dim=-1)
    color = background(dirs)
    assert color.shape == (2, 3, 4, 3) and color.min() >= 0 and color.max() <= 1
    if any(p.requires_grad for p in background.parameters()):
        color.sum().backward()
    color = background.eval()(dirs)
    if name == "solid-color-background" and not config:
        assert (color == 1).all()
    if "eval_color" in config:
        assert color[0, 0, 0].tolist() == [1.0, 0.5, 0.0]
