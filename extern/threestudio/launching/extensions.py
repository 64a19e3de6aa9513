"""The extensions in ``custom/`` and the classes that a config names."""

import traceback
from pathlib import Path

import threestudio
from threestudio.launching.outcome import is_user_error
from threestudio.utils.custom_modules import load_custom_modules
from threestudio.utils.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[3]


def custom_folder() -> Path:
    """``custom/`` of the working directory, else the one beside ``launch.py``."""
    folder = Path.cwd() / "custom"
    return folder if folder.is_dir() else REPOSITORY / "custom"


def load_extensions() -> dict[str, str]:
    """Import all extensions, say which, and return name -> reason of those that failed."""
    modules = load_custom_modules(custom_folder())
    failed = {module.name: module.reason for module in modules if module.error is not None}
    for module in modules:
        if module.error is not None:
            threestudio.warn(f"custom module {module.name} FAILED to import: {module.reason}")
            threestudio.debug("".join(traceback.format_exception(module.error)))
    threestudio.info(
        "custom modules: " + (", ".join(f"{m.name} (FAILED)" if m.error else m.name for m in modules) or "none")
    )
    if hasattr(threestudio, "failed_custom_modules"):
        threestudio.failed_custom_modules.update(failed)
    return failed


def find_class(name: str, key: str, failed: dict[str, str]) -> type:
    """``threestudio.find`` with the config key in the message."""
    if not name:
        raise ConfigError(f"The config has no '{key}': it names the class to build.")
    try:
        return threestudio.find(name)
    except KeyError as error:
        text = str(error) if is_user_error(error) else f"No module is registered as '{name}'."
        broken = [f"  {module}: {reason}" for module, reason in failed.items() if reason not in text]
        if broken:
            text += "\nThese custom modules failed to import, so their names are missing:\n" + "\n".join(broken)
        raise ConfigError(f"{key}: {text}") from error
