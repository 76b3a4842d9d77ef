"""A part with one case, which is good."""

from tests.gpu.part import Case, Cases, Figures
from tests.gpu.report import Column


def _one() -> Figures:
    return {"x": 1.0}


PART = Cases(title="good", columns=(Column(key="x", title="x"),), cases=lambda _: [Case("one", _one)])
