"""Consistent4D (Jiang et al., ICLR 2024): a moving object from the video of one static camera.

A cascade of K-planes is rendered at a camera and a time. Two kinds of steps alternate:

* a **reference** step renders the input camera at the time of an input frame and compares with that frame (``rgb``,
  ``mask``);
* a **novel view** step renders cameras around the object and lets Zero123, conditioned on the input frame of the same
  time, say how the pictures should change (``sds``). When the pictures form a short sequence, in azimuth at one time or
  in time at one camera, the pictures that a frozen frame interpolator makes from the two ends supervise the inner ones
  (``vif``, the interpolation-driven consistency loss).

Every level of the cascade is rendered and supervised from the first step on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval

import threestudio
from threestudio.systems.base import BaseLift3DSystem
from threestudio.utils.typing import Tensor

from ..errors import UserError
from ..objective import losses
from ..objective.interpolation import interpolation_consistency_loss
from ..objective.weights import LossWeights, Overall, PerLevel, Term, select_levels
from ..results.pictures import Picture, ResultPictures, guidance_sheet
from ..values import Count, Pixels, Whole
from .last_checkpoint import overwrite_last_checkpoint

REFERENCE, NOVEL_VIEW = "reference", "sds"
LOG_NAMES = {REFERENCE: "ref", NOVEL_VIEW: "zero123"}
PER_LEVEL_TERMS = ("rgb", "mask", "sds", "vif")
OVERALL_TERMS = ("orient", "3d_normal_smooth", "normal_smooth", "sparsity", "opaque", "z_variance")


@dataclass
class StepKinds:
    """The ``freq`` section: which batches steps are made of."""

    ref_or_zero123: Annotated[str, Literal["alternate", "accumulate"]] = "alternate"
    """``alternate``: one kind a step; ``accumulate``: both kinds on every step."""
    n_ref: Count = 2
    """Every so many-th step of ``alternate`` is a reference step."""
    ref_only_steps: Whole = 0
    """The first steps are all reference steps."""
    guidance_eval: Whole = 0
    """Once in so many steps, write what the prior saw and made of it to ``it<step>-train.png``; 0 never."""


@threestudio.register("consistent4d-system")
class Consistent4D(BaseLift3DSystem):
    """The system of Consistent4D; its data module must offer ``view_time_batch`` and ``frames``
    (``image-seq-datamodule``).
    """

    @dataclass
    class Config(BaseLift3DSystem.Config):
        interpolator_type: str = "rife-interpolator"
        """Registered name of the frame interpolator behind the ``vif`` term; built only if that term can get a
        weight.
        """
        interpolator: dict = field(default_factory=dict)
        mid_no_grad: bool = True
        """Published behaviour: interpolated pictures are constants. False lets the gradient through to the end
        pictures.
        """
        freq: Annotated[dict, StepKinds] = field(default_factory=dict)
        video_fps: Annotated[int, Interval(ge=0, le=240)] = 16
        """Frames a second of the videos; 0 makes none, and PyAV is not needed."""
        eval_frame_size: Pixels = 256
        """Width and height in pixels of the frames under ``save/eval``; renders of another size are resized."""

    cfg: Config

    def configure(self) -> None:
        super().configure()
        self.n_levels = self.geometry.n_levels
        self.loss_weights = LossWeights(self.cfg.loss, self.C, self.n_levels, PER_LEVEL_TERMS, OVERALL_TERMS)
        self._pictures: ResultPictures | None = None
        self._check_normals()

    def forward(self, view: dict[str, Any]) -> dict[str, Any]:
        """Render a batch of view-time samples."""
        return self.renderer(**view)

    # Training ---------------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Build what only training needs. Neither network is a submodule, so that checkpoints stay small."""
        super().on_fit_start()
        overwrite_last_checkpoint(self.trainer)
        clip = self.trainer.datamodule.train_dataset
        self.guidance = threestudio.find(self.cfg.guidance_type)(self.cfg.guidance)
        self.guidance.prepare(clip.frames(self.guidance.image_size)[0])
        self.interpolator = None
        if self.loss_weights.ever_positive("vif"):
            self.interpolator = threestudio.find(self.cfg.interpolator_type)(self.cfg.interpolator)

    def step_kinds(self, step: int) -> tuple[str, ...]:
        """Which kinds of batches the step is made of."""
        freq = self.cfg.freq
        if step < freq.get("ref_only_steps", 0):
            return (REFERENCE,)
        if freq.get("ref_or_zero123", "alternate") == "accumulate":
            return (REFERENCE, NOVEL_VIEW)
        return (REFERENCE,) if step % freq.get("n_ref", 2) == 0 else (NOVEL_VIEW,)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Render the view-time samples of this step and return the weighted sum of their terms."""
        step = self.true_global_step
        loss = 0.0
        for kind in self.step_kinds(step):
            view = self.dataset.view_time_batch(step, kind, self.device)
            rendered = self(view)
            terms = self.reference_terms(rendered, view) if kind == REFERENCE else self.novel_view_terms(rendered, view)
            terms |= self.regularisers(rendered)
            loss = loss + self.weighted_sum(terms, kind)
        if not torch.is_tensor(loss):  # no term has a weight in this step; the step still counts
            loss = 0.0 * rendered["comp_rgb"].mean()
        self.log("train/loss", loss)
        return {"loss": loss}

    def reference_terms(self, rendered: dict[str, Tensor], view: dict[str, Any]) -> dict[str, Term]:
        """The input camera must see the input frame, and its silhouette."""
        return {
            "rgb": PerLevel(
                lambda levels: losses.reconstruction_loss(
                    select_levels(rendered["comp_rgb_levels"], levels), view["rgb"]
                )
            ),
            "mask": PerLevel(
                lambda levels: losses.reconstruction_loss(
                    select_levels(rendered["opacity_levels"], levels), view["mask"]
                )
            ),
        }

    def novel_view_terms(self, rendered: dict[str, Tensor], view: dict[str, Any]) -> dict[str, Term]:
        """Zero123 judges every picture; a frozen interpolator the inner pictures of short sequences."""
        images = rendered["comp_rgb_levels"]
        terms: dict[str, Term] = {
            "sds": PerLevel(lambda levels: self.distillation_loss(select_levels(images, levels), view)),
            "sparsity": Overall(lambda: losses.sparsity_loss(rendered["opacity_levels"])),
        }
        if view["relation"] in ("arc", "run") and images.shape[1] > 2:
            terms["vif"] = PerLevel(
                lambda levels: interpolation_consistency_loss(
                    select_levels(images, levels), self.interpolator, end_grad=not self.cfg.mid_no_grad
                )
            )
        return terms

    def regularisers(self, rendered: dict[str, Tensor]) -> dict[str, Term]:
        """Terms of both kinds of steps, about surfaces rather than pictures."""
        return {
            "orient": Overall(
                lambda: losses.orientation_loss(
                    rendered["weights"], rendered["normal"], rendered["t_dirs"], rendered["opacity_levels"]
                )
            ),
            "3d_normal_smooth": Overall(
                lambda: losses.normal_consistency_3d(rendered["normal"], rendered["normal_perturb"])
            ),
            "normal_smooth": Overall(lambda: losses.normal_smoothness_2d(rendered["comp_normal_levels"])),
            "opaque": Overall(lambda: losses.opaque_loss(rendered["opacity_levels"])),
            "z_variance": Overall(
                lambda: losses.z_variance_loss(rendered["z_variance_levels"], rendered["opacity_levels"])
            ),
        }

    def distillation_loss(self, images: Tensor, view: dict[str, Any]) -> Tensor:
        """Score distillation of all levels in one call of the prior: images ``[L, B, H, W, 3]`` -> ``[L]``."""
        levels = images.shape[0]
        cameras = ("elevation", "azimuth", "camera_distances", "frame_indices")
        distillation = self.guidance.distill(
            images.flatten(0, 1),
            **{key: view[key].repeat(levels) for key in cameras},
            levels=levels,
            guidance_eval=self.shows_guidance(self.true_global_step),
        )
        if distillation.evaluation is not None:
            name = f"it{self.true_global_step}-train.png"
            self.save_rgb_image(name, guidance_sheet(images.flatten(0, 1), distillation.evaluation))
        self.log("train/grad_norm", distillation.grad_norm)
        self.log_dict({"train/min_step": distillation.min_step, "train/max_step": distillation.max_step})
        return distillation.level_losses()

    def shows_guidance(self, step: int) -> bool:
        """Whether a step of novel views is the first one of its period of ``freq.guidance_eval`` steps."""
        every = self.cfg.freq.get("guidance_eval", 0)
        if every == 0:
            return False
        return not any(NOVEL_VIEW in self.step_kinds(before) for before in range(step - step % every, step))

    def weighted_sum(self, terms: dict[str, Term], kind: str) -> Tensor | float:
        """Sum of weight times value over the table, with every value and weight logged."""
        total: Tensor | float = 0.0
        for term in self.loss_weights.evaluate(terms):
            total = total + term.weight * term.value
            self.log(f"train/loss_{LOG_NAMES[kind]}_{term.name}", term.value)
            self.log(f"train_params/lambda_{term.name}", term.weight)
        return total

    # Pictures ---------------------------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Write a strip of colour, normal, depth and opacity of each view-time sample."""
        rendered = self(batch)
        for sample, index in enumerate(batch["index"].tolist()):
            self.save_rgb_image(f"it{self.true_global_step}-val/{index}.png", Picture(rendered, sample).strip)

    def on_validation_epoch_end(self) -> None:
        """Make a video of the strips."""
        folder = f"it{self.true_global_step}-val"
        if self.cfg.video_fps:
            self.save_img_sequence(folder, folder, r"(\d+)\.png", save_format="mp4", fps=self.cfg.video_fps)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Render one view-time sample of the orbit, of a fixed view, or of an evaluation view."""
        if self._pictures is None:
            self._pictures = ResultPictures(self, f"it{self.true_global_step}-test")
        # Normals take most of the time of a render, and only one split shows them.
        shown = self._pictures.shows_normals(batch["split_name"][0])
        self._pictures.add(batch, self.renderer(**batch, output_normal=shown))

    def on_test_epoch_end(self) -> None:
        """Write videos and the contact sheet."""
        if self._pictures is not None:
            self._pictures.finish()
        self._pictures = None

    def on_predict_start(self) -> None:
        """Tell the exporter the times of the input frames, which it exports unless the configuration names others."""
        super().on_predict_start()
        self.exporter.frame_times = self.trainer.predict_dataloaders.dataset.timestamps

    # Checks -----------------------------------------------------------------------------------------------------------

    def _check_normals(self) -> None:
        """Terms about normals need a renderer that computes them."""
        needs = {
            "orient": ("output_normal",),
            "3d_normal_smooth": ("output_normal", "return_normal_perturb"),
            "normal_smooth": ("output_normal", "return_comp_normal"),
        }
        for term, keys in needs.items():
            off = [key for key in keys if not self.renderer.cfg.get(key, True)]
            if off and self.loss_weights.ever_positive(term):
                raise UserError(
                    f"system.loss.lambda_{term} is not 0, but system.renderer.{off[0]} is false: set it to true, "
                    "or the weight to 0."
                )
