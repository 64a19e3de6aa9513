"""The extension on a host that offers upstream's names and nothing else.

The static list is in ``test_upstream_surface``. Here the extension is really imported, the way upstream's ``launch.py``
does it, and its system is built, with every other name of the host hidden. Inherited members count as well: a public
method that only the built-in host's base classes had would be found missing in an upstream checkout, at run time.
"""

import ast
import importlib
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import pytorch_lightning as pl
from torch import nn

LIFECYCLE = {"Config", "configure", "do_update_step", "do_update_step_end", "update_step", "update_step_end"}
PARTS = {"geometry", "material", "background"}
SAVING = {
    *("convert_data", "create_loggers", "get_loggers", "get_save_dir", "get_save_path", "set_save_dir"),
    *("save_cubemap", "save_data", "save_file", "save_grayscale_image", "save_image", "save_image_grid"),
    *("save_img_sequence", "save_json", "save_mesh", "save_obj", "save_rgb_image", "save_state_dict", "save_uv_image"),
}
ISOSURFACE = {
    f"isosurface{suffix}"
    for suffix in (
        *("", "_method", "_resolution", "_threshold", "_chunk", "_coarse_to_fine", "_deformable_grid"),
        *("_remove_outliers", "_outlier_n_faces_threshold"),
    )
}
SYSTEM_KEYS = {
    *("loggers", "loss", "optimizer", "scheduler", "weights", "weights_ignore_modules"),
    *("cleanup_after_validation_step", "cleanup_after_test_step"),
    *("geometry_convert_from", "geometry_convert_inherit_texture", "geometry_convert_override"),
    *PARTS,
    *("renderer", "guidance", "prompt_processor", "exporter"),
    *(f"{part}_type" for part in (*PARTS, "renderer", "guidance", "prompt_processor", "exporter")),
}

# Base class: (public members, configuration keys) of upstream 0.2.3, beyond those of Lightning and torch.
UPSTREAM_BASES = {
    "threestudio.systems.base.BaseLift3DSystem": (
        LIFECYCLE
        | SAVING
        | {"C", "guidance_evaluation_save", "load_weights", "post_configure", "preprocess_data", "resumed"}
        | {"set_resume_status", "true_current_epoch", "true_global_step"},
        SYSTEM_KEYS,
    ),
    "threestudio.utils.base.BaseObject": (LIFECYCLE, set()),
    "threestudio.utils.base.BaseModule": (LIFECYCLE, {"weights"}),
    "threestudio.models.geometry.base.BaseGeometry": (LIFECYCLE | {"create_from", "export"}, {"weights"}),
    "threestudio.models.geometry.base.BaseImplicitGeometry": (
        LIFECYCLE | {"create_from", "export", "forward_field", "forward_level", "isosurface"},
        {"weights", "radius"} | ISOSURFACE,
    ),
    "threestudio.models.renderers.base.VolumeRenderer": (
        LIFECYCLE | PARTS | {f"set_{part}" for part in PARTS},
        {"weights", "radius"},
    ),
    "threestudio.models.exporters.base.Exporter": (LIFECYCLE | PARTS, {"save_video"}),
    "threestudio.models.materials.base.BaseMaterial": (
        LIFECYCLE | {"export", "requires_normal", "requires_tangent"},
        {"weights"},
    ),
    "threestudio.models.background.base.BaseBackground": (LIFECYCLE, {"weights"}),
}

ON_A_MINIMAL_HOST = """
import importlib
import importlib.abc
import importlib.util
import sys
import types

repository, compat = sys.argv[1:]
sys.path[:0] = [compat, f"{repository}/extern"]
from test_upstream_surface import ALLOWED

import threestudio
from threestudio.utils.config import load_config

for name in sorted(ALLOWED):
    importlib.import_module(name)
cfg = load_config(f"{repository}/configs/consistent4d.yaml", cli_args=["exp_root_dir=outputs"], n_gpus=1)
for part in ("no-material", "solid-color-background"):
    threestudio.find(part)

real = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "threestudio"}
for name in sorted({parent for allowed in ALLOWED for parent in (allowed, *_parents(allowed))}):
    module = types.ModuleType(name)
    module.__spec__, module.__path__ = real[name].__spec__, []
    for attribute in ALLOWED.get(name, ()):
        setattr(module, attribute, getattr(real[name], attribute))
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)

spec = importlib.util.spec_from_file_location("threestudio_4d", f"{repository}/custom/threestudio_4d/__init__.py")
extension = importlib.util.module_from_spec(spec)
sys.modules["threestudio_4d"] = extension
spec.loader.exec_module(extension)

import threestudio

system = threestudio.find(cfg.system_type)(cfg.system, resumed=False)
threestudio.find(cfg.system.exporter_type)(
    cfg.system.exporter, geometry=system.geometry, material=system.material, background=system.background
)
for name in (cfg.data_type, cfg.system.guidance_type, cfg.system.interpolator_type):
    threestudio.find(name)
print("built", type(system).__name__)
"""

PARENTS = """
def _parents(name):
    pieces = name.split(".")
    return [".".join(pieces[:n]) for n in range(1, len(pieces))]
"""


def framework_members() -> set[str]:
    """Members of Lightning's and torch's modules, at this moment: transformers adds some while it builds a model."""
    return set(dir(pl.LightningModule)) | set(dir(nn.Module))


def test_the_extension_imports_and_builds_with_only_the_listed_names(repository: Path, tmp_path: Path):
    ran = subprocess.run(
        [sys.executable, "-c", PARENTS + ON_A_MINIMAL_HOST, str(repository), str(Path(__file__).parent)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.splitlines()[-1] == "built Consistent4D"


@pytest.mark.parametrize("path", UPSTREAM_BASES)
def test_base_classes_offer_no_public_member_that_upstream_lacks(path: str):
    module, _, name = path.rpartition(".")
    base = getattr(importlib.import_module(module), name)
    members, keys = UPSTREAM_BASES[path]
    assert {member for member in dir(base) if not member.startswith("_")} - framework_members() <= members
    assert {field.name for field in fields(base.Config)} <= keys


def test_the_extension_leaves_the_hosts_private_members_alone(repository: Path):
    own, read = set(), {}
    for file in sorted((repository / "custom" / "threestudio_4d").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                own.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                read.setdefault(node.attr, file.name)
    private = set()
    for path in UPSTREAM_BASES:
        module, _, name = path.rpartition(".")
        private |= set(dir(getattr(importlib.import_module(module), name)))
    assert not {name: where for name, where in read.items() if name in private - framework_members() - own}
