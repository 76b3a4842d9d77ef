"""`check_optimizer` tries an optimizer in many small situations, and replays each of its steps through Optax."""

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from crosscheck.errors import MathMismatch, TraceError, UnsupportedOptimizer
from crosscheck.recorder.optimizer.tensors import DTYPES
from crosscheck.replayer import replay
from crosscheck.report.report import Report
from crosscheck.report.verdict import Verdict
from crosscheck.testing.answers import Answer, merged_answers
from crosscheck.testing.gradients import REGIMES
from crosscheck.testing.outcome import Attempt, Outcome, findings_of, outcome_of
from crosscheck.testing.situation import Make, OptimizerRaised, Situation
from crosscheck.testing.situations import SITUATIONS, AllAtOnce, Vectors

_ALL = {"steps": "all", "coordinates": 1}  # every element is recorded in full blocks; one would do for the sampled ones


def check_optimizer(
    make: Make,
    *,
    steps: int = 8,
    size: int = 512,
    dtype: torch.dtype | Iterable[torch.dtype] | Literal["all"] = torch.float32,
    rule: str = "auto",
    slots: Mapping[str, str] | None = None,
    regimes: Iterable[str] = ("typical", "tiny"),
    situations: Iterable[str] | None = None,
    seed: int = 0,
) -> Report:
    """Let `make(parameters)` take a few steps on made-up gradients, in many situations, and replay them through Optax.

        check_optimizer(lambda params: torch.optim.Adam(params, lr=1e-3, amsgrad=True))

    One optimizer has all of it at once: vectors, one for each regime of gradients; parameters of every shape (0-D to 4-D,
    channels-last, empty), of two dtypes, in two groups with different options; gradients that are zero, absent or late, or
    written into the tensor of the step before; a learning rate that changes; a state that is loaded. If this does not match,
    each situation is tried with an optimizer of its own, to find which of them fail. If an optimizer raises an exception in
    one of them, it cannot be checked there, and the report says that this situation was not tried. The verdict is then
    vacuous if the situation was asked for by its name, or if it is the recorder that refuses it. It is a mismatch if the
    optimizer keeps the state that the rule needs for the vectors, and not in another situation.

    Args:
        make: Builds the optimizer under test from a list of parameters. It is called several times.
        steps: Steps to take in each.
        size: Elements of each vector.
        dtype: The dtype of the parameters. Several dtypes, or `all`, are tried one after the other.
        rule: The torch optimizer whose formula is claimed; `auto` goes by the class.
        slots: The rule's names of state -> this optimizer's, where they differ.
        regimes: Kinds of gradients of the vectors, see `gradient`.
        situations: The situations to try beside the vectors, each of which must match; left out, all of
            `crosscheck.testing.SITUATIONS`.
        seed: The seed from which parameters and gradients are drawn.

    Returns the report, whose verdict is match; its `situations` has the result of each.

    Raises:
        MathMismatch: The update differs from the formula (or nothing moved); the message has the report, which says in
            which situations, dtypes, shapes and groups.
        UnsupportedOptimizer: There is no rule for it, or it does not keep the state that the rule needs.
        ValueError: There is no such situation, regime or dtype, or `slots` gives one name to two slots; or the optimizer
            does not hold every parameter that `make` was given.
    """
    __tracebackhide__ = True  # pytest then shows the line of the test, and the report
    kinds = SITUATIONS if situations is None else _known(situations)
    recording: dict[str, Any] = {**_ALL, "rule": rule, "slots": slots, "seed": seed}
    regimes = _known_regimes(regimes)
    answers: list[Answer] = []
    for of in _dtypes(dtype):

        def build(of: torch.dtype = of) -> dict[str, Situation]:
            vectors = Vectors(of, steps=steps, seed=seed, size=size, regimes=regimes)
            return {"vectors": vectors, **{name: kind(of, steps=steps, seed=seed) for name, kind in kinds.items()}}

        label = str(of).removeprefix("torch.")
        answers += (
            Answer(f"{name} in {label}", *answer, requested=situations is not None)
            for name, answer in _tried(make, build, recording).items()
        )
    report = merged_answers(answers)
    if report.verdict is not Verdict.MATCH:
        raise MathMismatch(str(report), report)
    return report


