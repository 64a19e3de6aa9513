"""Loads extensions: every folder or ``.py`` file in ``custom/`` is imported by its name and registers its classes."""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass
class CustomModule:
    """What became of one entry of ``custom/``; ``error`` is ``None`` if it was imported."""

    name: str
    path: Path
    error: BaseException | None = None

    @property
    def reason(self) -> str:
        """One line that says why the import failed."""
        if self.error is None:
            return ""
        text = str(self.error).strip().splitlines()
        return f"{type(self.error).__name__}: {text[0]}" if text else type(self.error).__name__


def list_custom_modules(folder: Path) -> list[Path]:
    """Entries of ``folder`` that are extensions, sorted by name.

    Skipped are hidden ones, ``__pycache__``, names that end in ``_disabled``, files that are not Python, and folders
    that hold nothing to import.
    """
    if not folder.is_dir():
        return []
    entries = []
    for entry in sorted(folder.iterdir()):
        name = entry.stem if entry.is_file() else entry.name
        if name.startswith((".", "__")) or name.endswith("_disabled"):
            continue
        if entry.is_dir() and any(entry.iterdir()) or entry.suffix == ".py":
            entries.append(entry)
    return entries


def load_custom_modules(folder: Path) -> list[CustomModule]:
    """Import all extensions in ``folder``; one that fails is reported in its entry and leaves the others alone.

    The module name is the folder name. ``folder`` joins ``sys.path`` (last), so that spawned processes find them too.
    """
    paths = list_custom_modules(folder)
    if paths and str(folder) not in sys.path:
        sys.path.append(str(folder))
    return [_load(path) for path in paths]


def _load(path: Path) -> CustomModule:
    name = path.stem if path.is_file() else path.name
    module = CustomModule(name, path)
    try:
        _import(name, path)
    except (Exception, SystemExit) as error:  # an extension may fail in any way; the reason is shown to the user
        module.error = error
        for loaded in [n for n in sys.modules if n == name or n.startswith(f"{name}.")]:
            del sys.modules[loaded]
    return module


def _import(name: str, path: Path) -> None:
    if "." in name:
        raise ImportError(f"the name of an extension must not have a dot: rename the folder to '{name.split('.')[0]}'")
    source = path / "__init__.py" if path.is_dir() else path
    if not source.is_file():
        raise ImportError(f"the folder has no __init__.py ({path})")
    loaded = sys.modules.get(name)
    if loaded is not None:
        origin = getattr(loaded, "__file__", None)
        if origin and Path(origin).resolve() == source.resolve():
            return
        raise ImportError(f"a package called '{name}' is in use already ({origin or 'built in'}): rename the extension")
    locations = [str(path)] if path.is_dir() else None
    spec = importlib.util.spec_from_file_location(name, source, submodule_search_locations=locations)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
