"""The report of a replay: the verdict, and everything that supports it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field

from crosscheck.json_text import strict_json
from crosscheck.report import check_names
from crosscheck.report.finding import Finding, lines_of
from crosscheck.report.survey import Survey
from crosscheck.report.verdict import CheckResult, Verdict
from crosscheck.text import count, one_line
from crosscheck.tolerance import FAIL
from crosscheck.trace.format import Option

_BLAMED: Mapping[str, str] = {
    check_names.CLIPPING: "the gradient does not reach the optimizer as claimed",
    check_names.CONTINUITY: "values do not carry over from step to step",
    check_names.AVERAGE: "the moving average does not follow the parameters as claimed",
    check_names.LEARNING_RATE: "the learning rate does not follow its schedule",
    check_names.LOSS_SCALE: "the loss scale does not move as its scaler would move it",
    check_names.OPTIONS: "the parameter groups do not have the options claimed",
    check_names.GRADIENT: "the gradient of backward is not that of the recorded batch",
    check_names.REPLICAS: "the ranks are not replicas of each other",
}
"""What a headline says of a check around the optimizer that found something; others "do not" match by their name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Power:
    """The smallest relative error of a hyperparameter that would have been caught (of 1 - b for a decay b)."""

    element: float
    """By the element that shows it best."""
    aggregate: float
    """By all elements together."""

    @property
    def smallest(self) -> float:
        return min(self.element, self.aggregate)

    def __str__(self) -> str:
        return (
            f"{self.smallest:.1e}" if self.smallest < 1e-3 else f"{self.smallest:.2%}" if self.smallest <= 1 else "none"
        )


