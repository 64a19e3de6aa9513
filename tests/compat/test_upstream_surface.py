"""The extension may use only names that upstream threestudio (0.2.3) also has.

Every import of ``threestudio`` and every attribute read from it, anywhere in ``custom/threestudio_4d``, must be in the
list below. To use another name, make sure that upstream has it, with the same meaning, and add it here.
"""

import ast
from pathlib import Path

import pytest

ALLOWED = {
    "threestudio": {"__file__", "__version__", "debug", "find", "info", "register", "warn"},
    "threestudio.data.uncond": {
        "RandomCameraDataModule",
        "RandomCameraDataModuleConfig",
        "RandomCameraDataset",
        "RandomCameraIterableDataset",
    },
    "threestudio.models.background.base": {"BaseBackground"},
    "threestudio.models.exporters.base": {"Exporter", "ExporterOutput"},
    "threestudio.models.geometry.base": {"BaseGeometry", "BaseImplicitGeometry", "contract_to_unisphere"},
    "threestudio.models.materials.base": {"BaseMaterial"},
    "threestudio.models.mesh": {"Mesh"},
    "threestudio.models.networks": {"get_encoding", "get_mlp"},
    "threestudio.models.prompt_processors.base": {"PromptProcessor", "PromptProcessorOutput", "hash_prompt"},
    "threestudio.models.renderers.base": {"Rasterizer", "Renderer", "VolumeRenderer"},
    "threestudio.systems.base": {"BaseLift3DSystem", "BaseSystem"},
    "threestudio.systems.utils": {"parse_optimizer", "parse_scheduler"},
    "threestudio.utils.base": {"BaseModule", "BaseObject", "Configurable", "Updateable"},
    "threestudio.utils.config": {"parse_structured"},
    "threestudio.utils.misc": {"C", "cleanup", "get_device", "get_rank", "parse_version"},
    "threestudio.utils.ops": {
        "binary_cross_entropy",
        "chunk_batch",
        "dot",
        "get_activation",
        "get_mvp_matrix",
        "get_projection_matrix",
        "get_ray_directions",
        "get_rays",
    },
    "threestudio.utils.typing": {
        "Any",
        "Bool",
        "Callable",
        "Complex",
        "Dict",
        "DictConfig",
        "Float",
        "Inexact",
        "Int",
        "Integer",
        "Iterable",
        "List",
        "Literal",
        "NamedTuple",
        "NewType",
        "Num",
        "Optional",
        "Shaped",
        "Sized",
        "Tensor",
        "Tuple",
        "Type",
        "TypeVar",
        "UInt",
        "Union",
        "typechecker",
    },
}


def used_names(source: str) -> set[tuple[str, str]]:
    """Pairs (module, name) that a source text takes from ``threestudio``."""
    used = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and _is_host(node.module):
            used |= {(node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            used |= {(alias.name, "") for alias in node.names if _is_host(alias.name)}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "threestudio":
            used.add(("threestudio", node.attr))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            owner, name = node.args[:2]
            if isinstance(owner, ast.Name) and owner.id == "threestudio" and isinstance(name, ast.Constant):
                used.add(("threestudio", name.value))
    return used


def _is_host(module: str | None) -> bool:
    return module is not None and (module == "threestudio" or module.startswith("threestudio."))


def _allowed(module: str, name: str) -> bool:
    if module not in ALLOWED:
        return f"{module}.{name}" in ALLOWED
    return name == "" or name in ALLOWED[module] or f"{module}.{name}" in ALLOWED


def test_the_extension_uses_only_names_that_upstream_has(repository: Path):
    extension = repository / "custom" / "threestudio_4d"
    files = sorted(extension.rglob("*.py"))
    assert len(files) > 5
    foreign = {
        f"{file.relative_to(repository)}: {module}.{name}"
        for file in files
        for module, name in used_names(file.read_text(encoding="utf-8"))
        if not _allowed(module, name)
    }
    assert not foreign, "not in upstream threestudio:\n" + "\n".join(sorted(foreign))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import threestudio\nthreestudio.find('x')", {("threestudio", ""), ("threestudio", "find")}),
        ("from threestudio.utils.misc import C as schedule", {("threestudio.utils.misc", "C")}),
        ("getattr(threestudio, '__version__', None)", {("threestudio", "__version__")}),
        ("from .threestudio import x\nimport threestudio_4d", set()),
    ],
)
def test_the_walk_finds_every_kind_of_use(source, expected):
    assert used_names(source) == expected


def test_the_list_is_enforced():
    assert not _allowed("threestudio.utils.errors", "UserError")
    assert _allowed("threestudio.utils.typing", "Float")


def test_this_projects_host_has_the_listed_modules(repository: Path):
    """The built-in host offers the same modules, so the list cannot name one that only exists on paper."""
    host = repository / "extern"
    for module in ALLOWED:
        path = host.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module
