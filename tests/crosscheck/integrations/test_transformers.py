"""The Trainer of transformers is recorded by a callback."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from crosscheck import Claims, Report, TraceError, Verdict, replay
from crosscheck.trace.reader import open_trace

pytestmark = [
    pytest.mark.skipif(
        find_spec("transformers") is None, reason="transformers is not installed: pip install 'transformers>=5'"
    ),
    pytest.mark.filterwarnings("ignore"),  # of transformers
    pytest.mark.xdist_group("integrations"),  # one worker imports these libraries
]


def recorder_callback(trace: Path, **given: Any) -> Any:
    """Return the callback. Importing it takes seconds, so tests do when they run and not when they are collected."""
    return import_module("crosscheck.integrations.transformers").RecorderCallback(trace, **given)


class Network(torch.nn.Module):
    """A model as the Trainer wants it: it returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(8, 16), torch.nn.Linear(16, 2)

    def forward(self, x: Any, labels: Any) -> Any:
        found = self.second(torch.tanh(self.first(x)))
        return {"loss": torch.nn.functional.mse_loss(found, labels) * 30, "logits": found}


def examples() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {"x": torch.randn(8, generator=generator), "labels": torch.randn(2, generator=generator)} for _ in range(28)
    ]


def make_trainer(folder: Path, *callbacks: Any, **more: Any) -> Any:
    arguments: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 10,
        "learning_rate": 0.01,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 3,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "save_steps": 5,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    }
    transformers: Any = import_module("transformers")
    settings = transformers.TrainingArguments(str(folder / "out"), **(arguments | more))
    return transformers.Trainer(Network(), settings, train_dataset=examples(), callbacks=list(callbacks))


def train(folder: Path, callback: Any, *, resume: Any = None, **more: Any) -> None:
    make_trainer(folder, callback, **more).train(resume_from_checkpoint=resume)


def stop_once(step: int) -> Any:
    """Return a callback that raises KeyboardInterrupt after a step, as the stop button of a notebook does."""

    class Stop(import_module("transformers").TrainerCallback):
        stopped = False

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, control, kwargs
            if state.global_step == step and not self.stopped:
                self.stopped = True
                raise KeyboardInterrupt

    return Stop()


def matches(trace: Path, *, steps: int) -> Report:
    report = replay(trace)
    assert report.verdict is Verdict.MATCH, str(report)
    assert not report.claims_not_tested
    assert report.checks["clipping"] == report.checks["learning rate"] == "match"
    assert report.steps == steps
    return report


def test_accumulation_clipping_and_cosine_with_warm_up(tmp_path: Path) -> None:
    """The run is also resumed from the checkpoint in its middle: what was recorded beyond it is there twice."""
    trace = tmp_path / "trace"
    train(tmp_path, recorder_callback(trace))
    assert "fused" in str(matches(trace, steps=10))
    train(tmp_path, recorder_callback(trace), resume=str(tmp_path / "out" / "checkpoint-5"))
    matches(trace, steps=15)
    assert [segment.header.first_step for segment in open_trace(trace)] == [1, 6]


@pytest.mark.parametrize("resume", [True, None])
def test_a_training_that_is_interrupted_and_begun_again(resume: bool | None, tmp_path: Path) -> None:
    """The trainer keeps its optimizer and its Accelerator, and tells no callback that it was interrupted."""
    trace = tmp_path / "trace"
    trainer = make_trainer(tmp_path, recorder_callback(trace), stop_once(7))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train(resume_from_checkpoint=resume)
    assert "backward" not in vars(trainer.accelerator)
    again_from = 6 if resume else 1
    matches(trace, steps=7 + 10 - again_from + 1)
    assert [segment.header.first_step for segment in open_trace(trace)] == [1, again_from]


def test_another_bound_and_another_schedule_are_claimed(tmp_path: Path) -> None:
    claims = Claims(
        clip_norm=2.0, schedule={"name": "cosine", "warmup": 3, "total": 10, "start_factor": 0.1, "end_factor": 0.0}
    )
    train(tmp_path, recorder_callback(tmp_path / "trace", claims=claims))
    report = replay(tmp_path / "trace")
    assert {finding.check for finding in report.findings} == {"clipping", "learning rate"}, str(report)


def test_only_a_trainer_can_attach(tmp_path: Path) -> None:
    callback = recorder_callback(tmp_path / "trace")
    transformers: Any = import_module("transformers")
    state, control = transformers.TrainerState(), transformers.TrainerControl()
    settings = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    with pytest.raises(TraceError, match=r"for transformers.Trainer to call; give it in callbacks="):
        callback.on_train_begin(settings, state, control, lr_scheduler=None, model=Network(), optimizer=None)
