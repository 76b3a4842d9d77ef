"""Tests what `checkpoint.resume` means, and which runs may continue one another."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from distrib.checkpoint import resume, state, store
from distrib.checkpoint.config import CheckpointConfig
from distrib.checkpoint.progress import Progress
from distrib.checkpoint.resume import Expected, Resumed
from distrib.checkpoint.values import Identity, Inference
from distrib.display import Display
from distrib.errors import BadInput
from distrib.optim.optimizer import SGD, build_optimizer
from distrib.optim.update import Update

IDENTITY = Identity(
    dataset="a" * 64,
    num_images=1000,
    batch_size=128,
    last_batch="drop",
    seed=7,
    world_size=1,
    threads=1,
    torch="2.14.1",
    hardware="GenuineIntel AVX512",
    precision="no",
)
INFERENCE = Inference(classes=["a", "b"], mean=[0.5] * 3, std=[0.25] * 3, image_size=32)
STEPS_PER_EPOCH, TOTAL_STEPS = 4, 12
KEYS: dict[str, Any] = {
    "training.epochs": 3,
    "optimizer.lr": 0.5,
    "optimizer.momentum": 0.9,
    "training.threads": 1,
    "data.augment": True,
    "data.root": "/a",
    "checkpoint.keep": 3,
    "output.dir": "a",
    "output.trackers": [],
    "crosscheck.record": False,
    "crosscheck.steps": "sampled",
    "crosscheck.replay": True,
}


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True, mixed_precision="no")


class Trainer:
    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.net = nn.Linear(2, 2)
        optimizer = build_optimizer(SGD(momentum=0.9), self.net.named_parameters(), torch.device("cpu"))
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.update = Update(self.net, optimizer, lambda _: 1.0, scaler)

    def save(self, folder: Path, step: int, epoch_loss: float = 0.0, **others: Any) -> Path:
        """One more update, and a checkpoint that says it is of this step; `others` replace what it says."""
        self.net(torch.ones(1, 2)).sum().backward()
        self.update.step()
        tensors, values = state.capture(self.update)
        values["skipped_steps"] = step - values["applied_updates"]
        values |= resume.metadata(KEYS, IDENTITY, INFERENCE, Progress(epoch_loss, 2 * epoch_loss)) | others
        folder.mkdir(exist_ok=True)
        return store.save(folder / "checkpoints", step, tensors, values, keep=9)


class Caller:
    """Continues a fresh network, and keeps it for a look."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.fresh = Trainer(seed=1)

    def __call__(
        self,
        folder: Path,
        wish: str | Path = "auto",
        *,
        keys: dict[str, Any] | None = None,
        defaults: dict[str, Any] | None = None,
        best: bool = False,
        **identity: Any,
    ) -> Resumed:
        """`keys` are those that somebody has set since, and `defaults` those that nobody has."""
        return resume.continue_from(
            CheckpointConfig(resume=str(wish), best=best),
            folder,
            Expected(
                keys=KEYS | (keys or {}) | (defaults or {}),
                non_default={*KEYS, *(keys or ())},
                identity=IDENTITY.model_copy(update=identity),
                total_steps=TOTAL_STEPS,
                enough=lambda progress: "no gain" if progress.epochs_without_gain >= 2 else None,
            ),
            self.accelerator,
            Display(main=True, quiet=True),
            self.fresh.update,
        )


@pytest.fixture
def go(accelerator: Accelerator) -> Caller:
    return Caller(accelerator)


def refusal(go: Caller, folder: Path, wish: str | Path = "auto", **identity: Any) -> str:
    with pytest.raises(BadInput) as caught:
        go(folder, wish, **identity)
    return str(caught.value)