class Section:
    """Lines of a report for people that belong together, such as those of one finding."""

    def __init__(self, kind: str, *lines: str) -> None:
        self.kind = kind
        self.lines = tuple(map(one_line, lines))  # names of a trace may hold anything, line breaks too


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The result of a replay. `str(report)` is for people, `to_json()` for programs."""

    verdict: Verdict
    reason: str
    """Why the record proves nothing about the optimizer; empty if it does. Without findings the verdict is vacuous then."""
    optimizer: str
    """The class that was recorded."""
    rule: str
    """The formula with which it was compared."""
    profiles: tuple[str, ...]
    """The implementations that were recorded, such as fused on cpu; each has its own arithmetic."""
    own: tuple[str, ...]
    """The transformations of the formula that are this project's, and not Optax's."""
    max_eta: float
    """The largest distance between a recorded element and its formula, in roundoffs."""
    worst: str
    """Where that is."""
    findings: tuple[Finding, ...]
    """What is wrong, first step first; empty unless the verdict is mismatch."""
    warnings: tuple[str, ...]
    """What is worth a look without being wrong."""
    notes: tuple[str, ...]
    """What the record is: where it ends, how it was joined."""
    not_tested: tuple[str, ...]
    """Hyperparameters in use, and tensors, of which even an error of 100 % would not have shown in this record."""
    checks: dict[str, CheckResult] = field(default_factory=dict[str, CheckResult])
    """What each of `CHECKS` came to."""
    claims_not_tested: tuple[str, ...] = ()
    """Claims that this record could not have contradicted, such as a clip that never clipped, each with the reason."""
    situations: dict[str, str] = field(default_factory=dict[str, str])
    """What each situation that `check_optimizer` tries came to; empty in the report of a replay."""
    eta: dict[str, float] = field(default_factory=dict[str, float])
    """The largest eta of each slot that was compared with a formula: `param`, those of the optimizer's state, and `grad`
    and `average` where the gradient's way and the moving average were checked."""
    power: dict[str, dict[str, Power]] = field(default_factory=dict[str, dict[str, Power]])
    """By group of parameters (or check, for what is not a group's) and hyperparameter in use: what would have been caught."""
    steps: int = 0
    """Steps recorded, skipped ones included."""
    skipped: int = 0
    """Steps the loss scaler skipped."""
    ranks: int = 1
    """Ranks whose records were replayed."""
    tensors: int = 0
    tensors_not_tested: int = 0
    """Of these, how many have no element that would have shown a step twice as large; `not_tested` names them."""
    elements: int = 0
    """Elements (of parameters and slots) that were compared with the formula."""
    out_of_range: int = 0
    """Elements left out because their format cannot represent the result."""
    undetermined: int = 0
    """Elements of parameters that may be anywhere on one side, because their format may lose the divisor of their step."""
    survey: Survey | None = None
    """How eta is spread over steps, slots and tensors, in bounded space."""
    options: dict[str, dict[str, tuple[Option, Option]]] = field(
        default_factory=dict[str, dict[str, tuple[Option, Option]]]
    )
    """By group of parameters and option: its value at the first step on record and at the last. Of the first groups only."""
    versions: dict[str, str] = field(default_factory=dict[str, str])
    """The versions of what recorded the run; if it went on under other versions, all of them."""
    replayed_with: dict[str, str] = field(default_factory=dict[str, str])
    """The versions of JAX, Optax and NumPy that the formulas were computed with."""

    def to_json(self) -> str:
        """Return strict JSON, in which infinities and NaN are the strings inf, -inf and nan."""
        return strict_json(asdict(self))

    def headline(self) -> str:
        """Return the verdict in one line."""
        kind = self.optimizer.rpartition(".")[2]
        what = f"{kind} ({', '.join(self.profiles) or 'no step'})"
        on_ranks = f" on {self.ranks} ranks" if self.ranks > 1 else ""
        seen = f"{count(self.steps, 'step')}, {count(self.elements, 'element')} of {count(self.tensors, 'tensor')}{on_ranks}"
        if self.verdict is Verdict.MATCH:
            also = [
                name
                for name, result in self.checks.items()
                if result is CheckResult.MATCH and name != check_names.OPTIMIZER
            ]
            more = f"; also checked: {', '.join(also)}" if also else ""
            more += f"; {count(self.tensors_not_tested, 'tensor')} not tested" if self.tensors_not_tested else ""
            more += f"; {count(len(self.claims_not_tested), 'claim')} not tested" if self.claims_not_tested else ""
            eta = f"largest eta {self.max_eta:.2f} of {FAIL:g}"
            return f"match: {what} agrees with {self.rule} as Optax computes it; {seen}, {eta}{more}"
        if self.verdict is Verdict.VACUOUS:
            return f"vacuous: {what}; {seen}: {self.reason}"
        seen += f", {count(len(self.findings), 'finding')}"
        own = [finding for finding in self.findings if finding.check == check_names.OPTIMIZER]
        others = [finding for finding in self.findings if finding.check != check_names.OPTIMIZER]
        if own:
            too = f" (also a mismatch: {', '.join(_checks_of(others))})" if others else ""
            return f"mismatch: {what} is not {self.rule}; {seen}: {own[0].cause}{too}"
        name = self.rule if kind.lower() == self.rule else f"{kind} as {self.rule}"
        profiles = f"({', '.join(self.profiles) or 'no step'})"
        innocent = f"{name} {profiles} is not tested, {self.reason}" if self.reason else f"{name} {profiles} matches"
        first = {finding.check: finding for finding in reversed(others)}
        blamed = (f"{_BLAMED.get(check, f'{check} does not')}: {first[check].cause}" for check in _checks_of(others))
        return f"mismatch: {innocent}; {'; '.join(blamed)}; {seen}"

    def sections(self) -> Iterator[Section]:
        """Yield what the report says to people, from the headline on."""
        yield Section("headline", self.headline())
        yield from (Section("situation", line) for line in _lines_of_situations(self.situations))
        yield from (Section("finding", *lines_of(finding)) for finding in self.findings)
        yield from (Section("warning", f"warning: {line}") for line in self.warnings)
        if self.elements:
            yield Section("worst", f"worst: {self.worst}")
        for where, power in self.power.items():
            tried = ", ".join(f"{name} {found}" for name, found in power.items())
            yield Section("power", f"smallest error that would have been caught, {where}: {tried}")
        if self.not_tested:
            yield Section("not tested", f"not tested by this record: {', '.join(self.not_tested)}")
        yield from (Section("claim", f"claim not tested by this record: {line}") for line in self.claims_not_tested)
        missing = [name for name, result in self.checks.items() if result is CheckResult.NOT_RECORDED]
        if missing:
            yield Section("not recorded", f"not recorded: {', '.join(missing)}")
        if self.own:
            yield Section("own", f"own pieces in the rule, not Optax's: {', '.join(self.own)}")
        if self.out_of_range:
            beyond = count(self.out_of_range, "element")
            yield Section("out of range", f"out of range: {beyond} whose format cannot hold the result")
        if self.undetermined:
            lost = count(self.undetermined, "element")
            yield Section("undetermined", f"undetermined: {lost} whose format may lose what they are divided by")
        yield from (Section("note", f"note: {line}") for line in self.notes)

    def __str__(self) -> str:
        return "\n".join(line for section in self.sections() for line in section.lines)


def _lines_of_situations(situations: Mapping[str, str]) -> list[str]:
    """Return a line for each situation that does not match, and one for all that do."""
    matching = [name for name, came_to in situations.items() if came_to == Verdict.MATCH]
    others = [f"- {name}: {came_to}" for name, came_to in situations.items() if came_to != Verdict.MATCH]
    return [*others, f"situations that match: {', '.join(matching) or 'none'}"] if situations else []


def _checks_of(findings: Iterable[Finding]) -> list[str]:
    """Return the names of the checks that found something, first step first."""
    return list(dict.fromkeys(finding.check for finding in findings))
