"""Builds SGD, Adam and AdamW with every parameter torch gives them, and with parameter groups by name."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator

from distrib.config.section import Number, Section
from distrib.errors import BadInput

Fraction = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[tuple[Fraction, Fraction], Field(strict=False)]


class _Group(Section):
    pattern: str
    """Shell-style pattern over parameter names, such as `*.bias`; the first group that matches takes a parameter."""
    lr: Number | None = None
    """Learning rate of the group (peak, under a schedule)."""
    weight_decay: Number | None = None
    """Weight decay of the group."""


class SGDGroup(_Group):
    """Parameters whose name matches `pattern` take these values instead."""

    momentum: Fraction | None = None
    """Momentum of the group."""
    dampening: Fraction | None = None
    """Dampening of the group."""


class AdamGroup(_Group):
    """Parameters whose name matches `pattern` take these values instead."""

    betas: Betas | None = None
    """Betas of the group."""
    eps: Number | None = None
    """eps of the group."""


class _Common(Section):
    """What means the same for every optimizer, so that a value of a recipe stays when the command line chooses another one.

    Learning rates and decays do not: each optimizer has its own scale, and declares them for itself.
    """

    maximize: bool = False
    """Ascend instead of descend."""
    foreach: bool | None = None
    """torch's multi-tensor implementation; none leaves the choice to `fused` and the device."""
    differentiable: bool = False
    """Refused: torch cannot step a trainer's leaf parameters under autograd. Listed because torch has it."""
    fused: bool | None = None
    """torch's fused kernel; none means yes, unless foreach is set, wherever torch has one (CPU and CUDA)."""

    @model_validator(mode="after")
    def _one_implementation(self) -> Self:
        if self.differentiable:
            clash = "fused and differentiable exclude each other; besides, " if self.fused else ""
            raise ValueError(
                f"optimizer.differentiable = true: {clash}torch raises on a trainer's leaf parameters "
                "(in-place update of a leaf that requires grad); leave it out"
            )
        if self.fused and self.foreach:
            raise ValueError(
                "optimizer.fused and optimizer.foreach are two implementations of one step: set one of them"
            )
        return self


class SGD(_Common):
    """torch.optim.SGD."""

    name: Literal["sgd"] = "sgd"
    """The optimizer: sgd, adam or adamw."""
    lr: Number = 1e-3
    """Learning rate; under a schedule, what its factor multiplies."""
    momentum: Fraction = 0.0
    """Momentum factor of the buffer."""
    dampening: Fraction = 0.0
    """1 - dampening multiplies each gradient that enters the buffer after the first."""
    weight_decay: Number = 0.0
    """Coupled (L2) weight decay: added to the gradient, times the parameter."""
    nesterov: bool = False
    """Nesterov momentum; needs momentum > 0 and no dampening."""
    groups: Annotated[tuple[SGDGroup, ...], Field(strict=False)] = ()
    """Parameter groups: tables with a `pattern` and the values that differ."""

    @model_validator(mode="after")
    def _momentum_rules(self) -> Self:
        for group in (self, *self.groups):
            where = f" in the group {group.pattern!r}" if isinstance(group, SGDGroup) else ""
            momentum = self.momentum if group.momentum is None else group.momentum
            dampening = self.dampening if group.dampening is None else group.dampening
            if self.nesterov and momentum == 0:
                raise ValueError(
                    f"optimizer.nesterov = true{where}: Nesterov needs momentum > 0; set optimizer.momentum"
                )
            if self.nesterov and dampening:
                raise ValueError(
                    f"optimizer.dampening = {dampening}{where}: Nesterov is defined without dampening; drop one"
                )
            if dampening and momentum == 0:
                raise ValueError(
                    f"optimizer.dampening = {dampening}{where} has no effect without momentum: set optimizer.momentum or drop it"
                )
        return self


class _AdamLike(_Common):
    lr: Number = 1e-3
    """Learning rate; under a schedule, what its factor multiplies."""
    betas: Betas = (0.9, 0.999)
    """Decay rates of the first and second moments."""
    eps: Number = 1e-8
    """Added to the square root of the corrected second moment."""
    amsgrad: bool = False
    """Divide by the running maximum of the second moment (torch's AMSGrad: maximum first, then bias correction)."""
    capturable: bool = False
    """Keep step counts on the GPU so that the step fits in a CUDA graph; CUDA only."""
    groups: Annotated[tuple[AdamGroup, ...], Field(strict=False)] = ()
    """Parameter groups: tables with a `pattern` and the values that differ."""