def observe(make: Make, dtype: torch.dtype) -> Report:
    """Record six steps of a vector for each regime of gradients, and replay them."""
    vectors = Vectors(dtype, steps=6, seed=0, size=1024, regimes=REGIMES)
    return _expect_report(_attempt(make, vectors, {**_ALL, "seed": 0}))


def _attempt(make: Make, situation: Situation, recording: Mapping[str, Any]) -> Attempt:
    """Record a situation, and replay it. Errors of the cross-check itself, or of the disk, are raised."""
    try:
        with tempfile.TemporaryDirectory(prefix="crosscheck-") as trace:
            situation.record(make, Path(trace), **recording)
            try:
                return replay(trace)
            except TraceError as error:  # of a trace that is whole: what is wrong is what the optimizer keeps
                # The message may name a file that nobody can look at any more.
                return TraceError(re.sub(rf"{re.escape(trace)}\S*:\s*", "", str(error)))
    except (OptimizerRaised, UnsupportedOptimizer) as error:
        return error


def _expect_report(attempt: Attempt) -> Report:
    """Return the report of vectors.

    Raises what the optimizer raised, or UnsupportedOptimizer if they cannot be recorded or replayed.
    """
    if isinstance(attempt, OptimizerRaised):
        raise attempt.error from attempt.error.__cause__
    if isinstance(attempt, TraceError):
        raise UnsupportedOptimizer(str(attempt))
    if isinstance(attempt, UnsupportedOptimizer):
        raise attempt
    return attempt


def _tried(
    make: Make, build: Callable[[], dict[str, Situation]], recording: Mapping[str, Any]
) -> dict[str, tuple[Situation, Outcome]]:
    """Try situations all at once; if that does not match, each by itself, which tells where the fault is.

    What the optimizer raises with the vectors is raised. A mismatch of all at once that none shows by itself is told as well.
    """
    situations, at_once = build(), dict[str, tuple[Situation, Outcome]]()
    if len(situations) > 1:
        together = AllAtOnce(situations)
        attempt = _attempt(make, together, recording)
        if isinstance(attempt, Report) and attempt.verdict is Verdict.MATCH:
            return {name: (situation, attempt) for name, situation in situations.items()}
        at_once["all at once"] = together, outcome_of(attempt, together, together)
        situations = build()  # of parameters that have not been stepped
    vectors = situations.pop("vectors")
    found: dict[str, tuple[Situation, Outcome]] = {
        "vectors": (vectors, _expect_report(_attempt(make, vectors, recording)))
    }
    for name, situation in situations.items():
        found[name] = situation, outcome_of(_attempt(make, situation, recording), situation, vectors)
    wrong_by_itself = any(findings_of(outcome) for _, outcome in found.values())
    wrong_together = any(findings_of(outcome) for _, outcome in at_once.values())
    return {**found, **at_once} if wrong_together and not wrong_by_itself else found


def _known(situations: Iterable[str]) -> dict[str, type[Situation]]:
    names = list(situations)
    for name in names:
        if name not in SITUATIONS:
            raise ValueError(f"situations: there is no {name!r}; accepted are {', '.join(SITUATIONS)}")
    return {name: SITUATIONS[name] for name in names}


def _known_regimes(regimes: Iterable[str]) -> tuple[str, ...]:
    names = () if isinstance(regimes, str) else tuple(regimes)
    if not names or not set(names) <= set(REGIMES):
        raise ValueError(f"regimes={names or regimes!r}: accepted are lists of one or more of {', '.join(REGIMES)}")
    return names


def _dtypes(dtype: torch.dtype | Iterable[torch.dtype] | Literal["all"]) -> list[torch.dtype]:
    if isinstance(dtype, torch.dtype):
        dtype = [dtype]
    if dtype == "all":
        return list(DTYPES)
    dtypes = [] if isinstance(dtype, str) else list(dtype)
    if not dtypes or not set(dtypes) <= set(DTYPES):
        raise ValueError(
            f"dtype={dtypes or dtype!r}: accepted are 'all' and dtypes of torch: {', '.join(DTYPES.values())}"
        )
    return dtypes
