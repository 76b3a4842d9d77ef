"""`check_optimizer` tries an optimizer in many small situations, and replays each of its steps through Optax."""

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
from crosscheck.testing.situations import SITUATIONS, AllAtOnce, Make, Situation, Vectors

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
    situations: Iterable[str] = tuple(SITUATIONS),
    seed: int = 0,
) -> Report:
    """Let `make(parameters)` take a few steps on made-up gradients, in many situations, and replay them through Optax.

        check_optimizer(lambda params: torch.optim.Adam(params, lr=1e-3, amsgrad=True))

    One optimizer has all of it at once: vectors, one for each regime of gradients; parameters of every shape (0-D to 4-D,
    channels-last, empty), of two dtypes, in two groups with different options; gradients that are zero, absent or late; a
    learning rate that changes; a state that is loaded. If this does not match, each situation is tried with an optimizer
    of its own, to find which of them fail. If an optimizer raises an exception in one of them, it cannot be checked
    there, and the report says that this situation was not tried.

    Args:
        make: Builds the optimizer under test from a list of parameters. It is called several times.
        steps: Steps to take in each.
        size: Elements of each vector.
        dtype: The dtype of the parameters. Several dtypes, or `all`, are tried one after the other.
        rule: The torch optimizer whose formula is claimed; `auto` goes by the class.
        slots: The rule's names of state -> this optimizer's, where they differ.
        regimes: Kinds of gradients of the vectors, see `gradient`.
        situations: The situations to try beside the vectors; by default all of `crosscheck.testing.SITUATIONS`.
        seed: The seed from which parameters and gradients are drawn.

    Returns the report, whose verdict is match; its `situations` has the result of each.

    Raises:
        MathMismatch: The update differs from the formula (or nothing moved); the message has the report, which says in
            which situations, dtypes, shapes and groups.
        UnsupportedOptimizer: There is no rule for it, or it does not keep the state that the rule needs.
        ValueError: There is no such situation, regime or dtype, or `slots` gives one name to two slots.
    """
    __tracebackhide__ = True  # pytest then shows the line of the test, and the report
    kinds = _known(situations)
    recording: dict[str, Any] = {**_ALL, "rule": rule, "slots": slots, "seed": seed}
    regimes = _known_regimes(regimes)
    answers: list[Answer] = []
    for of in _dtypes(dtype):

        def each(of: torch.dtype = of) -> dict[str, Situation]:
            vectors = Vectors(of, steps=steps, seed=seed, size=size, regimes=regimes)
            return {"vectors": vectors, **{name: kind(of, steps=steps, seed=seed) for name, kind in kinds.items()}}

        label = str(of).removeprefix("torch.")
        answers += (Answer(f"{name} in {label}", *answer) for name, answer in _tried(make, each, recording).items())
    report = merged_answers(answers)
    if report.verdict is not Verdict.MATCH:
        raise MathMismatch(str(report), report)
    return report


def observe(
    make: Make,
    *,
    steps: int,
    size: int,
    dtype: torch.dtype,
    regimes: Iterable[str],
    seed: int = 0,
    **recording: Any,
) -> Report:
    """Record `steps` steps of vectors with made-up gradients and replay them."""
    vectors = Vectors(dtype, steps=steps, seed=seed, size=size, regimes=regimes)
    return _observe(make, vectors, {**_ALL, "seed": seed, **recording})


def _observe(make: Make, situation: Situation, recording: Mapping[str, Any]) -> Report:
    with tempfile.TemporaryDirectory(prefix="crosscheck-") as trace:
        situation.record(make, Path(trace), **recording)
        try:
            return replay(trace)
        except TraceError as error:  # of a trace that is whole: what is wrong is what the optimizer keeps
            raise UnsupportedOptimizer(str(error.__cause__ or error)) from None


def _tried(
    make: Make, situations: Callable[[], Mapping[str, Situation]], recording: Mapping[str, Any]
) -> dict[str, tuple[Situation, Report | str]]:
    """Try situations all at once; if that does not match, each by itself, which tells where the fault is.

    What the first of them raises is raised.
    """
    together, first = situations(), next(iter(situations()))
    if len(together) > 1:
        report = _attempt(make, AllAtOnce(together), recording)
        if isinstance(report, Report) and report.verdict is Verdict.MATCH:
            return {name: (situation, report) for name, situation in together.items()}
    return {
        name: (situation, (_observe if name == first else _attempt)(make, situation, recording))
        for name, situation in situations().items()
    }


def _attempt(make: Make, situation: Situation, recording: Mapping[str, Any]) -> Report | str:
    """Return the report of a situation, or what was raised in it."""
    try:
        return _observe(make, situation, recording)
    except Exception as error:
        first_line, _, _ = str(error).partition("\n")
        return f"{type(error).__name__}: {first_line[:200]}"


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
