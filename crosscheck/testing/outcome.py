"""What an attempt to record and replay a situation came to."""

from crosscheck.errors import TraceError, UnsupportedOptimizer
from crosscheck.report.finding import Finding
from crosscheck.report.report import Report
from crosscheck.testing.situation import OptimizerRaised, Situation

Attempt = Report | OptimizerRaised | UnsupportedOptimizer | TraceError
"""The report; or what the optimizer raised, why the recorder refuses what it does, or why the replay does."""
Outcome = Report | OptimizerRaised | UnsupportedOptimizer | Finding
"""The same with what is wrong, where the replay refuses the situation and not the vectors."""


def findings_of(outcome: Outcome) -> tuple[Finding, ...]:
    """Return what is wrong in a situation."""
    if isinstance(outcome, Report):
        return outcome.findings
    return (outcome,) if isinstance(outcome, Finding) else ()


def outcome_of(attempt: Attempt, situation: Situation, vectors: Situation) -> Outcome:
    """Return what a situation came to, of an optimizer whose vectors can be replayed."""
    return _refused(situation, vectors, str(attempt)) if isinstance(attempt, TraceError) else attempt


def _refused(situation: Situation, vectors: Situation, why: str) -> Finding:
    """Return what the optimizer does otherwise in a situation than with the vectors. `why`: what the replay says."""
    usual = vectors.slots(next(iter(vectors.parameters)))
    stepped = {
        name: parameter
        for name, parameter in situation.parameters.items()
        if parameter.numel() and name in situation.first_gradients
    }
    changed = [name for name, parameter in stepped.items() if parameter.dtype != situation.dtypes[name]]
    if changed:
        before, after = situation.dtypes[changed[0]], stepped[changed[0]].dtype
        return _finding(situation, changed, "param", f"the optimizer made {after} of parameters of {before}")
    for slot in usual:
        without = [name for name in stepped if slot not in situation.slots(name)]
        if without:
            return _finding(situation, without, slot, f"{slot} was never written, as if the optimizer took no step")
    # The longest name is the one meant: "2-D" is part of "2-D orthogonal".
    named = max((name for name in situation.parameters if name in why), key=len, default="")
    cause = f"what the optimizer does here cannot be replayed, though its steps of vectors can: {why}"
    return _finding(situation, [named] if named else list(situation.parameters), "param", cause)


def _finding(situation: Situation, tensors: list[str], slot: str, cause: str) -> Finding:
    step = situation.first_gradients.get(tensors[0], 1)
    return Finding(step=step, tensor=tensors[0], slot=slot, cause=cause, tensors=tuple(tensors))
