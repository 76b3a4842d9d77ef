"""Reports on records that never were, with everything in them that a page and an XML file must bear."""

import math
from dataclasses import replace

import numpy as np

from crosscheck import Finding, Report, Verdict
from crosscheck.checks.judging.eta_map import EtaMap
from crosscheck.report.check_names import REPLICAS
from crosscheck.report.finding import Arithmetic
from crosscheck.report.report import Power
from crosscheck.report.survey import COLUMNS, TENSORS_DRAWN, TENSORS_LISTED, Survey
from crosscheck.report.verdict import CheckResult
from crosscheck.tolerance import OCTAVES

MARKUP = "<script>alert(1)</script>"
HOSTILE = (
    MARKUP,
    '" onload="alert(2)',
    "</title></style>]]>",
    "{{ 7 * 7 }}",
    "a\u202eb",
    "line\nfeed\x00\x1b[31m\x7f\ufffe",
    "caf\udce9",
)
"""Markup, attributes, templates, marks of direction, control characters, what XML cannot hold and half a surrogate pair."""
CHECKS = {
    "optimizer": CheckResult.MATCH,
    "clipping": CheckResult.NOT_RECORDED,
    "average": CheckResult.MATCH,
    "learning rate": CheckResult.NOT_TESTED,
    "options": CheckResult.MATCH,
    "continuity": CheckResult.MATCH,
}


def survey(tensors: int = 3, spans: int = 6, width: int = 1, worst: float = 0.9) -> Survey:
    """Return the survey of a record in which one tensor is worse than the others, as far as a survey goes."""
    rng = np.random.default_rng(0)
    names = [f"layer.{k}.weight" for k in range(tensors)]
    gap = (None,) if spans > 1 else ()  # the last span, in which nothing was judged
    lines = {name: (*rng.uniform(0, 0.8, spans - len(gap)).round(3).tolist(), *gap) for name in names[:TENSORS_DRAWN]}
    lines[names[0]] = (*lines[names[0]][: spans - len(gap) - 1], worst, *gap)
    counts = [1000, *[50] * (len(OCTAVES) + 1)]
    return Survey(
        first=1,
        width=width,
        slots={"param": lines[names[0]], "exp_avg": lines[names[-1 if tensors < 9 else 8]]},
        tensors=lines,
        octaves={
            "param": (*counts[:9], *[0] * 8, 0, int(math.isinf(worst))),
            "exp_avg": (*counts[:7], *[0] * 12),
        },
        largest={
            name: {"param": worst if name == names[0] else 0.8, "exp_avg": 0.5} for name in names[:TENSORS_LISTED]
        },
        num_tensors=tensors,
    )


def matching() -> Report:
    return Report(
        verdict=Verdict.MATCH,
        reason="",
        optimizer="torch.optim.adamw.AdamW",
        rule="adamw",
        profiles=("fused on cpu",),
        own=("scale_by_torch_amsgrad",),
        max_eta=0.9,
        worst="eta 0.9 at step 5, layer.0.weight[1, 2], param: recorded 1, expected 1",
        findings=(),
        warnings=(),
        notes=("between steps all of the elements were held, bit for bit",),
        not_tested=("eps",),
        checks=dict(CHECKS),
        claims_not_tested=("schedule step: the rate never changed",),
        eta={"param": 0.9, "exp_avg": 0.5},
        power={"group 0": {"lr": Power(element=1e-5, aggregate=2e-6), "eps": Power(element=math.inf, aggregate=30.0)}},
        steps=6,
        tensors=3,
        elements=1234,
        survey=survey(),
        options={"group 0": {"lr": (0.1, 0.01), "betas": ((0.9, 0.999), (0.9, 0.999)), "amsgrad": (True, True)}},
        versions={"torch": "2.14.1", "python": "3.11.7"},
        replayed_with={"jax": "0.10.2", "optax": "0.2.8"},
    )


