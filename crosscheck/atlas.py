"""torch.optim against Optax over every legal combination of flags, as a table.

Two questions. Free-running in float64 for forty steps: does the stock Optax alias follow torch, does our
composition? And step by step, through the recorder and the replay: how large is eta at most, for each
implementation and dtype, over four regimes of gradients at once?
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from crosscheck.float64 import float64
from crosscheck.recorder.optimizer_info import CLASSES
from crosscheck.report.report import Verdict, strict_json
from crosscheck.rules import RULES
from crosscheck.rules.rule import Rule
from crosscheck.testing import REGIMES, observe
from crosscheck.tolerance import WARN

Options = Mapping[str, Any]
IMPLEMENTATIONS: Mapping[str, Options] = {
    "single": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
DTYPES = ("float32", "float64", "bfloat16", "float16")  # torch's names, in the order of the columns
_AGREES = 1e-12  # relative difference after forty float64 steps; rounding leaves 1e-15 to 1e-13


@dataclass(frozen=True, slots=True)
class Combination:
    """One optimizer with one legal set of flags."""

    rule: str
    options: Options

    @property
    def label(self) -> str:
        shown = {k: v for k, v in self.options.items() if v not in (0, 0.0, False) and k != "lr"}
        return ", ".join([self.rule, *(k if v is True else f"{k} {v}" for k, v in shown.items())])


@dataclass(frozen=True, slots=True)
class Cell:
    """A combination in one implementation and dtype."""

    implementation: str
    dtype: str
    verdict: str
    max_eta: float
    out_of_range: int
    """Elements that the format cannot represent, or whose divisor it may lose."""
    elements: int


@dataclass(frozen=True, slots=True)
class Row:
    """What the atlas has to say about one combination. Differences are relative to the way the parameters went."""

    rule: str
    label: str
    options: Options
    stock_difference: float
    composition_difference: float
    own: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def stock_agrees(self) -> bool:
        return self.stock_difference < _AGREES

    @property
    def composition_agrees(self) -> bool:
        return self.composition_difference < _AGREES

    @property
    def max_eta(self) -> float:
        return max((cell.max_eta for cell in self.cells), default=0.0)

    @property
    def agrees(self) -> bool:
        return self.composition_agrees and all(
            cell.verdict != Verdict.MISMATCH and cell.max_eta <= WARN for cell in self.cells
        )


@dataclass(frozen=True, slots=True)
class Atlas:
    """The table; `str()` prints it."""

    rows: tuple[Row, ...]
    versions: dict[str, str] = field(
        default_factory=lambda: {"torch": torch.__version__, "jax": jax.__version__, "optax": optax.__version__}
    )

    @property
    def agrees(self) -> bool:
        """Return whether our compositions and every implementation of torch agree; the stock aliases need not."""
        return all(row.agrees for row in self.rows)

    def to_json(self) -> str:
        """Return the table as strict JSON, with the options of each combination."""
        rows = [
            asdict(row) | {"stock_agrees": row.stock_agrees, "composition_agrees": row.composition_agrees}
            for row in self.rows
        ]
        return strict_json({"versions": self.versions, "agrees": self.agrees, "rows": rows})

    def __str__(self) -> str:
        columns = list(dict.fromkeys((cell.implementation, cell.dtype) for row in self.rows for cell in row.cells))
        width = max((len(row.label) for row in self.rows), default=0)
        heads = [f"{implementation}/{dtype.replace('float', 'f')}" for implementation, dtype in columns]
        lines = [f"{'torch.optim':{width}}  stock Optax    composition    " + " ".join(f"{head:>12}" for head in heads)]
        for row in self.rows:
            etas = [f"{_shown(cell):>12}" for cell in row.cells]
            both = f"{_answer(row.stock_difference):13}  {_answer(row.composition_difference):13}"
            lines.append(f"{row.label:{width}}  {both}  " + " ".join(etas))
        for rule in dict.fromkeys(row.rule for row in self.rows):
            rows = [row for row in self.rows if row.rule == rule]
            lines.append(
                f"{rule}: the stock alias agrees in {sum(row.stock_agrees for row in rows)} of {len(rows)} combinations, the "
                f"composition in {sum(row.composition_agrees for row in rows)}; worst eta {max(row.max_eta for row in rows):.2f}"
            )
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        own = sorted({piece for row in self.rows for piece in row.own})
        lines.append(f"own pieces of the compositions: {', '.join(own) or 'none'}; the rest is Optax's")
        lines.append(
            f"eta of the recorded step by implementation and dtype, over {', '.join(REGIMES)} gradients; * some elements are "
            f"out of the format's range; {versions}"
        )
        return "\n".join(lines)


def combinations() -> Iterator[Combination]:
    """Yield every legal product of flags, eps and betas: 28 of SGD, 48 of Adam and AdamW."""
    for maximize, decay in itertools.product((False, True), (0.0, 0.02)):
        for momentum, dampening, nesterov in itertools.product((0.0, 0.9), (0.0, 0.1, 0.9), (False, True)):
            if nesterov and (not momentum or dampening):
                continue  # torch refuses it
            options = {"lr": 0.01, "momentum": momentum, "dampening": dampening, "weight_decay": decay}
            yield Combination("sgd", options | {"nesterov": nesterov, "maximize": maximize})
    for rule, decay in (("adam", 0.0), ("adam", 0.02), ("adamw", 0.02)):
        for amsgrad, maximize, eps, betas in itertools.product(
            (False, True), (False, True), (1e-8, 1e-3), ((0.9, 0.999), (0.7, 0.95))
        ):
            options = {"lr": 0.01, "betas": betas, "eps": eps, "weight_decay": decay}
            yield Combination(rule, options | {"amsgrad": amsgrad, "maximize": maximize})


def draw(
    chosen: Iterable[Combination] | None = None,
    *,
    implementations: Iterable[str] = tuple(IMPLEMENTATIONS),
    dtypes: Iterable[str] = DTYPES,
    progress: bool = False,
) -> Atlas:
    """Fill the table: a minute or two for all of it."""
    rows: list[Row] = []
    listed = list(combinations() if chosen is None else chosen)
    for number, combination in enumerate(listed, start=1):
        if progress:
            print(f"\r{number} of {len(listed)}: {combination.label:80.80}", end="", flush=True)
        cells = [
            _cell(combination, implementation, dtype)
            for implementation, dtype in itertools.product(implementations, dtypes)
        ]
        rule = RULES[combination.rule]
        flags, h = rule.flags(combination.options), rule.hyperparameters(combination.options)
        assert rule.stock is not None
        stock = rule.stock(flags, combination.options)
        rows.append(
            Row(
                rule=combination.rule,
                label=combination.label,
                options=combination.options,
                stock_difference=_difference(combination, partial(_follow, stock)),
                composition_difference=_difference(combination, partial(_follow_rule, rule, flags, h)),  # pyright: ignore[reportUnknownArgumentType]
                own=rule.own(flags, h),
                cells=tuple(cells),
            )
        )
    if progress:
        print("\r" + " " * 100 + "\r", end="")
    return Atlas(tuple(rows))


def _cell(combination: Combination, implementation: str, dtype: str) -> Cell:
    def make(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return CLASSES[combination.rule](parameters, **combination.options, **IMPLEMENTATIONS[implementation])

    report = observe(make, steps=6, size=1024, dtype=getattr(torch, dtype), regimes=REGIMES)
    beyond = report.out_of_range + report.undetermined
    return Cell(implementation, dtype, report.verdict, report.max_eta, beyond, report.elements)


def _free_running(size: int = 256, steps: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a start and gradients in float64; the gradients span six decades."""
    generator = torch.Generator().manual_seed(7)
    start = torch.randn(size, generator=generator, dtype=torch.float64)
    decades = torch.rand(steps, size, generator=generator, dtype=torch.float64) * 6 - 5
    return start, torch.randn(steps, size, generator=generator, dtype=torch.float64) * 10**decades


