"""Makes the report of what all checks found: the verdict, what stands behind it, and what was not tested."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np
import optax

from crosscheck.checks import CHECKS
from crosscheck.checks.check import Context
from crosscheck.report import check_names
from crosscheck.report.coverage import spans
from crosscheck.report.finding import Finding
from crosscheck.report.report import Power, Report
from crosscheck.report.verdict import CheckResult, Verdict
from crosscheck.text import listed
from crosscheck.trace.format import Option

_GROUPS = 16  # whose options a report has


def conclude(context: Context, answered: Collection[str]) -> Report:
    """Return the report on a record that all checks have seen. `answered`: the checks that the record could answer."""
    judge, tally, rule = context.judge, context.judge.tally, context.rule
    batcher = judge.batcher(rule)
    findings = context.findings.in_order(judge.explain)
    power = judge.power()
    innocent = not any(finding.check == check_names.OPTIMIZER for finding in findings)
    unseen = [name for name, error in tally.smallest_rate_error.items() if 1 < error < math.inf]
    reason = _vacuous(context, batcher.used, power) if innocent else ""
    untested = context.checks_claimed | context.unclaimed
    return Report(
        verdict=Verdict.MISMATCH if findings else Verdict.VACUOUS if reason else Verdict.MATCH,
        reason=reason,
        optimizer=context.segments[0].header.optimizer,
        rule=rule.name,
        profiles=tuple(batcher.profiles),
        own=tuple(batcher.own),
        max_eta=tally.max_eta,
        worst=tally.worst,
        eta=tally.eta,
        findings=tuple(findings),
        warnings=(*(() if innocent else sorted(context.known_bugs)), *_warnings(context)),
        notes=(*context.notes, *_held_still(batcher.used)),
        not_tested=(*_not_tested(power), *_steps_not_tested(unseen)),
        checks={name: _came_to(name, answered, findings, untested) for name in _checks_of(context)},
        claims_not_tested=context.claims_not_tested,
        power=power,
        steps=context.steps,
        skipped=context.skipped,
        tensors=len(context.tensors),
        tensors_not_tested=len(unseen),
        elements=tally.elements[rule.name],
        out_of_range=tally.out_of_range,
        undetermined=tally.undetermined,
        survey=tally.eta_map.survey(),
        options=dict(_options(context)),
        versions=_versions(context),
        replayed_with={module.__name__: module.__version__ for module in (jax, optax, np)},
    )


def _options(context: Context) -> Iterator[tuple[str, dict[str, tuple[Option, Option]]]]:
    """Yield the options of each group at the first and at the last step; of a thousand groups the first few."""
    for group, (first, last) in enumerate(zip(context.first_options, context.last_options, strict=False)):
        if group < _GROUPS:
            yield f"group {group}", {name: (value, last.get(name)) for name, value in first.items()}


def _versions(context: Context) -> dict[str, str]:
    """Return with what the segments were recorded."""
    found: dict[str, dict[str, None]] = {}
    for segment in context.segments:
        for name, version in segment.header.versions.items():
            found.setdefault(name, {})[version] = None
    return {name: ", ".join(versions) for name, versions in found.items()}


def _checks_of(context: Context) -> Iterator[str]:
    """Yield the checks that can be put to the record: a run of one rank has no replicas."""
    alone = context.segments[-1].header.world_size == 1
    yield from (name for name in CHECKS if not (alone and name == check_names.REPLICAS))


def _vacuous(context: Context, used: Mapping[int, Collection[str]], power: Mapping[str, Mapping[str, Power]]) -> str:
    """Return why the record proves nothing, or nothing of some tensor or group; empty if it does."""
    tally = context.judge.tally
    if not context.steps:
        return "no step was committed to the record"
    if not tally.elements[context.rule.name]:
        return "no recorded step moved anything that could be checked"
    unseen = [name for name in sorted(context.moving) if not tally.parameters[name]]
    if unseen:
        return f"no element of {listed(unseen)} could be judged: the format cannot tell where it should be"
    moved = [group for group, names in used.items() if "lr" in names]  # a group at a rate of zero is held to not moving
    untold = [group for group in moved if "lr" not in _tested(power[f"group {group}"])]
    if untold or not moved:
        groups = " and ".join(f"group {group}" for group in untold) or "any group"
        where = "here" if len(untold) == len(moved) else "there"
        return f"not even a rate twice as large would have shown in {groups}: nothing {where} could have failed"
    return ""


def _tested(power: Mapping[str, Power]) -> list[str]:
    """Return the hyperparameters whose being off by all of themselves would have shown."""
    return [name for name, found in power.items() if found.smallest <= 1]


def _not_tested(power: Mapping[str, Mapping[str, Power]]) -> Iterator[str]:
    for where, each in power.items():
        for name in each:
            if name not in _tested(each):
                yield f"{name} of {where}" if len(power) > 1 else name


def _steps_not_tested(tensors: Sequence[str]) -> Iterator[str]:
    """Yield a line for tensors that moved, but of which no element would have shown a step twice as large."""
    if tensors:
        yield f"the step of {listed(tensors)} by itself (no element would have shown one twice as large)"


def _held_still(used: Mapping[int, Collection[str]]) -> Iterator[str]:
    """Yield a line for each group whose rate was zero at every step, if others moved."""
    still = [group for group, names in used.items() if "lr" not in names]
    if len(still) < len(used):
        yield from (f"group {group} had a rate of zero at every step, and was checked not to move" for group in still)


def _warnings(context: Context) -> Iterator[str]:
    yield from context.warnings
    for name, (_, call) in context.judge.tally.close_calls.items():
        yield f"{name} comes within a factor of two of the limit: {call}"
    missing = context.coverage.missing()
    if missing:
        yield (
            f"no segment holds {spans(missing)}: the run took them, but was killed before they were committed, or did "
            "not record; nothing is known of them"
        )


def _came_to(
    check: str, answered: Collection[str], findings: Iterable[Finding], untested: Collection[str]
) -> CheckResult:
    if any(finding.check == check for finding in findings):
        return CheckResult.MISMATCH
    if check in answered:
        return CheckResult.MATCH
    return CheckResult.NOT_TESTED if check in untested else CheckResult.NOT_RECORDED
