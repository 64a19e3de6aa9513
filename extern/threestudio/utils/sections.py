"""Which class stands behind each section of a config: ``<part>_type`` names it, ``<part>`` holds its keys."""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from omegaconf import OmegaConf

import threestudio
from threestudio.utils.values import annotations, section_of

__all__ = ["Section", "annotation_of", "config_class", "find_sections"]

_SUFFIX = "_type"


class Section(NamedTuple):
    """Keys under ``path``, which the class registered as ``name`` checks against ``fields`` (None: it has no such
    dataclass, or ``name`` is not registered).
    """

    path: str
    name: str
    fields: type | None
    values: Any


def config_class(name: Any) -> type | None:
    """The dataclass that the class registered as ``name`` checks its section against: its ``Config``, else the
    annotation of its ``cfg``. None if there is none, or no such class.
    """
    try:
        kind = threestudio.find(name)
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    fields = getattr(kind, "Config", None)
    if not dataclasses.is_dataclass(fields):
        try:
            fields = typing.get_type_hints(kind).get("cfg")
        except Exception:  # names that exist for type checkers only
            return None
    return fields if dataclasses.is_dataclass(fields) else None


def find_sections(cfg: Mapping, fields: type, prefix: str = "") -> Iterator[Section]:
    """Sections of a mapping that ``fields`` describes and, inside each, its own."""
    for key in annotations(fields):
        name = _class_name(cfg, fields, key)
        values = cfg.get(key)
        if not name or (values is not None and not _is_mapping(values)):
            continue
        section = Section(f"{prefix}{key}", name, config_class(name), {} if values is None else values)
        yield section
        if section.fields is not None:
            yield from find_sections(section.values, section.fields, f"{section.path}.")


def annotation_of(path: str, cfg: Mapping, fields: type) -> Any:
    """Annotation of the key at a dotted path, or None where it is not known.

    Args:
        cfg: what says which classes are behind the sections.
        fields: dataclass of the whole config.
    """
    owner: Any = fields
    *above, key = path.split(".")
    for part in above:
        if owner is None:
            return None
        hint = annotations(owner).get(part)
        name = _class_name(cfg, owner, part)
        owner = config_class(name) if name else section_of(hint)
        below = cfg.get(part) if _is_mapping(cfg) else None
        cfg = below if _is_mapping(below) else {}
    return None if owner is None else annotations(owner).get(key)


def _class_name(cfg: Mapping, fields: type, key: str) -> str:
    """The class that a section is for: what the config says, else the default of the class around it."""
    typed = key + _SUFFIX
    if typed in cfg and not (OmegaConf.is_config(cfg) and OmegaConf.is_missing(cfg, typed)):
        return str(cfg[typed] or "")
    default = next((f.default for f in dataclasses.fields(fields) if f.name == typed), "")
    return default if isinstance(default, str) else ""


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) or OmegaConf.is_dict(value)
