"""Library releases of the time of upstream's requirements (transformers 4.28, diffusers 0.19)."""

import pytest
import torch
from transformers import CLIPVisionModelWithProjection

from threestudio_4d.guidance import zero123_model
from threestudio_4d.guidance.zero123_model import Zero123Model
from threestudio_4d.prior.zero123_networks import build_zero123_tiny


class CountingEncoder(CLIPVisionModelWithProjection):
    """The image encoder as it was up to transformers 4.30: the numbers of the patches are among its weights."""

    _keys_to_ignore_on_load_missing = [r"position_ids"]

    def __init__(self, config) -> None:
        super().__init__(config)
        embeddings = self.vision_model.embeddings
        embeddings.register_buffer("position_ids", embeddings.position_ids, persistent=True)


@pytest.mark.parametrize("int8", [True, False])
def test_position_ids_are_no_weights_of_a_prior(int8, tmp_path, monkeypatch):
    torch.manual_seed(0)
    sizes = {"image_size": 16, "channels": (16, 32, 32), "encoder_width": 32, "encoder_layers": 1}
    saved = build_zero123_tiny(**sizes).eval()
    saved.save(tmp_path / "prior", dtype=torch.float32, int8=int8)

    monkeypatch.setattr(zero123_model, "CLIPVisionModelWithProjection", CountingEncoder)
    loaded = Zero123Model.load(tmp_path / "prior")
    assert isinstance(loaded.image_encoder, CountingEncoder)
    assert set(loaded.state_dict()) == set(saved.state_dict())
