"""``SaverMixin``: writes images, grids, videos, meshes and data below one folder, on the first process only."""

import json
import os
import re
import shutil
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from threestudio.utils import imaging, mesh_io, video
from threestudio.utils.atomic import atomic_file, write_text
from threestudio.utils.misc import barrier

__all__ = ["LoggersConfig", "SaverMixin"]


@dataclass
class WandbConfig:
    """What goes to Weights & Biases, and where."""

    enable: bool = False
    project: str | None = None
    name: str | None = None


@dataclass
class LoggersConfig:
    """The ``loggers`` section; TensorBoard and CSV logs are always written."""

    wandb: Annotated[dict, WandbConfig] = field(default_factory=dict)


class SaverMixin:
    """Gives a system its ``save_*`` methods. File names are relative to the folder given to ``set_save_dir``.

    Every method returns the path (or paths) written. In a run of several processes each one writes the images it has
    (the views of an evaluation are shared out among them); everything else is written by the first process only.
    Images are numpy arrays or tensors on any device and of any float type.
    """

    _save_dir: str | None = None
    _wandb_logger: Any = None

    def set_save_dir(self, save_dir: str) -> None:
        self._save_dir = save_dir

    def get_save_dir(self) -> str:
        if self._save_dir is None:
            raise ValueError("The save folder is not set: call set_save_dir(folder) first.")
        return self._save_dir

    def get_save_path(self, filename: str) -> str:
        """Path of ``filename`` below the save folder; its parent folders are created."""
        path = os.path.join(self.get_save_dir(), filename)
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return path

    def convert_data(self, data: Any) -> Any:
        """Numpy form of tensors, arrays and (nested) lists and dicts of them; None stays None."""
        if data is None or isinstance(data, np.ndarray):
            return data
        if isinstance(data, torch.Tensor):
            data = data.detach()
            return (data.float() if data.dtype == torch.bfloat16 else data).cpu().numpy()
        if isinstance(data, (list, tuple)):
            return [self.convert_data(d) for d in data]
        if isinstance(data, dict):
            return {k: self.convert_data(v) for k, v in data.items()}
        raise TypeError(f"Data to save must be tensors, arrays, or lists and dicts of them, got {type(data).__name__}.")

    def create_loggers(self, cfg_loggers: Any) -> None:
        """Create the Weights & Biases logger if ``loggers.wandb.enable`` is true."""
        wandb = cfg_loggers.get("wandb") if cfg_loggers else None
        if wandb is None or not wandb.get("enable", False):
            return
        from pytorch_lightning.loggers import WandbLogger

        self._wandb_logger = WandbLogger(project=wandb.get("project"), name=wandb.get("name"))

    def get_loggers(self) -> list:
        return [self._wandb_logger] if self._wandb_logger else []

    def save_rgb_image(
        self,
        filename: str,
        img: Any,
        data_format: str = "HWC",
        data_range: tuple[float, float] = (0, 1),
        name: str | None = None,
        step: int | None = None,
    ) -> str:
        """Write an image. Channels beyond three go side by side in panels of three, the last one filled with zeros."""
        rgb = imaging.rgb_panels(self.convert_data(img), data_format, data_range)
        return self._write_image(filename, rgb, name, step)

    def save_uv_image(
        self,
        filename: str,
        img: Any,
        data_format: str = "HWC",
        data_range: tuple[float, float] = (0, 1),
        cmap: str = "checkerboard",
    ) -> str:
        """Write UV coordinates as a ``"checkerboard"`` or as a ``"color"`` ramp."""
        return self._write_image(filename, imaging.uv_panel(self.convert_data(img), data_format, data_range, cmap))

    def save_grayscale_image(
        self,
        filename: str,
        img: Any,
        data_range: tuple[float, float] | None = None,
        cmap: str | None = "jet",
        name: str | None = None,
        step: int | None = None,
    ) -> str:
        """Write one channel [H, W] or [H, W, 1] through a colour map; without ``data_range`` from its minimum
        to its maximum.
        """
        return self._write_image(
            filename, imaging.grayscale_panel(self.convert_data(img), data_range, cmap), name, step
        )

    def save_image_grid(
        self,
        filename: str,
        imgs: list,
        align: Any = "max",
        name: str | None = None,
        step: int | None = None,
        texts: list[str] | None = None,
    ) -> str:
        """Write a row, or rows, of ``{"type": "rgb" | "uv" | "grayscale", "img": ..., "kwargs": {...}}``.

        Args:
            align: height (and width) of a cell: ``"max"``, ``"min"``, an int or ``(height, width)``.
            texts: lines drawn at the left edge.
        """
        rows = imgs if imgs and isinstance(imgs[0], list) else [imgs]
        grid = imaging.image_grid([[self._panel(cell) for cell in row] for row in rows], align)
        if texts:
            grid = imaging.draw_texts(grid, texts)
        return self._write_image(filename, grid, name, step)

    def save_image(self, filename: str, img: Any) -> str:
        """Write a uint8 or uint16 image [H, W(, C)] as it is, in RGB(A) order."""
        img = self.convert_data(img)
        if img.dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f"save_image takes uint8 or uint16 pixels, got {img.dtype}; use save_rgb_image for floats."
            )
        return self._write_image(filename, img)

    def save_cubemap(
        self, filename: str, img: Any, data_range: tuple[float, float] = (0, 1), rgba: bool = False
    ) -> str:
        """Write six faces [6, S, S, C] as a cross; with ``rgba`` the empty parts are transparent."""
        return self._write_image(filename, imaging.cubemap_cross(self.convert_data(img), data_range, rgba))

    def save_data(self, filename: str, data: Any) -> str:
        """Write a dict of arrays as ``.npz``, one array as ``.npy``."""
        data = self.convert_data(data)
        path = self.get_save_path(os.path.splitext(filename)[0] + (".npz" if isinstance(data, dict) else ".npy"))
        if rank_zero_only.rank == 0:
            with atomic_file(path) as partial, open(partial, "wb") as file:
                np.savez(file, **data) if isinstance(data, dict) else np.save(file, data)
        return path

    def save_state_dict(self, filename: str, data: Any) -> str:
        path = self.get_save_path(filename)
        if rank_zero_only.rank == 0:
            with atomic_file(path) as partial:
                torch.save(data, partial)
        return path

    def save_json(self, filename: str, payload: Any) -> str:
        path = self.get_save_path(filename)
        if rank_zero_only.rank == 0:
            write_text(path, json.dumps(payload))
        return path

    def save_file(self, filename: str, src_path: str) -> str:
        path = self.get_save_path(filename)
        if rank_zero_only.rank == 0:
            with atomic_file(path) as partial:
                shutil.copyfile(src_path, partial)
        return path

    def save_img_sequence(
        self,
        filename: str,
        img_dir: str,
        matcher: str,
        save_format: str = "mp4",
        fps: float = 30,
        name: str | None = None,
        step: int | None = None,
    ) -> str:
        r"""Make a video or animated image of the frames in ``img_dir`` (below the save folder).

        Args:
            matcher: regular expression whose one group is the frame number, such as ``(\d+)\.png``.
            save_format: ``"mp4"`` or ``"gif"``; appended to ``filename`` unless it has it already.

        All processes must call it: the first one waits until the frames of the others are there.

        Returns:
            the path; nothing is written when no file matches.
        """
        if save_format not in ("gif", "mp4"):
            raise ValueError(f"save_format is 'mp4' or 'gif', got {save_format!r}.")
        if not filename.endswith(save_format):
            filename += f".{save_format}"
        path = self.get_save_path(filename)
        folder = os.path.join(self.get_save_dir(), img_dir)
        pattern = re.compile(matcher)
        barrier()
        found = [(int(m.group(1)), f) for f in os.listdir(folder) if (m := pattern.search(f))]
        if not found or rank_zero_only.rank != 0:
            return path
        frames = (imaging.read_rgb(os.path.join(folder, f)) for _, f in sorted(found))
        video.write_video(path, frames, fps=fps)
        if name and self._wandb_logger:
            import wandb

            wandb.log({name: wandb.Video(path, format=save_format), "trainer/global_step": step})
        return path

    def save_mesh(self, filename: str, v_pos: Any, t_pos_idx: Any, v_tex: Any = None, t_tex_idx: Any = None) -> str:
        """Write positions and triangles in the format of the suffix (obj, ply, glb, ...). Texture coordinates
        are ignored. The positions have z up; a GLB gets y up, as glTF defines, and other formats keep the frame.
        """
        path = self.get_save_path(filename)
        if rank_zero_only.rank == 0:
            mesh_io.write_mesh(path, self.convert_data(v_pos), self.convert_data(t_pos_idx))
        return path

    def save_obj(
        self,
        filename: str,
        mesh: Any,
        save_mat: bool = False,
        save_normal: bool = False,
        save_uv: bool = False,
        save_vertex_color: bool = False,
        map_Kd: Any = None,
        map_Ks: Any = None,
        map_Bump: Any = None,
        map_Pm: Any = None,
        map_Pr: Any = None,
        map_format: str = "jpg",
        up: str = "z",
    ) -> list[str]:
        """Write a ``Mesh`` as OBJ, with material and textures beside it if ``save_mat``. Returns all paths.

        Textures are floats [H, W, C] in [0, 1] with the first row at the bottom of the UV square (v = 0). ``up`` "z"
        keeps the mesh's frame, "y" turns it from z up and front +x to y up and front +z.
        """
        if not filename.endswith(".obj"):
            filename += ".obj"
        path = self.get_save_path(filename)
        get = self.convert_data
        turned = mesh_io.y_up if up == "y" else np.asarray
        arrays = {"v_pos": turned(get(mesh.v_pos)), "t_pos_idx": get(mesh.t_pos_idx)}
        if save_normal:
            arrays["v_nrm"] = turned(get(mesh.v_nrm))
        if save_uv:
            arrays["v_tex"], arrays["t_tex_idx"] = get(mesh.v_tex), get(mesh.t_tex_idx)
        if save_vertex_color:
            arrays["v_rgb"] = get(mesh.v_rgb)
        maps = {"map_Kd": map_Kd, "map_Ks": map_Ks, "map_Bump": map_Bump, "map_Pm": map_Pm, "map_Pr": map_Pr}
        textures = {key: get(value) for key, value in maps.items() if value is not None} if save_mat else None
        return mesh_io.write_obj(path, arrays, textures, map_format, write=rank_zero_only.rank == 0)

    def _panel(self, cell: dict) -> np.ndarray:
        img, kwargs = self.convert_data(cell["img"]), cell["kwargs"]
        if cell["type"] == "rgb":
            return imaging.rgb_panels(img, **{"data_format": "HWC", "data_range": (0, 1), **kwargs})
        if cell["type"] == "uv":
            return imaging.uv_panel(
                img, **{"data_format": "HWC", "data_range": (0, 1), "cmap": "checkerboard", **kwargs}
            )
        if cell["type"] == "grayscale":
            return imaging.grayscale_panel(img, **{"data_range": None, "cmap": "jet", **kwargs})
        raise ValueError(f"An image is of type 'rgb', 'uv' or 'grayscale', got {cell['type']!r}.")

    def _write_image(self, filename: str, rgb: np.ndarray, name: str | None = None, step: int | None = None) -> str:
        path = self.get_save_path(filename)
        imaging.write_image(path, rgb)
        if name and self._wandb_logger and rank_zero_only.rank == 0:
            self._wandb_logger.log_image(key=name, images=[path], step=step)
        return path
