"""Host side of threestudio's API: registry, logging helpers and the version that extensions compare.

This package offers, under upstream's import paths, the part of threestudio that extensions use. Built-in modules are
imported when their name is first asked for, so ``import threestudio`` stays light; every built-in name is nevertheless
known right after the import.
"""

import difflib
import importlib
import logging
from collections.abc import Callable

from pytorch_lightning.utilities.rank_zero import rank_zero_debug, rank_zero_info, rank_zero_only

from threestudio.utils.errors import UserError

__version__ = "0.2.3"

__modules__: dict[str, type] = {}

#: registry name -> module that registers it when imported; some are upstream's names for parts of the extension
#: threestudio_4d, which only these modules import
_BUILTINS: dict[str, str] = {
    "random-camera-datamodule": "threestudio.data.uncond",
    "implicit-volume": "threestudio.models.geometry.implicit_volume",
    "no-material": "threestudio.models.materials.no_material",
    "diffuse-with-point-light-material": "threestudio.models.materials.diffuse_with_point_light_material",
    "solid-color-background": "threestudio.models.background.solid_color_background",
    "textured-background": "threestudio.models.background.textured_background",
    "neural-environment-map-background": "threestudio.models.background.neural_environment_map_background",
    "mesh-exporter": "threestudio.models.exporters.mesh_exporter",
    "dummy-exporter": "threestudio.models.exporters.base",
    "single-image-datamodule": "threestudio.data.image",
    "implicit-sdf": "threestudio.models.geometry.implicit_sdf",
    "nerf-volume-renderer": "threestudio.models.renderers.nerf_volume_renderer",
    "stable-diffusion-guidance": "threestudio.models.guidance.stable_diffusion_guidance",
    "stable-diffusion-vsd-guidance": "threestudio.models.guidance.stable_diffusion_vsd_guidance",
    "zero123-guidance": "threestudio.models.guidance.zero123_guidance",
    "stable-zero123-guidance": "threestudio.models.guidance.stable_zero123_guidance",
    "stable-diffusion-prompt-processor": "threestudio.models.prompt_processors.stable_diffusion_prompt_processor",
    "dummy-prompt-processor": "threestudio.models.prompt_processors.dummy_prompt_processor",
    "perceptual-loss": "threestudio.utils.perceptual.perceptual",
    "dreamfusion-system": "threestudio.systems.dreamfusion",
}

#: names that upstream registers and this host leaves out; a lookup says so instead of guessing
_UPSTREAM_ONLY = frozenset(
    [
        "eff-random-camera-datamodule",
        "multiview-camera-datamodule",
        "co3d-datamodule",
        "volume-grid",
        "tetrahedra-sdf-grid",
        "custom-mesh",
        "pbr-material",
        "neural-radiance-material",
        "hybrid-rgb-latent-material",
        "sd-latent-adapter-material",
        "neus-volume-renderer",
        "nvdiff-rasterizer",
        "patch-renderer",
        "gan-volume-renderer",
        "stable-diffusion-sdi-guidance",
        "stable-diffusion-unified-guidance",
        "stable-diffusion-controlnet-guidance",
        "stable-diffusion-instructpix2pix-guidance",
        "deep-floyd-guidance",
        "zero123-unified-guidance",
        "deep-floyd-prompt-processor",
        "magic3d-system",
        "fantasia3d-system",
        "latentnerf-system",
        "sjc-system",
        "textmesh-system",
        "prolificdreamer-system",
        "zero123-system",
        "zero123-simple-system",
        "magic123-system",
        "image-condition-dreamfusion-system",
        "instructnerf2nerf-system",
        "control4d-multiview-system",
        "efficient-dreamfusion-system",
        "sdi-system",
    ]
)

#: custom modules whose import failed, name -> one line with the reason; filled by the launcher
failed_custom_modules: dict[str, str] = {}


class UnknownModuleError(UserError, KeyError):
    """No class is registered under the name asked for. Also a ``KeyError``, which upstream raises."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def register(name: str) -> Callable[[type], type]:
    """Class decorator that makes a class known as ``name``.

    Raises:
        ValueError: the name is taken, by a built-in module or by another extension.
    """

    def decorator(cls: type) -> type:
        owner = _BUILTINS.get(name)
        if name in __modules__ or (owner is not None and owner != cls.__module__):
            holder = __modules__[name].__module__ if name in __modules__ else owner
            raise ValueError(
                f"The module name '{name}' is already registered by {holder}; {cls.__module__}.{cls.__qualname__} must "
                "use another name. Names of extensions conflict when two of them choose the same one."
            )
        __modules__[name] = cls
        return cls

    return decorator


def find(name: str) -> type:
    """Return the class registered as ``name``.

    ``"main:a,b"`` composes a new class at every call: the classes ``a`` and ``b`` stand in front of ``main`` in the
    method resolution order, so they override it and ``Config`` is that of the first one that has it.

    Raises:
        UnknownModuleError: nothing is registered under the name (also a ``KeyError``).
        ValueError: more than one colon.
    """
    if ":" not in name:
        return _find_one(name)
    if name.count(":") != 1:
        raise ValueError(f"Module name '{name}' has more than one colon; write 'main:mixin_a,mixin_b'.")
    main_name, mixin_names = name.split(":")
    bases = [_find_one(part) for part in mixin_names.split(",")] + [_find_one(main_name)]
    return type(f"{main_name}.{mixin_names}", tuple(bases), {})


def available() -> list[str]:
    """All names that ``find`` knows now, sorted; built-in ones included before they are imported."""
    return sorted({*__modules__, *_BUILTINS})


def _find_one(name: str) -> type:
    if name not in __modules__ and name in _BUILTINS:
        _import_builtin(name)
    if name in __modules__:
        return __modules__[name]
    raise UnknownModuleError(_unknown_name_message(name))


def _import_builtin(name: str) -> None:
    try:
        importlib.import_module(_BUILTINS[name])
    except ModuleNotFoundError as error:
        if error.name != "threestudio_4d":
            raise
        raise UnknownModuleError(f"'{name}' is a part of the extension threestudio_4d, which is not there.") from error


def _unknown_name_message(name: str) -> str:
    lines = [f"No module is registered as '{name}'."]
    near = difflib.get_close_matches(name, available(), n=3, cutoff=0.7)
    if near:
        lines.append("Did you mean " + " or ".join(f"'{n}'" for n in near) + "?")
    if name in _UPSTREAM_ONLY:
        lines.append("Upstream threestudio has it, this host does not: run the config from an upstream checkout.")
    if failed_custom_modules:
        lines.append("These custom modules failed to import, so their names are missing:")
        lines += [f"  {module}: {reason}" for module, reason in failed_custom_modules.items()]
    if not near:
        lines.append("Known names: " + ", ".join(available()))
    return "\n".join(lines)


logger = logging.getLogger("pytorch_lightning")
info = rank_zero_info
debug = rank_zero_debug


@rank_zero_only
def warn(*args, **kwargs) -> None:
    """Log a warning, on the first process only."""
    logger.warning(*args, **kwargs)
