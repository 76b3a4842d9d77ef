"""One kind of disagreement that a replay found, and how a report puts it into words."""

import math
from dataclasses import dataclass, field

from crosscheck.report import check_names
from crosscheck.text import count, listed

UNEXPLAINED = "no mistake of the catalogue explains it"
"""What stands in the place of a cause where none is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arithmetic:
    """One element of a step, written out: numbers by the names `param`, `grad`, slots and hyperparameters, and t, the count."""

    formula: tuple[str, ...]
    """The formula, line by line, in these names; a name on the left has its new value in the lines below."""
    read: dict[str, float]
    """What goes into the formula besides what it changes: the gradient, hyperparameters, t."""
    before: dict[str, float]
    """What it changes, before the step."""
    recorded: dict[str, float]
    """After the step, as the optimizer made it."""
    expected: dict[str, float]
    """After the step, as the formula makes it in float64."""
    cause: str = ""
    """The mistake that is named first; empty where none is, or where it has no formula of its own."""
    under_cause: dict[str, float] = field(default_factory=dict[str, float])
    """After the step, as the formula with that mistake makes it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One kind of disagreement: where it showed first, its worst element there, and how far it spread."""

    step: int
    """The first step that shows it."""
    tensor: str
    """Name of the parameter tensor (or `group N` for an option of a parameter group)."""
    slot: str
    """`param`, a slot of the optimizer's state in torch's name, or an option such as `lr`."""
    index: tuple[int, ...] | None = None
    """Position of the element in the tensor; None where the finding is not about one element."""
    recorded: float | None = None
    """What the optimizer made of it."""
    expected: float | None = None
    """What the formula makes of the recorded inputs, in float64."""
    eta: float = math.inf
    """Distance in roundoffs; infinite where no rounding leads from one to the other."""
    cause: str
    """One sentence that names the slot and what is wrong with it."""
    elements: int = 1
    """Recorded elements of this slot that disagree, over all steps and tensors."""
    steps: int = 1
    """Steps at which the slot disagrees."""
    last_step: int = 0
    """The last step that shows it; by default the first."""
    tensors: tuple[str, ...] = ()
    """All tensors that show it; left out, the one of `tensor`."""
    check: str = check_names.OPTIMIZER
    """Which of `crosscheck.checks.CHECKS` found it."""
    ranks: tuple[int, ...] = ()
    """The ranks whose record shows it; empty where one rank recorded, and for what ranks differ in."""
    arithmetic: Arithmetic | None = None
    """The element's step, written out; None where the finding is not about an element that a formula makes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "last_step", self.last_step or self.step)
        object.__setattr__(self, "tensors", self.tensors or (self.tensor,))

    @property
    def place(self) -> str:
        """Return the tensor, with the position of the element if there is one."""
        return self.tensor if self.index is None else f"{self.tensor}{list(self.index)}"

    @property
    def numbers(self) -> str:
        """Return in words what was recorded and what it was held against; nothing where the finding has no such numbers."""
        if self.recorded is None or self.expected is None:
            return ""
        if self.check == check_names.REPLICAS:  # no formula says which of the ranks is right
            return f"{self.recorded:.9g} here, {self.expected:.9g} on the lowest rank"
        return f"recorded {self.recorded:.9g}, expected {self.expected:.9g}, eta {self.eta:.4g}"


def lines_of(finding: Finding) -> list[str]:
    """Return what a report for people says of a finding, line by line."""
    ranks = f" on rank{'s' * (len(finding.ranks) > 1)} {listed(list(map(str, finding.ranks)))}" if finding.ranks else ""
    lines = [f"- step {finding.step}, {finding.place}{ranks}, {finding.slot}: {finding.cause}"]
    if finding.numbers:
        lines.append(f"    {finding.numbers}")
    if finding.elements > 1 or finding.steps > 1:
        tensors = f" of {len(finding.tensors):,} tensors" if len(finding.tensors) > 1 else ""
        lines.append(
            f"    {count(finding.elements, 'element')}{tensors} at {count(finding.steps, 'step')}, {finding.step} to "
            f"{finding.last_step}"
        )
    return lines
