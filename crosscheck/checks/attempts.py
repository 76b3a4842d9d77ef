"""What is one number an attempt: the learning rates and the loss scale of a segment, gathered and then judged."""

from collections.abc import Iterator

from crosscheck.checks.learning_rate import RateUsed, check_learning_rates
from crosscheck.checks.loss_scale import ScaleUsed, check_loss_scale
from crosscheck.report.report import Finding
from crosscheck.trace.format import Claims, Header, Option, Part


class Attempts:
    """Follows the parts of one segment."""

    def __init__(self, header: Header) -> None:
        self._header, self._claims = header, header.claims or Claims()
        self._initial: list[float] | None = None  # by group
        self._rates: list[RateUsed] = []
        self._scales: list[ScaleUsed] = []

    def add(self, part: Part, options: list[list[dict[str, Option]]]) -> None:
        """Take in a part's steps. `options`: complete, by step and group."""
        if self._initial is None:
            self._initial = self._initial_rates(part, options[0])
        for step, groups in zip(part.steps, options, strict=True):
            rates = [group.get("lr") for group in groups]
            self._rates.append(RateUsed(step.step, step.applied, tuple(map(_number, rates))))
            if step.loss_scale is not None:
                self._scales.append(ScaleUsed(step.step, step.applied, step.loss_scale))

    @property
    def judged(self) -> set[str]:
        """The checks that claims and record suffice for."""
        rates = self._claims.schedule is not None and self._initial is not None and self._rates
        scales = self._header.scaler is not None and len(self._scales) == len(self._rates) > 0
        return {check for check, possible in (("learning rate", rates), ("loss scale", scales)) if possible}

    def findings(self) -> Iterator[Finding]:
        """When the segment is over. Raises TraceError if the claimed schedule is none."""
        schedule, initial, scaler, judged = self._claims.schedule, self._initial, self._header.scaler, self.judged
        if schedule is not None and initial is not None and "learning rate" in judged:
            applied, world_size = self._claims.applied, self._header.world_size
            yield from check_learning_rates(
                schedule, initial, self._rates, applied_before=applied, world_size=world_size
            )
        if scaler is not None and "loss scale" in judged:
            yield from check_loss_scale(scaler, self._scales)

    def _initial_rates(self, part: Part, groups: list[dict[str, Option]]) -> list[float] | None:
        """As claimed for a tensor of the group, else as torch's schedulers keep it; None if nobody says."""
        claimed = {t.group: (self._claims.options or {}).get(t.name, {}).get("lr") for t in reversed(part.tensors)}
        rates = [claimed.get(number, group.get("initial_lr")) for number, group in enumerate(groups)]
        return (
            None
            if any(isinstance(r, bool) or not isinstance(r, int | float) for r in rates)
            else [*map(_number, rates)]
        )


def _number(value: Option) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