def _difference(combination: Combination, follow: Callable[[Any, Any], Any]) -> float:
    """Return max |p_torch - p_optax| / max |p_torch - p_0| after all steps, where each goes on from its own last step."""
    start, gradients = _free_running()
    parameter = torch.nn.Parameter(start.clone())
    optimizer = CLASSES[combination.rule]([parameter], **combination.options)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    with float64():
        theirs = np.asarray(follow(jnp.asarray(start.numpy()), jnp.asarray(gradients.numpy())))
    ours = parameter.detach().numpy()
    return float(np.abs(ours - theirs).max() / np.abs(ours - start.numpy()).max())


@partial(jax.jit, static_argnums=(0, 1))
def _follow_rule(rule: Rule[Any], flags: Any, h: Any, params: Any, gradients: Any) -> Any:
    return _follow(rule.chain(flags, h), params, gradients)


def _follow(chain: optax.GradientTransformation, params: Any, gradients: Any) -> Any:
    """Return the parameters after a step for each of the gradients."""

    def step(carry: Any, gradient: Any) -> tuple[Any, None]:
        params, state = carry
        updates, state = chain.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, chain.init(params)), gradients)[0][0]


def _answer(difference: float) -> str:
    return f"{'yes' if difference < _AGREES else 'NO':3} {difference:.1e}"


def _shown(cell: Cell) -> str:
    mark = "*" if cell.out_of_range else ""
    if cell.verdict == Verdict.MISMATCH:
        return f"{cell.verdict}{mark}"
    return ("inf" if math.isinf(cell.max_eta) else f"{cell.max_eta:.2f}") + mark