def mismatching(eta: float = math.inf) -> Report:
    """Return the report on a record whose first tensor is wrong in one element, which `eta` tells."""
    finding = Finding(
        step=5,
        tensor="layer.0.weight",
        slot="param",
        index=(1, 2),
        recorded=math.nan if math.isinf(eta) else 1.5,
        expected=1.25,
        eta=eta,
        cause="param is not what adamw makes of the recorded inputs: weight decay is missing",
        arithmetic=Arithmetic(
            formula=("g = grad", "param = param - lr * g"),
            read={"grad": -0.5, "lr": 0.1},
            before={"param": 1.75},
            recorded={"param": math.nan if math.isinf(eta) else 1.5},
            expected={"param": 1.25},
            cause="weight decay is missing",
            under_cause={"param": 1.4999999},
        ),
    )
    elsewhere = Finding(
        step=6, tensor="group 0", slot="lr", cause="lr is that of the step before", check="learning rate"
    )
    return replace(
        matching(),
        verdict=Verdict.MISMATCH,
        max_eta=eta,
        findings=(finding, elsewhere),
        checks=CHECKS | dict.fromkeys(("optimizer", "learning rate"), CheckResult.MISMATCH),
        survey=survey(worst=eta),
    )


def parted() -> Report:
    """Return the report on two ranks that do not hold the same, which no formula tells which of them is right."""
    finding = Finding(
        step=5,
        tensor="layer.0.weight",
        slot="param",
        index=(1, 2),
        recorded=1.5599999427795410,
        expected=1.0399999618530273,
        cause="rank 1 holds another param than rank 0",
        check=REPLICAS,
    )
    return replace(matching(), verdict=Verdict.MISMATCH, findings=(finding,), ranks=2)


def vacuous() -> Report:
    """Return the report on a record without a step."""
    return replace(
        matching(),
        verdict=Verdict.VACUOUS,
        reason="no step was committed to the record",
        profiles=(),
        max_eta=0.0,
        worst="no element",
        checks=dict.fromkeys(CHECKS, CheckResult.NOT_RECORDED),
        power={},
        eta={},
        steps=0,
        tensors=0,
        elements=0,
        survey=EtaMap().survey(),
        options={},
    )


def large() -> Report:
    """Return the report on 10,000 tensors and a million steps."""
    return replace(
        mismatching(3e5), tensors=10_000, steps=10**6, survey=survey(10_000, COLUMNS, 8192, 3e5), max_eta=3e5
    )


def hostile() -> Report:
    """Return a report in which everything that a trace can name is hostile."""
    report = mismatching(100.0)
    first = replace(
        report.findings[0], tensor=MARKUP, tensors=HOSTILE, cause=HOSTILE[5], slot='"><img src=x onerror=alert(3)>'
    )
    its = report.survey
    assert its is not None
    line = next(iter(its.tensors.values()))
    return replace(
        report,
        optimizer=HOSTILE[2],
        profiles=HOSTILE,
        worst=HOSTILE[0],
        findings=(first, *(replace(report.findings[1], cause=text, tensor=text, slot=text) for text in HOSTILE)),
        warnings=HOSTILE,
        notes=HOSTILE,
        not_tested=HOSTILE,
        claims_not_tested=HOSTILE,
        checks={**report.checks, HOSTILE[0]: CheckResult.MATCH, HOSTILE[1]: CheckResult.NOT_TESTED},
        power={HOSTILE[0]: {HOSTILE[1]: Power(element=math.nan, aggregate=math.inf)}},
        survey=replace(
            its,
            slots=dict.fromkeys(HOSTILE, line),
            tensors=dict.fromkeys(HOSTILE, line),
            largest={text: dict.fromkeys(HOSTILE[:2], 0.5) for text in HOSTILE},
            octaves=dict.fromkeys(HOSTILE, its.octaves["param"]),
        ),
        options={HOSTILE[0]: {HOSTILE[1]: (1.0, math.nan)}},
        versions={HOSTILE[0]: HOSTILE[1]},
    )


ALL = {
    "match": matching,
    "mismatch": mismatching,
    "vacuous": vacuous,
    "large": large,
    "hostile": hostile,
    "one step": lambda: replace(matching(), survey=survey(spans=1, tensors=1), steps=1),
    "ranks": lambda: replace(
        mismatching(9.0), ranks=2, findings=tuple(replace(f, ranks=(1,)) for f in mismatching(9.0).findings)
    ),
    "parted": parted,
    "no survey": lambda: replace(matching(), survey=None),
}