@pytest.mark.parametrize("wish", ["auto", "never"])
def test_fresh_folder_starts_at_the_beginning(
    go: Caller, wish: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = go.fresh.net.weight.clone()
    assert go(tmp_path, wish) == Resumed(step=0, path=None, progress=Progress(0.0, None))
    assert torch.equal(go.fresh.net.weight, before)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("step", [6, 8], ids=["in an epoch", "at its end"])
@pytest.mark.parametrize("pending", [True, False])
@pytest.mark.parametrize("epoch_loss", [0.0, 6.0])
def test_a_checkpoint_says_whether_an_evaluation_is_pending(
    go: Caller, step: int, pending: bool, epoch_loss: float, tmp_path: Path
) -> None:
    Trainer().save(tmp_path, step, epoch_loss, evaluation_pending=pending)
    assert go(tmp_path).progress == Progress(epoch_loss, 2 * epoch_loss, pending)


def test_the_end_of_an_epoch_asks_for_its_evaluation() -> None:
    progress = Progress(epoch_loss=6.0, train_loss=9.0)
    progress.end_epoch(batches=4)
    assert progress == Progress(0.0, 1.5, evaluation_pending=True)


def test_auto_takes_the_newest(go: Caller, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer()
    for step in (8, 9, 10):
        newest = trainer.save(tmp_path, step, epoch_loss=step / 4)
    assert go(tmp_path) == Resumed(10, newest, Progress(2.5, 5.0))
    assert torch.equal(go.fresh.net.weight, trainer.net.weight)
    assert go.fresh.update.applied == 3
    assert capsys.readouterr().out == f"continuing from {newest}\n"


def test_auto_falls_back_and_says_why(go: Caller, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer()
    older, newer = trainer.save(tmp_path, 1), trainer.save(tmp_path, 2)
    (newer / "model.safetensors").unlink()
    assert go(tmp_path).path == older
    said = capsys.readouterr().out
    for word in (str(newer), "skipped", "model.safetensors", f"continuing from {older}"):
        assert word in said


def test_auto_with_nothing_valid_starts_anew_and_says_so(
    go: Caller, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (Trainer().save(tmp_path, 1) / "manifest.json").unlink()
    assert go(tmp_path) == Resumed()
    assert "skipped" in capsys.readouterr().out


def test_never_refuses_a_folder_with_checkpoints(tmp_path: Path) -> None:
    Trainer().save(tmp_path, 1)
    with pytest.raises(BadInput) as caught:
        resume.refuse_leftovers(CheckpointConfig(resume="never"), tmp_path)
    for word in ("checkpoint.resume = never", str(tmp_path), "output.dir", "--checkpoint.resume auto"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "name", ["config.toml", "index.html", "summary.json", "metrics.jsonl", "page/facts.json", "trace"]
)
def test_files_of_others_with_the_names_of_a_runs_are_not_overwritten(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(BadInput, match=rf"output\.dir = {tmp_path} is not .*\({name}\): choose another folder"):
        resume.refuse_files_of_others(tmp_path)
    (tmp_path / "status.json").write_text('{"all": "green"}')
    with pytest.raises(BadInput, match=r"status\.json"):
        resume.refuse_files_of_others(tmp_path)


def test_the_folder_of_a_run_holds_nothing_of_others(tmp_path: Path) -> None:
    """It may be new, hold a status or a damaged one, or be one that checkpoints were copied to."""
    new, run, torn, copied, other = (tmp_path / name for name in ("new", "run", "torn", "copied", "other"))
    for folder in (run, torn, other):
        folder.mkdir()
    (other / "notes.txt").touch()
    for name in ("checkpoints/lost+found", "trace"):
        (other / name).mkdir(parents=True)
    (run / "status.json").write_text('{"state": "failed", "exit_code": 1}')
    (torn / "status.json").touch()
    Trainer().save(copied, 1)
    for folder in (run, torn, copied):
        (folder / "metrics.jsonl").touch()
    for folder in (new, run, torn, copied, other):
        resume.refuse_files_of_others(folder)


@pytest.mark.parametrize("wish", ["auto", "never"])
def test_results_whose_checkpoints_are_gone_are_not_overwritten(wish: str, tmp_path: Path) -> None:
    (tmp_path / "summary.json").touch()
    with pytest.raises(BadInput, match=r"summary\.json\) and no checkpoint.*--checkpoint\.resume PATH.*move summary"):
        resume.refuse_leftovers(CheckpointConfig(resume=wish), tmp_path)
    resume.refuse_leftovers(CheckpointConfig(resume=str(Trainer().save(tmp_path / "elsewhere", 1))), tmp_path)


def test_results_whose_checkpoints_are_damaged_are_not_overwritten(go: Caller, tmp_path: Path) -> None:
    (Trainer().save(tmp_path, 1) / "manifest.json").unlink()
    (tmp_path / "summary.json").touch()
    with pytest.raises(BadInput, match=r"summary\.json\) and no valid checkpoint"):
        go(tmp_path)


@pytest.mark.parametrize("wish", ["auto", "never", "some/path"])
def test_folder_without_checkpoints_is_refused_to_nobody(wish: str, tmp_path: Path) -> None:
    resume.refuse_leftovers(CheckpointConfig(resume=wish), tmp_path)


def test_auto_and_the_newest_path_take_a_folder_with_checkpoints(tmp_path: Path) -> None:
    newest = Trainer().save(tmp_path, 1)
    for wish in ("auto", str(newest)):
        resume.refuse_leftovers(CheckpointConfig(resume=wish), tmp_path)


def test_going_back_needs_a_folder_of_its_own(tmp_path: Path) -> None:
    """Else `auto` would later take up the steps that were left behind."""
    older = Trainer().save(tmp_path, 1)
    Trainer().save(tmp_path, 2)
    with pytest.raises(BadInput, match=r"checkpoint\.resume.*step-00000002.*output\.dir"):
        resume.refuse_leftovers(CheckpointConfig(resume=str(older)), tmp_path)
    resume.refuse_leftovers(CheckpointConfig(resume=str(older)), tmp_path / "elsewhere")


def test_the_same_path_continues_a_run_that_went_on_from_it(
    go: Caller, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job that was stopped is started again so, with the same command."""
    trainer = Trainer()
    path, here = trainer.save(tmp_path / "elsewhere", 3), tmp_path / "here"
    given = {"checkpoint.resume": str(path)}
    newest = [trainer.save(here, step, config=KEYS | given) for step in (4, 5)][-1]
    resume.refuse_leftovers(CheckpointConfig(resume=str(path)), here)
    assert go(here, path).path == newest
    assert f"went on from {path}" in capsys.readouterr().out
    other = trainer.save(tmp_path / "elsewhere", 4)
    with pytest.raises(BadInput, match=r"step-00000005, which no run .*--checkpoint\.resume auto"):
        resume.refuse_leftovers(CheckpointConfig(resume=str(other)), here)


@pytest.mark.parametrize("where", ["in its folder", "in a folder of its own"])
@pytest.mark.parametrize("best_step", [4, 8])
def test_a_best_checkpoint_that_the_folder_does_not_hold_is_not_the_best(
    go: Caller, best_step: int, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as one that was dropped before checkpoint.best was set, or one that stayed where the run came from."""
    path = Trainer().save(tmp_path / "there", 8, best_accuracy=0.5, best_step=best_step, epochs_without_gain=1)
    there = where == "in its folder"
    resumed = go(tmp_path / ("there" if there else "here"), path, best=True)
    if there and best_step == 8:
        assert resumed.progress == Progress(0.0, 0.0, best_accuracy=0.5, best_step=8, epochs_without_gain=1)
    else:
        assert resumed.progress == Progress(0.0, 0.0)
        assert f"step-0000000{best_step}, which is not there" in capsys.readouterr().out


@pytest.mark.parametrize("step", [STEPS_PER_EPOCH, TOTAL_STEPS])
def test_a_complete_run_keeps_what_it_says_of_its_best_step(go: Caller, step: int, tmp_path: Path) -> None:
    said = {"best_accuracy": 0.5, "best_step": 1, "epochs_without_gain": 2}
    Trainer().save(tmp_path / "complete", step, **said)
    assert go(tmp_path / "complete", best=True).progress.best_step == 1
    Trainer().save(tmp_path / "pending", step, evaluation_pending=True, **said)
    assert go(tmp_path / "pending", best=True).progress.best_step is None


def test_path_wins_over_newer_ones_and_other_folders(go: Caller, tmp_path: Path) -> None:
    trainer = Trainer()
    wanted = trainer.save(tmp_path / "elsewhere", 3)
    weight = trainer.net.weight.clone()
    trainer.save(tmp_path / "elsewhere", 4)
    trainer.save(tmp_path / "here", 5)
    assert go(tmp_path / "here", wanted) == Resumed(3, wanted, Progress(0.0, 0.0))
    assert torch.equal(go.fresh.net.weight, weight)


@pytest.mark.parametrize("bad", ["absent", "empty", "damaged"])
def test_path_that_is_no_checkpoint_is_refused(go: Caller, bad: str, tmp_path: Path) -> None:
    """It is refused also when there is another one to fall back on: this one was asked for."""
    Trainer().save(tmp_path, 1)
    path = tmp_path / bad
    if bad == "empty":
        path.mkdir()
    if bad == "damaged":
        shutil.copytree(tmp_path / "checkpoints" / "step-00000001", path)
        (path / "optimizer.safetensors").write_bytes(b"")
    said = refusal(go, tmp_path, path)
    for word in (
        f"checkpoint.resume = {path}",
        "optimizer.safetensors" if bad == "damaged" else "manifest.json",
        "auto",
    ):
        assert word in said


@pytest.mark.parametrize(
    ("other", "key", "shown"),
    [
        ({"batch_size": 64}, "training.batch_size", "128 then, 64 now"),
        ({"seed": 8}, "training.seed", "7 then, 8 now"),
        ({"last_batch": "mask"}, "training.last_batch", "drop then, mask now"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]
)
def test_another_run_is_refused(go: Caller, other: dict[str, Any], key: str, shown: str, tmp_path: Path) -> None:
    path = Trainer().save(tmp_path, 1)
    before = go.fresh.net.weight.clone()
    said = refusal(go, tmp_path, **other)
    for word in (str(path), key, shown, "set it back", "output.dir"):
        assert word in said
    assert torch.equal(go.fresh.net.weight, before)


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ({"data.test_images": 9}, "other images: data.test_images was None and is 9; set it back, or"),
        (
            {"data.image_size": 16, "data.root": "/b"},
            "other images: data.root was /a and is /b, data.image_size was 32 and is 16; set it back, or",
        ),
        ({}, "other images: those that data.source means have changed; put the old ones back, or"),
        ({"optimizer.lr": 0.1, "data.augment": False}, "other images: those that data.source means have changed"),
    ],
)
@pytest.mark.parametrize("step", [1, TOTAL_STEPS, TOTAL_STEPS + 1])
def test_other_images_are_refused_by_the_keys_that_chose_them(
    go: Caller, keys: dict[str, Any], shown: str, step: int, tmp_path: Path
) -> None:
    """Also where the run would be complete, or shorter than its checkpoint: more epochs are no way out."""
    images = {"data.source": "auto", "data.image_size": 32, "data.test_images": None}
    path = Trainer().save(tmp_path, step, config=KEYS | images)
    with pytest.raises(BadInput) as caught:
        go(tmp_path, keys=images | keys, dataset="b" * 64)
    said = str(caught.value)
    assert str(path) in said
    assert shown in said
    assert "training.epochs" not in said


def test_a_complete_run_with_another_order_of_images_is_not_offered_more_epochs(go: Caller, tmp_path: Path) -> None:
    Trainer().save(tmp_path, TOTAL_STEPS, config=KEYS | {"training.seed": 7})
    with pytest.raises(BadInput, match=r"training\.seed \(7 then, 8 now\).*set it back") as caught:
        go(tmp_path, keys={"training.seed": 8}, seed=8)
    assert "training.epochs" not in str(caught.value)


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        ({"threads": 2}, "threads 1 -> 2"),
        ({"world_size": 4}, "world_size 1 -> 4"),
        ({"torch": "9.9"}, "torch 2.14.1 -> 9.9"),
        ({"hardware": "AuthenticAMD AVX2"}, "hardware GenuineIntel AVX512 -> AuthenticAMD AVX2"),
        ({"threads": 2, "world_size": 4}, "world_size 1 -> 4, threads 1 -> 2"),
    ],
)
def test_another_machine_continues_and_says_so(
    go: Caller, other: dict[str, Any], shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer()
    path = trainer.save(tmp_path, 1)
    assert go(tmp_path, **other).path == path
    assert torch.equal(go.fresh.net.weight, trainer.net.weight)
    said = capsys.readouterr().out
    assert f"note: {shown} since then" in said
    assert "last bits" in said


def test_a_machine_on_which_auto_is_another_precision_continues_and_says_more_than_that(
    go: Caller, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Trainer().save(tmp_path, 1)
    go(tmp_path, precision="bf16")
    said = capsys.readouterr().out
    for word in ("precision no", "goes on in bf16", "results will differ", "--precision.mode no"):
        assert word in said
    assert "last bits" not in said


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ({"optimizer.lr": 0.25}, "optimizer.lr 0.5 -> 0.25"),
        ({"training.epochs": 6}, "training.epochs 3 -> 6"),
        ({"schedule.warmup": 2}, "schedule.warmup None -> 2"),
    ],
)
def test_changed_key_continues_and_is_said(
    go: Caller, keys: dict[str, Any], shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Trainer().save(tmp_path, 1)
    assert go(tmp_path, keys=keys).path == path
    assert shown in capsys.readouterr().out


def test_keys_without_effect_on_the_weights_are_not_said(
    go: Caller, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Trainer().save(tmp_path, 1)
    go(tmp_path, keys={"checkpoint.keep": 9, "output.dir": "b"})
    assert capsys.readouterr().out == f"continuing from {path}\n"


def test_a_key_that_is_newer_than_the_checkpoint_is_said_if_somebody_set_it(
    go: Caller, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Trainer().save(tmp_path, 1)
    go(tmp_path, keys={"data.mixup": 0.5}, defaults={"data.cutmix": 0.0, "training.tta": "none"})
    assert capsys.readouterr().out == f"continuing from {path}\nnote: changed since then: data.mixup None -> 0.5\n"


def test_weights_that_are_not_finite_are_refused_by_name(go: Caller, tmp_path: Path) -> None:
    """The trainer does not write such checkpoints any more."""
    trainer = Trainer()
    trainer.save(tmp_path, 2)
    finite, damaged = trainer.save(tmp_path, 3), trainer.save(tmp_path, 4)
    (damaged / "model.safetensors").unlink()
    trainer.net.weight.data[0, 0] = float("nan")
    newest = [trainer.save(tmp_path, step) for step in (5, 6)][-1]
    said = refusal(go, tmp_path)
    for words in (
        f"checkpoint {newest} holds weights",
        "not finite",
        f"--checkpoint.resume {finite}, and another output.dir",
    ):
        assert words in said


def test_where_no_older_checkpoint_is_finite_a_new_run_is_the_way_out(go: Caller, tmp_path: Path) -> None:
    trainer = Trainer()
    trainer.net.weight.data.fill_(float("inf"))
    trainer.save(tmp_path, 1)
    assert "start a new run" in refusal(go, tmp_path, trainer.save(tmp_path, 2))


# A complete run

RECORDED = {"crosscheck.record": True}
# What the run was trained with, and what it is started again with.
OTHERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"optimizer.lr": 0.25}),
    ({}, {"data.augment": False}),
    ({}, {"output.trackers": ["tensorboard"]}),
    ({}, RECORDED),
    (RECORDED, RECORDED | {"crosscheck.steps": "all"}),
]
THE_SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({}, {"checkpoint.keep": 9, "output.dir": "b", "output.quiet": True, "data.root": "/b", "training.threads": 2}),
    ({}, {"optimizer.betas": [0.9, 0.999]}),  # a key of a later version
    (RECORDED, {"crosscheck.record": False, "crosscheck.steps": "all"}),
    (RECORDED, RECORDED | {"crosscheck.replay": False}),
]


@pytest.mark.parametrize(("then", "now"), OTHERS)
def test_a_complete_run_is_not_the_answer_to_another_question(
    go: Caller, then: dict[str, Any], now: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Trainer().save(tmp_path, TOTAL_STEPS, config=KEYS | then)
    with pytest.raises(BadInput) as caught:
        go(tmp_path, keys=now)
    changed = {key: value for key, value in now.items() if (KEYS | then)[key] != value}
    for key, value in changed.items():
        assert f"{key} = {value} ({(KEYS | then)[key]} then)" in str(caught.value)
    for words in (str(path), "complete run", "set it back", "raise training.epochs", "output.dir"):
        assert words in str(caught.value)
    assert capsys.readouterr().out == ""
    assert go.fresh.update.applied == 0


@pytest.mark.parametrize(("then", "now"), THE_SAME)
def test_a_complete_run_answers_for_the_same_configuration(
    go: Caller, then: dict[str, Any], now: dict[str, Any], tmp_path: Path
) -> None:
    path = Trainer().save(tmp_path, TOTAL_STEPS, config=KEYS | then)
    assert go(tmp_path, keys=now).path == path


def test_a_run_that_had_come_far_enough_is_complete_too(go: Caller, tmp_path: Path) -> None:
    path = Trainer().save(tmp_path, STEPS_PER_EPOCH, epochs_without_gain=2)
    assert go(tmp_path).path == path
    with pytest.raises(
        BadInput,
        match=r"complete run .*optimizer\.lr = 0\.1.*raise or unset training\.stop_at_accuracy and training\.patience to",
    ):
        go(tmp_path, keys={"optimizer.lr": 0.1})


@pytest.mark.parametrize(("then", "now"), OTHERS)
def test_a_run_that_is_not_complete_goes_on_with_other_values(
    go: Caller, then: dict[str, Any], now: dict[str, Any], tmp_path: Path
) -> None:
    Trainer().save(tmp_path, TOTAL_STEPS - 1, config=KEYS | then)
    assert go(tmp_path, keys=now).step == TOTAL_STEPS - 1


def test_a_checkpoint_beyond_the_last_step_is_refused(go: Caller, tmp_path: Path) -> None:
    path = Trainer().save(tmp_path, TOTAL_STEPS + 1)
    said = refusal(go, tmp_path)
    for words in (str(path), "at step 13, beyond the 12 steps of training.epochs = 3", "raise training.epochs"):
        assert words in said
