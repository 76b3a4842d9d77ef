"""A fit of Lightning is recorded by a callback: automatic and manual optimization, clipping, accumulation, resuming."""

from pathlib import Path
from typing import Any

import pytest
import torch

pl: Any = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed: pip install 'lightning>=2.6'")

from crosscheck import Claims, Report, TraceError, Verdict, replay  # noqa: E402
from crosscheck.integrations.lightning import RecorderCallback  # noqa: E402
from crosscheck.trace.reader import open_trace  # noqa: E402
from tests.crosscheck.recording import applied  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning: workers, loggers, and how torch loads


class Automatic(pl.LightningModule):
    """Lightning calls backward, clips, and steps the scheduler."""

    def __init__(self, scheduler: dict[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.scheduler = torch.nn.Linear(8, 2), scheduler

    def training_step(self, batch: Any, number: int) -> Any:
        del number
        return self.inner(batch[0]).square().mean() * 30

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.inner.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, **self.scheduler}}


class OwnClipping(Automatic):
    """A module that clips in its own way."""

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad.clamp_(-0.01, 0.02)


class Manual(pl.LightningModule):
    """Two optimizers that the module steps itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(8, 2), torch.nn.Linear(8, 2)
        self.automatic_optimization = False

    def training_step(self, batch: Any, number: int) -> None:
        for optimizer, inner in zip(self.optimizers(), (self.first, self.second), strict=True):
            optimizer.zero_grad()
            self.manual_backward(inner(batch[0]).square().mean())
            if inner is self.first or number % 2:
                optimizer.step()

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.AdamW(self.first.parameters(), lr=0.01),
            torch.optim.AdamW(self.second.parameters(), lr=0.02),
        ]


def fit(module: Any, folder: Path, *callbacks: RecorderCallback, epochs: int = 3, load: Any = None, **more: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.utils.data.TensorDataset(torch.randn(14, 8, generator=generator))
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[*callbacks],
        default_root_dir=folder,
        **more,
    )
    trainer.fit(module, torch.utils.data.DataLoader(inputs, batch_size=2), ckpt_path=load)
    return trainer


CLIPPED: dict[str, Any] = {"gradient_clip_val": 0.5, "accumulate_grad_batches": 2}


def matches(trace: Path, *checks: str, steps: int) -> Report:
    report = replay(trace)
    assert report.verdict is Verdict.MATCH, str(report)
    assert not report.claims_not_tested
    assert {name: report.checks[name] for name in checks} == dict.fromkeys(checks, "match")
    assert report.steps == steps
    return report


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_automatic_optimization_and_a_run_that_is_resumed(interval: str, tmp_path: Path) -> None:
    """Seven batches an epoch are four steps: Lightning steps on the last batch as well."""
    trace = tmp_path / "trace"
    trainer = fit(Automatic({"interval": interval}), tmp_path, RecorderCallback(trace), **CLIPPED)
    matches(trace, "gradient", "learning rate", steps=12)
    trainer.save_checkpoint(tmp_path / "state.ckpt")
    again = Automatic({"interval": interval})
    fit(again, tmp_path, RecorderCallback(trace), epochs=5, load=tmp_path / "state.ckpt", **CLIPPED)
    matches(trace, "gradient", "learning rate", steps=20)
    assert [segment.header.first_step for segment in open_trace(trace)] == [1, 13]


@pytest.mark.parametrize(
    ("how", "given", "claimed"),
    [
        ({"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"}, {}, (None, 0.05)),
        ({}, {}, (None, None)),
        (CLIPPED, {"clip_norm": 0.7}, (0.7, None)),
        (CLIPPED, {"claims": Claims(clip_norm=0.7)}, (0.7, None)),
    ],
    ids=["by value", "not at all", "an argument counts more", "a claim counts more"],
)
def test_which_bound_is_claimed(how: Any, given: Any, claimed: Any, tmp_path: Path) -> None:
    callback = RecorderCallback(tmp_path / "trace", **given)
    fit(Automatic({"interval": "step"}), tmp_path, callback, epochs=1, **how)
    (segment,) = open_trace(tmp_path / "trace")
    assert segment.header.claims is not None
    assert (segment.header.claims.clip_norm, segment.header.claims.clip_value) == claimed
    assert all(step.backward_norm is not None for part in segment.parts() for step in part.meta.steps)


def test_another_bound_is_claimed(tmp_path: Path) -> None:
    callback = RecorderCallback(tmp_path / "trace", clip_norm=0.7)
    fit(Automatic({"interval": "step"}), tmp_path, callback, epochs=1, **CLIPPED)
    report = replay(tmp_path / "trace")
    assert {finding.check for finding in report.findings} == {"gradient"}, str(report)


def test_a_module_that_clips_in_its_own_way_is_not_accused(tmp_path: Path) -> None:
    fit(OwnClipping({"interval": "step"}), tmp_path, RecorderCallback(tmp_path / "trace"), epochs=1, **CLIPPED)
    assert matches(tmp_path / "trace", "learning rate", steps=4).checks["gradient"] == "not recorded"


def test_manual_optimization_with_two_optimizers(tmp_path: Path) -> None:
    callbacks = [RecorderCallback(tmp_path / str(number), optimizer=number) for number in range(2)]
    fit(Manual(), tmp_path, *callbacks, epochs=2)
    matches(tmp_path / "0", steps=14)
    matches(tmp_path / "1", steps=6)


def test_an_optimizer_that_is_none(tmp_path: Path) -> None:
    callback = RecorderCallback(tmp_path / "trace", optimizer=1)
    with pytest.raises(TraceError, match=r"RecorderCallback\(optimizer=1\): accepted are 0 to 0"):
        fit(Automatic({"interval": "step"}), tmp_path, callback)


def test_what_was_recorded_before_an_error_is_kept(tmp_path: Path) -> None:
    class Failing(Automatic):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            del batch
            if batch_idx == 5:
                raise ValueError("no more data")

    with pytest.raises(ValueError, match="no more data"):
        fit(Failing({"interval": "step"}), tmp_path, RecorderCallback(tmp_path / "trace"))
    assert len(applied(tmp_path / "trace")) == 5