class Adam(_AdamLike):
    """torch.optim.Adam."""

    name: Literal["adam"] = "adam"
    """Adam."""
    weight_decay: Number = 0.0
    """Weight decay, coupled (added to the gradient) unless decoupled_weight_decay."""
    decoupled_weight_decay: bool = False
    """Shrink the parameters by lr * weight_decay instead: AdamW."""

    @model_validator(mode="after")
    def _decoupled_needs_decay(self) -> Self:
        if self.decoupled_weight_decay and not self.weight_decay and not any(g.weight_decay for g in self.groups):
            raise ValueError(
                "optimizer.decoupled_weight_decay = true has no effect while weight_decay is 0: set optimizer.weight_decay"
            )
        return self


class AdamW(_AdamLike):
    """torch.optim.AdamW: Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"
    """AdamW."""
    weight_decay: Number = 1e-2
    """Decoupled weight decay, torch's default."""


OptimizerConfig = SGD | Adam | AdamW

NamedParameters = Iterable[tuple[str, torch.nn.Parameter]]


def build_optimizer(
    config: OptimizerConfig, named_parameters: NamedParameters, device: torch.device
) -> torch.optim.Optimizer:
    """Return the torch optimizer, with one parameter group for each pattern and one for the rest.

    Each group keeps the names of its parameters (`param_names`) and its `initial_lr`.
    Raises BadInput for what only the device or the network can tell.
    """
    if not isinstance(config, SGD) and config.capturable and device.type != "cuda":
        raise BadInput(
            f"optimizer.capturable = true needs parameters on a CUDA device, and this run is on {device.type}: leave it out"
        )
    options = config.model_dump(exclude={"name", "groups"})
    options["fused"] = (
        config.fused if config.fused is not None else not config.foreach and device.type in ("cpu", "cuda")
    )
    if options["fused"]:
        options["foreach"] = None  # the recipe may say foreach = false, which torch would store beside fused = true
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name]
    optimizer: torch.optim.Optimizer = kind(_group(config, list(named_parameters)), **options)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def options_by_name(config: OptimizerConfig, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return by parameter name the options that apply: the recipe's, overridden by the first group whose pattern matches."""
    base = config.model_dump(exclude={"name", "groups", "foreach", "fused", "differentiable", "capturable"})
    if isinstance(config, AdamW):
        base["decoupled_weight_decay"] = True
    own: dict[int | None, dict[str, Any]] = {None: {}}
    for number, group in enumerate(config.groups):
        own[number] = group.model_dump(exclude={"pattern"}, exclude_none=True)
    return {name: base | own[_group_index(config, name)] for name in names}


def implementation(optimizer: torch.optim.Optimizer) -> str:
    """Return which kernels this optimizer runs: fused, foreach or single (one tensor at a time)."""
    group = optimizer.param_groups[0]
    if group["fused"]:
        return "fused"
    device = group["params"][0].device.type
    foreach = group["foreach"] if group["foreach"] is not None else device == "cuda"  # torch's own default
    return "foreach" if foreach else "single"


def _group(config: OptimizerConfig, named_parameters: Sequence[tuple[str, torch.nn.Parameter]]) -> list[dict[str, Any]]:
    members: defaultdict[int | None, list[tuple[str, torch.nn.Parameter]]] = defaultdict(list)
    for name, parameter in named_parameters:
        members[_group_index(config, name)].append((name, parameter))
    groups: list[dict[str, Any]] = []
    for number, group in enumerate(config.groups):
        if number not in members:
            names = ", ".join(name for name, _ in named_parameters)
            raise BadInput(
                f"optimizer.groups: the pattern {group.pattern!r} takes no parameter "
                f"(an earlier group may have taken them); the names are {names}"
            )
        groups.append({"params": members[number], **group.model_dump(exclude={"pattern"}, exclude_none=True)})
    return groups + ([{"params": members[None]}] if None in members else [])


def _group_index(config: OptimizerConfig, name: str) -> int | None:
    """Return the number of the first group that takes the parameter of this name, if one does."""
    return next((i for i, group in enumerate(config.groups) if fnmatchcase(name, group.pattern)), None)
