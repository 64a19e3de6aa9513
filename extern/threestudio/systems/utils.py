"""Optimizers and learning-rate schedules from config: one parameter group for each named module."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from annotated_types import MinLen
from omegaconf import OmegaConf
from torch import nn
from torch.optim import lr_scheduler

from threestudio.utils.arguments import check_arguments, construct
from threestudio.utils.errors import UserError
from threestudio.utils.values import annotations

__all__ = [
    "check_optimizer",
    "check_scheduler",
    "get_parameters",
    "get_scheduler",
    "parse_optimizer",
    "parse_scheduler",
    "parse_scheduler_to_instance",
]


class ModulePathError(UserError, AttributeError):
    """An optimizer group names a part that the system does not have."""


def get_parameters(model: Any, name: str) -> list[nn.Parameter]:
    """Parameters at a dotted attribute path: those of a module, a parameter itself, else none."""
    part = model
    walked: list[str] = []
    for attribute in name.split("."):
        if not hasattr(part, attribute):
            where = ".".join(walked) or type(model).__name__
            names = sorted({*getattr(part, "_modules", {}), *getattr(part, "_parameters", {})})
            near = difflib.get_close_matches(attribute, names, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ModulePathError(
                f"optimizer.params names '{name}', but {where} has no '{attribute}'.{hint} "
                f"It has: {', '.join(names) or 'nothing'}."
            )
        part = getattr(part, attribute)
        walked.append(attribute)
    if isinstance(part, nn.Parameter):
        return [part]
    return list(part.parameters()) if isinstance(part, nn.Module) else []


def parse_optimizer(config: Any, model: Any) -> torch.optim.Optimizer:
    """Build ``torch.optim.<config.name>(groups, **config.args)``.

    With ``config.params``, a mapping from dotted module paths to their own arguments, only those modules are
    optimised, each in a group that carries its path as ``name``. Arguments reach the optimizer as plain Python values,
    so that checkpoints hold no config objects.
    """
    args = _primitive(config.get("args"), "optimizer.args")
    params = config.get("params")
    if params is not None:
        groups: Any = [
            {"params": get_parameters(model, name), "name": name, **_primitive(group, f"optimizer.params.{name}")}
            for name, group in params.items()
        ]
    else:
        groups = model.parameters()
    if config.name == "FusedAdam":
        return torch.optim.Adam(groups, **args)
    return _lookup(torch.optim, config.name, "optimizer.name", torch.optim.Optimizer)(groups, **args)


def check_optimizer(section: str, config: Mapping[str, Any]) -> None:
    """Build the optimizer of a config for a parameter of no system, and once for each group of ``params``.

    Raises:
        UserError: names the key that the optimizer does not have, or whose value it does not take.
    """
    check_arguments(section, config, {"name": Annotated[str, MinLen(1)], "args": dict, "params": dict | None})
    if not config.get("name"):
        raise UserError(f"{section}.name is missing: it names a class of torch.optim, for instance Adam.")
    name = "Adam" if config.name == "FusedAdam" else config.name
    kind = _lookup(torch.optim, name, f"{section}.name", torch.optim.Optimizer)
    wanted = {key: hint for key, hint in annotations(kind.__init__).items() if key != "params"}
    args = _primitive(config.get("args"), f"{section}.args")
    groups = {f"{section}.params.{key}": group for key, group in (config.get("params") or {}).items()}
    for place, values in {f"{section}.args": {}, **groups}.items():
        check_arguments(place, args if values == {} else values, wanted)
        construct(place, kind, [nn.Parameter(torch.zeros(1))], **{**args, **_primitive(values, place)})


def check_scheduler(section: str, config: Mapping[str, Any]) -> None:
    """Build the scheduler of a config on an optimizer of one parameter; the errors are those of ``check_optimizer``."""
    keys = {"name": Annotated[str, MinLen(1)], "interval": Literal["epoch", "step"], "args": dict}
    check_arguments(section, config, {**keys, "milestones": list[int], "schedulers": list})
    if not config.get("name"):
        raise UserError(f"{section}.name is missing: it names a class of torch.optim.lr_scheduler.")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    construct(section, parse_scheduler_to_instance, config, optimizer)


def get_scheduler(name: str) -> type:
    """The class in ``torch.optim.lr_scheduler`` of this name."""
    return _lookup(lr_scheduler, name, "scheduler.name", lr_scheduler.LRScheduler)


def parse_scheduler(config: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """``{"scheduler", "interval"}`` for Lightning. ``SequentialLR`` (with ``milestones``) and
    ``ChainedScheduler`` nest under ``schedulers``.
    """
    interval = config.get("interval", "epoch")
    if interval not in ("epoch", "step"):
        raise UserError(f"scheduler.interval is 'epoch' or 'step', got {interval!r}.")
    return {"scheduler": parse_scheduler_to_instance(config, optimizer), "interval": interval}


def parse_scheduler_to_instance(config: Any, optimizer: torch.optim.Optimizer) -> Any:
    """The scheduler object alone; ``"Sequential"`` is accepted for ``"SequentialLR"``."""
    name = config.name
    if name in ("SequentialLR", "Sequential"):
        parts = [parse_scheduler_to_instance(part, optimizer) for part in config.schedulers]
        return lr_scheduler.SequentialLR(optimizer, parts, milestones=list(config.milestones))
    if name in ("ChainedScheduler", "Chained"):
        return lr_scheduler.ChainedScheduler(
            [parse_scheduler_to_instance(part, optimizer) for part in config.schedulers]
        )
    return get_scheduler(name)(optimizer, **_primitive(config.get("args"), "scheduler.args"))


def _primitive(node: Any, key: str) -> dict[str, Any]:
    if node is None:
        raise UserError(f"{key} is missing; write {{}} for the defaults.")
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else dict(node)


def _lookup(namespace: Any, name: str, key: str, base: type) -> Any:
    found = getattr(namespace, name, None)
    if isinstance(found, type) and issubclass(found, base):
        return found
    names = sorted(
        n for n in dir(namespace) if isinstance(getattr(namespace, n), type) and issubclass(getattr(namespace, n), base)
    )
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise UserError(f"{key} '{name}' is not in {namespace.__name__}.{hint} Valid names: {', '.join(names)}.")
