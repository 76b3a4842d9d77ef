"""`python -m tests.gpu.page` writes docs/gpu.md from docs/gpu-report.json, a report.json of the kit.

What no report holds stands on the page as not yet run.
"""

from pathlib import Path

from tests.gpu import kit, report
from tests.gpu.in_short import in_short
from tests.gpu.part import Setting, load
from tests.gpu.report import Part, Report
from tests.support import ROOT

KEPT = ROOT / "docs" / "gpu-report.json"
PAGE = ROOT / "docs" / "gpu.md"

_HEAD = """\
# On a GPU

{standing}

    make gpu                                      # sets up .venv; writes runs/gpu/report.md, report.json and log.txt
    python -m tests.gpu --out DIR --minutes 9     # under any Python that has what it needs, without a network
    python -m tests.gpu --out DIR --device cpu    # a rehearsal: every part in small, nothing worth keeping

The kit needs one GPU and takes nine minutes at most. Its parts run in processes of their own, the most important first. The report
is written after every case, so a kit that is cut off loses one case, and the same command goes on from there. `--parts trainer,loop` takes
some parts only, and `--again` measures them once more. `TWINSTEP_IMAGES` names a folder of real images (`train/<class>/`,
`test/<class>/`); without it the trainer draws its own. If the interpreter lacks a package, the kit says so before anything runs, with the
commands that bring it as wheels.

To keep a report: copy its `report.json` into `docs/` as `gpu-report.json` and call `python -m tests.gpu.page`, which writes this page.
"""
_NO_REPORT = """\
What this project does on a GPU is measured by one command, the GPU kit. **Nobody has run it on a GPU yet**: this page lists
every figure it will hold, each as "not yet run"."""
_FROM_REPORT = """\
These are measurements on one {device} ({versions}; started {started}), made by one command, the GPU kit. In short:

{in_short}

What stands as not yet run is still unknown, and so is everything with several GPUs. Of the formats, `no` is float32 throughout, `fp16`
and `bf16` compute in half precision with parameters in float32, and `bfloat16` has its parameters in bfloat16 too. A part says when it
last ran; a case that it had already measured was not measured again. Etas of 2026-11-26 are measured by an older bound, in which the
learning rate did not count among the inputs: by [the one of today](criterion.md#one-element) they can only be smaller."""
_NOT_SHOWN = ("largest",)
"""Columns that stay in the report: names of kernels are long, and say little."""


def plans() -> dict[str, Part]:
    """Each part of the kit as it would run on a GPU, with nothing measured."""
    setting = Setting(device="cuda", work=Path())
    parts = {name: load(slot.module) for name, slot in kit.PARTS.items()}
    return {
        name: Part(title=part.title, columns=list(part.columns), planned=list(part.plan(setting)))
        for name, part in parts.items()
    }


def text(kept: Report | None) -> str:
    """The page."""
    standing = _NO_REPORT
    if kept is not None:
        versions = ", ".join(f"{name} {version}" for name, version in kept.versions.items())
        standing = _FROM_REPORT.format(
            device=kept.device,
            versions=versions,
            started=kept.started,
            in_short="\n".join(f"- {sentence}" for sentence in in_short(kept.parts)),
        )
    lines = [_HEAD.format(standing=standing)]
    measured = {} if kept is None else kept.parts
    for name, plan in plans().items():
        part = measured.get(name, plan)
        shown = plan
        if part.rows:
            columns = [column for column in part.columns if column.key not in _NOT_SHOWN]
            planned = list(dict.fromkeys([*part.planned, *plan.planned]))  # cases that came later are not yet run
            shown = part.model_copy(update={"columns": columns, "planned": planned})
        title = f"{shown.title[0].upper()}{shown.title[1:]}"
        how_far = f" {report.state(part)}." if part.rows else ""
        lines += [f"## {title}", "", f"Part `{name}` of the kit.{how_far}", "", *report.table(shown), ""]
    return "\n".join(lines)


def main() -> None:
    PAGE.write_text(text(report.read(KEPT)), encoding="utf-8")


if __name__ == "__main__":
    main()
