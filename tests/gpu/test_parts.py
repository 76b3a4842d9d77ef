"""What the parts find: each is shown a fault here, and must say so."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from crosscheck.tolerance import FAIL
from distrib.optim.update import Update
from tests.gpu import page, profile, report
from tests.gpu.part import Case, Problem, Setting, Skipped
from tests.gpu.parts import crosscheck, exactness, marked_tests, optimizer, trainer
from tests.support import ROOT


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(device="cpu", work=tmp_path)


def the_case(cases: Sequence[Case], name: str) -> Case:
    return next(case for case in cases if case.name == name)


def test_a_wrong_update_is_a_problem(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    right = crosscheck.build_optimizer

    def off_by_a_thousandth(*arguments: Any) -> torch.optim.Optimizer:
        built = right(*arguments)

        def spoil(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.data.mul_(1.001)

        built.register_step_post_hook(spoil)
        return built

    monkeypatch.setattr(crosscheck, "build_optimizer", off_by_a_thousandth)
    measured = the_case(crosscheck.PART.cases(setting), "AdamW single float32").measure()
    assert not isinstance(measured, dict)
    with pytest.raises(Problem, match="mismatch: AdamW") as problem:
        measured.result()
    eta = problem.value.figures["param"]
    assert isinstance(eta, float)
    assert eta > FAIL


def test_an_overflow_that_does_not_come_is_a_problem(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def scale(self: Update, loss: torch.Tensor) -> torch.Tensor:
        return self.scaler.scale(loss if loss < 1000 else loss / 1e6)

    monkeypatch.setattr(Update, "scale", scale)
    measured = the_case(crosscheck.PART.cases(setting), "SGD fused fp16").measure()
    assert not isinstance(measured, dict)
    with pytest.raises(Problem, match="0 steps were skipped"):
        measured.result()


def test_a_buffer_that_a_skipped_step_leaves_is_a_problem(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: Update) -> bool:
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return False

    monkeypatch.setattr(Update, "step", step)
    with pytest.raises(Problem, match="left a momentum buffer"):
        the_case(exactness.PART.cases(setting), "overflow at step 1, fused SGD").measure()


@pytest.mark.parametrize(
    ("resumed_from", "digest", "says"),
    [("step-8", "b", "ended with other weights"), (None, "a", "was not resumed"), ("step-8", "a", "")],
)
def test_a_resumed_run_that_ends_otherwise_is_a_problem(resumed_from: str | None, digest: str, says: str) -> None:
    straight = {"steps": 40, "weights_sha256": "a"}
    resumed = {"weights_sha256": digest, "resumed_from": resumed_from, "skipped_steps": 0}
    if not says:
        assert exactness.compare(straight, resumed)["same"] is True
    else:
        with pytest.raises(Problem, match=says):
            exactness.compare(straight, resumed)


def test_a_mismatch_of_a_run_is_a_problem() -> None:
    summary: dict[str, Any] = {
        "dataset": "synthetic",
        "test_accuracy": 0.5,
        "images_per_second": 1.0,
        "peak_device_memory": None,
        "skipped_steps": 0,
        "crosscheck": {"verdict": "mismatch", "max_eta": 100.0},
    }
    with pytest.raises(Problem, match="says mismatch"):
        trainer.figures_of(summary, first_step=1.0, whole=2.0)


def test_a_size_that_does_not_fit_is_skipped_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (4 * 2**30, 80 * 2**30))
    optimizer.expect_room("cuda", 3 * 2**30)
    with pytest.raises(Skipped, match="needs 16 GiB, and 4 GiB of the GPU are free"):
        optimizer.expect_room("cuda", 16 * 2**30)


def kernel(name: str, begin: float, duration: float, category: str = "kernel") -> dict[str, Any]:
    return {"ph": "X", "cat": category, "name": name, "ts": begin, "dur": duration}


def test_a_profile_counts_kernels_gaps_and_waits() -> None:
    events = [
        kernel("void conv<float, 3>(int)", 0, 30),
        kernel("void conv<float, 3>(int)", 20, 20),  # on another stream, at the same time
        kernel("Memcpy DtoH", 60, 10, "gpu_memcpy"),
        kernel("sgd", 90, 10),
        kernel("cudaStreamSynchronize", 0, 5, "cuda_runtime"),
        kernel("cudaEventSynchronize", 50, 5, "cuda_runtime"),
        kernel("cudaLaunchKernel", 10, 5, "cuda_runtime"),
        kernel("aten::conv2d", 0, 50, "cpu_op"),
        {"ph": "i", "name": "no duration", "ts": 0},
    ]
    seen = profile.summarize(events, steps=2)
    assert seen is not None
    assert (seen.kernels, seen.waits) == (2.0, 1.0)
    assert seen.busy == pytest.approx(0.6), "40 + 10 + 10 of 100 microseconds"
    assert seen.largest == "conv 71%; Memcpy DtoH 14%; sgd 14%"


def test_a_profile_without_a_device_says_nothing() -> None:
    assert profile.summarize([kernel("aten::conv2d", 0, 50, "cpu_op")], steps=1) is None


def test_all_tests_that_need_a_gpu_are_run_by_the_kit() -> None:
    marked = {path for path in (ROOT / "tests").rglob("*.py") if re.search(r"mark\.gpu\b", path.read_text())}
    here = {Path(__file__), Path(__file__).parent / "planted" / "some_tests.py"}
    assert marked - here == set(marked_tests.files())


def test_the_page_is_what_its_command_writes() -> None:
    assert page.PAGE.read_text() == page.text(report.read(page.KEPT)), "python -m tests.gpu.page"


def test_the_page_shows_what_a_report_holds() -> None:
    part = report.Part(
        title="facts", columns=[report.Column(key="rate", title="measured", form=",.0f")], planned=["large copy", "GPU"],
        rows={"large copy": report.Row(figures={"rate": 3012.4})}, state="cut off", why="its time was over after 25 s",
    )  # fmt: skip
    kept = report.Report(
        device="NVIDIA H100", versions={"torch": "2.11.0"}, started="2026-01-01", parts={"facts": part}
    )
    text = page.text(kept)
    assert "one NVIDIA H100 (torch 2.11.0; started 2026-01-01)" in text
    assert "Cut off, 1 of 2 cases in 0 s: its time was over after 25 s." in text
    assert "| large copy | 3,012 |  |" in text
    assert "| GPU |  | not yet run |" in text
    assert "| quickstart |" in text, "and what no report holds"
    assert "Nobody has run it" not in text


def test_the_page_says_in_short_what_the_report_holds() -> None:
    rows = {name: report.Row(figures={"verdict": name}) for name in ("match", "mismatch")}
    kept = report.Report(device="NVIDIA H100", parts={"cross-check": report.Part(title="checks", rows=rows)})
    text = page.text(kept)
    assert "- 1 of 2 combinations of optimizer, implementation and number format match Optax." in text
    assert "training loop takes" not in text, "it was not measured"


def test_a_case_that_came_after_the_report_is_not_yet_run() -> None:
    rows = {"quickstart": report.Row(figures={"accuracy": 0.5})}
    columns = [report.Column(key="accuracy", title="test accuracy", form=".0%")]
    part = report.Part(title="runs", columns=columns, planned=["quickstart"], rows=rows, state="done")
    text = page.text(report.Report(device="NVIDIA H100", parts={"trainer": part}))
    assert "Done, 1 of 1 cases" in text
    assert "| quickstart | 50% |  |" in text
    assert "| resnet18, bf16 |  | not yet run |" in text
