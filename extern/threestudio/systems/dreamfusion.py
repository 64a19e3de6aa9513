"""``dreamfusion-system``: a field that pictures from all sides make look like a sentence (Poole et al., ICLR 2023)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import threestudio
from threestudio.systems.base import BaseLift3DSystem
from threestudio.utils.ops import binary_cross_entropy, dot

__all__ = ["DreamFusion"]


@threestudio.register("dreamfusion-system")
class DreamFusion(BaseLift3DSystem):
    """Guidance on one batch of renders a step, with DreamFusion's terms for normals, empty space and solid pixels."""

    @dataclass
    class Config(BaseLift3DSystem.Config):
        pass

    cfg: Config

    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        return self.renderer(**batch)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.prompt_processor = threestudio.find(self.cfg.prompt_processor_type)(self.cfg.prompt_processor)
        self.guidance = threestudio.find(self.cfg.guidance_type)(self.cfg.guidance)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        out = self(batch)
        guided = self.guidance(out["comp_rgb"], self.prompt_processor(), **batch, rgb_as_latents=False)
        terms = {name.removeprefix("loss_"): value for name, value in guided.items() if name.startswith("loss_")}
        for name, value in guided.items():
            if not name.startswith("loss_") and not (torch.is_tensor(value) and value.numel() > 1):
                self.log(f"train/{name}", value)
        terms |= self.regularisers(out)
        loss = 0.0
        for name, value in terms.items():
            self.log(f"train/loss_{name}", value)
            loss = loss + value * self.C(self.cfg.loss[f"lambda_{name}"])
        for name, value in self.cfg.loss.items():
            self.log(f"train_params/{name}", self.C(value))
        return {"loss": loss}

    def regularisers(self, out: dict[str, Any]) -> dict[str, Tensor]:
        """Terms that do not ask the guidance."""
        terms = {}
        if self.C(self.cfg.loss.lambda_orient) > 0:
            if "normal" not in out:
                raise ValueError("lambda_orient needs normals: take a material that has requires_normal.")
            away = dot(out["normal"], out["t_dirs"]).clamp(min=0).square()
            terms["orient"] = (out["weights"].detach() * away).sum() / (out["opacity"] > 0).sum()
        terms["sparsity"] = (out["opacity"].square() + 0.01).sqrt().mean()
        opacity = out["opacity"].clamp(1e-3, 1 - 1e-3)
        terms["opaque"] = binary_cross_entropy(opacity, opacity)
        if "lambda_z_variance" in self.cfg.loss:
            terms["z_variance"] = out["z_variance"][out["opacity"] > 0.5].mean()
        return terms

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._save_view(batch, f"it{self.true_global_step}-{int(batch['index'][0])}.png", "validation_step")

    def on_validation_epoch_end(self) -> None:
        pass

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._save_view(batch, f"it{self.true_global_step}-test/{int(batch['index'][0])}.png", "test_step")

    def on_test_epoch_end(self) -> None:
        name = f"it{self.true_global_step}-test"
        self.save_img_sequence(
            name, name, r"(\d+)\.png", save_format="mp4", fps=30, name="test", step=self.true_global_step
        )

    def _save_view(self, batch: dict[str, Any], filename: str, name: str) -> None:
        out = self(batch)
        row = [{"type": "rgb", "img": out["comp_rgb"][0], "kwargs": {"data_format": "HWC"}}]
        if "comp_normal" in out:
            row.append(
                {"type": "rgb", "img": out["comp_normal"][0], "kwargs": {"data_format": "HWC", "data_range": (0, 1)}}
            )
        opacity = out["opacity"][0, :, :, 0]
        row.append({"type": "grayscale", "img": opacity, "kwargs": {"cmap": None, "data_range": (0, 1)}})
        self.save_image_grid(filename, row, name=name, step=self.true_global_step)
