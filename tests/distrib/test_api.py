"""`from distrib import train, RunConfig, load_run`: what the command does, within somebody else's process."""

import inspect
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from pydantic import ValidationError

from distrib import BadInput, RunConfig, RunFault, SavedRun, Stopped, load_run, train
from tests.documents import scripts
from tests.support import JAX, RANKS, ROOT, SMALL, free_port, read_json, run_without, tensor_bytes, train_well, wait_for

SECONDS = 300
QUICK: Mapping[str, Any] = {
    "data.source": "synthetic",
    "data.train_images": 160,
    "data.test_images": 50,
    "training.batch_size": 16,
    "training.epochs": 2,
    "training.threads": 1,
    "crosscheck.record": False,
}
"""What `SMALL` says."""


def config(folder: Path, **sections: Mapping[str, Any]) -> RunConfig:
    own = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    return RunConfig.from_recipe("quickstart", {**QUICK, "output.dir": str(folder), **own})


def in_a_process(work: Callable[[Path], None], folder: Path) -> None:
    """Do the work in a process in which nothing was trained before, and which may start others."""
    process = RANKS.Process(target=work, args=(folder,), daemon=False)
    process.start()
    process.join(SECONDS)
    assert process.exitcode == 0


def settings() -> list[Any]:
    """What of this process a run changes."""
    return [
        *map(signal.getsignal, (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_rng_state().tolist(),
        {**os.environ},
        threading.enumerate(),
    ]


def twice_and_in_a_thread(folder: Path) -> None:
    before = settings()
    trained = [train(config(folder / name, training={"deterministic": True})) for name in ("one", "two")]
    thread = threading.Thread(target=lambda: trained.append(train(config(folder / "thread"))))
    thread.start()
    thread.join()
    assert settings() == before
    assert [run.folder.name for run in trained] == ["one", "two", "thread"]
    assert len({run.summary["weights_sha256"] for run in trained}) == 1
    assert train(config(folder / "two", training={"epochs": 3, "deterministic": True})).summary["steps"] == 30


def test_it_can_be_called_twice_and_in_a_thread_with_the_bytes_of_the_command(tmp_path: Path) -> None:
    in_a_process(twice_and_in_a_thread, tmp_path)
    train_well(tmp_path / "command", *SMALL)
    step = "checkpoints/step-00000020"
    assert tensor_bytes(tmp_path / "command" / step) == tensor_bytes(tmp_path / "one" / step)
    run, summary = load_run(tmp_path / "one"), read_json(tmp_path / "command" / "summary.json")
    assert run.config == config(tmp_path / "one", training={"deterministic": True})
    assert (run.summary["test_accuracy"], run.verdict) == (summary["test_accuracy"], "not recorded")
    assert run.steps["step"].tolist() == list(range(1, 21))
    assert run.epochs["test_accuracy"][-1] == summary["test_accuracy"]
    assert np.isfinite(run.steps["loss"]).all()
    assert "loss_scale" not in run.steps
    classifier = run.classifier()
    assert len(classifier.classes) == 10
    assert classifier.probabilities(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).shape == (2, 10)


def as_documented(folder: Path) -> None:
    code, _ = scripts(ROOT / "docs" / "using.md")
    quick = {key: value for key, value in QUICK.items() if key != "training.epochs"}
    os.chdir(folder)
    Image.new("RGB", (40, 30)).save("photo.jpg")
    names: dict[str, Any] = {}
    exec(code.replace('"training.epochs": 1,', f'"training.epochs": 1, **{quick},'), names)  # noqa: S102 (it is ours)
    assert names["run"].summary["steps"] == 10
    [probabilities] = names["classifier"].predict(["photo.jpg"])
    assert sum(probabilities.values()) == pytest.approx(1)


def test_the_example_of_the_documents_works(tmp_path: Path) -> None:
    in_a_process(as_documented, tmp_path)


def rank_of_a_notebook(folder: Path) -> None:
    for name in ("first", "second"):
        run = train(config(folder / name, training={"world_size": 2}))
        (folder / f"{name}-{os.environ['RANK']}").write_text(run.summary["weights_sha256"])


def notebook(folder: Path) -> None:
    typed_in_part: Any = accelerate
    typed_in_part.notebook_launcher(rank_of_a_notebook, (folder,), num_processes=2, use_port=str(free_port()))


def test_two_ranks_of_a_notebook_have_the_bytes_of_two_ranks_of_a_launcher(tmp_path: Path) -> None:
    in_a_process(notebook, tmp_path)
    summary = train_well(tmp_path / "command", *SMALL, world_size=2)
    for name in ("first-0", "first-1", "second-0", "second-1"):
        assert (tmp_path / name).read_text() == summary["weights_sha256"]


def told_to_stop(folder: Path) -> None:
    def stop() -> None:
        wait_for(folder / "metrics.jsonl", '"step": 3', SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Stopped, match="stopped on request \\(SIGTERM\\) after step") as caught:
        train(config(folder, training={"epochs": 1000}))
    assert caught.value.code == 75
    assert (folder / "checkpoints" / f"step-{caught.value.step:08d}").is_dir()


def test_a_signal_raises_when_a_checkpoint_is_written(tmp_path: Path) -> None:
    in_a_process(told_to_stop, tmp_path)


def refusals(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"world_size is from the configuration given to train") as caught:
        train(config(folder, training={"world_size": 2}))
    assert "training.world_size = 2, but this run has 1 process" in str(caught.value)
    with pytest.raises(RunFault, match="the global loss is nan"):
        train(config(folder / "wild", optimizer={"lr": 1e30}, training={"clip_norm": None}))
    assert read_json(folder / "wild" / "status.json")["exit_code"] == 1
    with pytest.raises(BadInput, match="is not the folder of a run"):
        load_run(folder / "nothing")
    unfinished = load_run(folder / "wild")
    with pytest.raises(BadInput, match=r"summary\.json is missing: the run has not come to its end"):
        _ = unfinished.summary
    Accelerator(cpu=True)
    with pytest.raises(BadInput, match="has an Accelerator or a process group already"):
        train(config(folder))


def test_what_ends_the_command_raises(tmp_path: Path) -> None:
    in_a_process(refusals, tmp_path)


def test_a_configuration_in_python() -> None:
    built = RunConfig.model_validate({"optimizer": {"name": "sgd", "lr": 0.05}, "training": {"epochs": 1}})
    assert RunConfig(optimizer=built.optimizer, training=built.training) == built
    with pytest.raises(ValidationError, match=r"optimizer\.sgd\.lr"):
        RunConfig.model_validate({"optimizer": {"name": "sgd", "lr": -1.0}})
    with pytest.raises(
        BadInput, match=r"unknown key training\.epoch \(from the overrides\): did you mean training\.epochs\?"
    ):
        RunConfig.from_recipe("quickstart", {"training.epoch": 1})
    with pytest.warns(UserWarning, match=r"optimizer\.name = adam \(from the overrides\) in place of sgd"):
        assert RunConfig.from_recipe("quickstart", {"optimizer.name": "adam"}).optimizer.name == "adam"


def test_its_names_stay_what_they_are_whatever_was_imported() -> None:
    import distrib.train  # the module of the command

    assert distrib.train is train
    assert list(inspect.signature(train).parameters) == ["config"]
    for name in distrib.__all__:
        assert getattr(distrib, name) is not None
    assert SavedRun is distrib.SavedRun
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = distrib.nothing  # pyright: ignore


def test_importing_it_imports_nothing_that_takes_time() -> None:
    result = run_without((*JAX, "torch", "accelerate", "numpy", "pydantic"), "import distrib; print(distrib.__all__)")
    assert "'load_run', 'train'" in result.stdout, result.stderr
