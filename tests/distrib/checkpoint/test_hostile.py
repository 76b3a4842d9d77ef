"""Checkpoints that somebody made on purpose, with every hash right: they are refused or passed over, with a sentence."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from distrib.checkpoint import store
from distrib.checkpoint.resume import Resumed
from distrib.errors import BadInput
from tests.distrib.checkpoint.test_resume import Caller, Trainer

Harm = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def go() -> Caller:
    return Caller(Accelerator(cpu=True, mixed_precision="no"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Trainer().save(tmp_path, 1)


def forge(checkpoint: Path, harm: Harm) -> None:
    """Change the manifest, and then make its own hash and those of all files right again."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    del manifest["sha256"]
    for name in list(manifest["files"]):
        data = (checkpoint / name).read_bytes()
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    harm(manifest)
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest | {"sha256": digest}))


def forge_tensors(checkpoint: Path, part: str, harm: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of one part, and make the hashes right."""
    tensors = load_file(checkpoint / f"{part}.safetensors")
    harm(tensors)
    save_file(tensors, checkpoint / f"{part}.safetensors")
    forge(checkpoint, lambda _: None)


def refusal(go: Caller, checkpoint: Path) -> str:
    """Return in what words the checkpoint is refused that is asked for by its path."""
    with pytest.raises(BadInput) as caught:
        go(checkpoint.parent.parent, checkpoint)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put(*keys: str, value: Any) -> Harm:
    """Return what sets the value at these keys of a manifest."""

    def harm(manifest: dict[str, Any]) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return harm


def drop(*keys: str) -> Harm:
    """Return what removes the value at these keys of a manifest."""

    def harm(manifest: dict[str, Any]) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        del manifest[keys[-1]]

    return harm


MANIFESTS: dict[str, tuple[Harm, str]] = {
    **{
        f"no {key}": (drop("values", key), key)
        for key in (
            *(
                "config",
                "identity",
                "inference",
                "epoch_loss",
                "evaluation_pending",
                "applied_updates",
                "skipped_steps",
            ),
            *("lr", "optimizer", "scaler"),
        )
    },
    **{f"identity without {key}": (drop("values", "identity", key), f"identity.{key}") for key in ("seed", "hardware")},
    "identity is a list": (put("values", "identity", value=[]), "identity"),
    "config is text": (put("values", "config", value="x"), "config"),
    "epoch_loss is text": (put("values", "epoch_loss", value="1"), "epoch_loss"),
    "epoch_loss is nan": (put("values", "epoch_loss", value=float("nan")), "epoch_loss"),
    "updates are a fraction": (put("values", "applied_updates", value=1.5), "applied_updates"),
    "updates are below zero": (put("values", "applied_updates", value=-1), "applied_updates"),
    "updates beyond the step": (put("values", "applied_updates", value=10**12), "do not make 1"),
    "updates are true": (put("values", "applied_updates", value=True), "applied_updates"),
    "optimizer is a list": (put("values", "optimizer", value=["SGD"]), "optimizer"),
    "scaler has a part": (put("values", "scaler", value={"scale": 2.0}), "scaler.growth_factor"),
    "scaler is a number": (put("values", "scaler", value=1.0), "scaler"),
    "threads are a word": (put("values", "identity", "threads", value="all"), "identity.threads"),
    "step of another folder": (put("step", value=7), "is of step 7, and the folder is step-00000001"),
    "step below zero": (put("step", value=-1), "step"),
    "optimizer not listed": (drop("files", "optimizer.safetensors"), "optimizer.safetensors is not listed"),
    "network not listed": (drop("files", "model.safetensors"), "model.safetensors is not listed"),
    "a key too many": (put("more", value=1), "more"),
    "a file of another kind": (put("files", "run.sh", value={"bytes": 0, "sha256": ""}), "run.sh"),
    "sizes that no disk has": (put("files", "model.safetensors", "bytes", value=2**70), "bytes"),
}


@pytest.mark.parametrize("what", list(MANIFESTS))
def test_a_manifest_that_no_run_writes_is_refused(go: Caller, checkpoint: Path, what: str) -> None:
    harm, word = MANIFESTS[what]
    forge(checkpoint, harm)
    said = refusal(go, checkpoint)
    assert word in said
    assert str(checkpoint) in said


def change(name: str, to: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: to(tensors[name])})


TENSORS: dict[str, tuple[str, Callable[[dict[str, Tensor]], object], str]] = {
    "weights in another format": ("model", change("weight", Tensor.double), "format F64"),
    "whole numbers for weights": ("model", change("weight", Tensor.long), "format I64"),
    "weights of another shape": ("model", change("weight", lambda w: w.flatten().clone()), "(4,)"),
    "a weight too many": ("model", lambda tensors: tensors.update(more=torch.zeros(1)), "more"),
    "a weight is missing": ("model", lambda tensors: tensors.pop("bias"), "bias is absent"),
    "momentum in another format": ("optimizer", change("momentum_buffer/weight", Tensor.half), "format F16"),
    "one momentum is missing": (
        "optimizer",
        lambda tensors: tensors.pop("momentum_buffer/bias"),
        "momentum_buffer/bias is absent",
    ),
    "momentum of nothing": (
        "optimizer",
        lambda tensors: tensors.update({"momentum_buffer/x": torch.zeros(1)}),
        "momentum_buffer/x",
    ),
    "a slot that SGD has not": (
        "optimizer",
        lambda tensors: tensors.update({"exp_avg/bias": torch.zeros(2)}),
        "exp_avg",
    ),
    "no momentum at all": ("optimizer", lambda tensors: tensors.clear(), "is absent"),
}


@pytest.mark.parametrize("what", list(TENSORS))
def test_tensors_that_no_run_writes_are_refused(go: Caller, checkpoint: Path, what: str) -> None:
    part, harm, word = TENSORS[what]
    forge_tensors(checkpoint, part, harm)
    before = go.fresh.net.weight.clone()
    assert word in refusal(go, checkpoint)
    assert torch.equal(go.fresh.net.weight, before)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors"])
def test_a_pipe_in_place_of_a_file_is_passed_over(go: Caller, checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    os.mkfifo(checkpoint / name)
    assert "a pipe" in refusal(go, checkpoint)
    assert go(checkpoint.parent.parent) == Resumed()


@pytest.mark.parametrize(("name", "size"), [("manifest.json", 2**40), ("model.safetensors", 2**42)])
def test_a_file_that_is_all_hole_is_not_read(go: Caller, checkpoint: Path, name: str, size: int) -> None:
    os.truncate(checkpoint / name, size)
    assert f"{size} bytes" in refusal(go, checkpoint)


def test_a_file_that_is_no_safetensors(go: Caller, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"\xff" * 100)
    forge(checkpoint, lambda _: None)
    assert "model.safetensors is not a safetensors file" in refusal(go, checkpoint)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value in a JSON value."""
    below: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        below = list(cast(dict[Any, Any], value).items())
    elif isinstance(value, list):
        below = list(enumerate(cast(list[Any], value)))
    return [path, *(place for key, inner in below for place in places(inner, (*path, key)))]


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_manifest_says_it_is_told_in_one_sentence(go: Caller, tmp_path: Path, data: st.DataObject) -> None:
    checkpoint = Trainer().save(tmp_path, 1)

    def harm(manifest: dict[str, Any]) -> None:
        *way, last = data.draw(st.sampled_from(places(manifest)[1:]))
        inner: Any = manifest
        for key in way:
            inner = inner[key]
        inner[last] = data.draw(anything)

    forge(checkpoint, harm)
    try:
        resumed = go(tmp_path, checkpoint)
    except BadInput as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert resumed.step == 1


def test_one_under_another_name_is_passed_over(checkpoint: Path) -> None:
    """A copy of an older checkpoint under a newer name would take the run back without a word."""
    newer = Trainer().save(checkpoint.parent.parent, 3)
    forge(newer, put("step", value=2))
    found, passed = store.newest_valid(checkpoint.parent)
    assert found is not None
    assert found.step == 1
    assert passed == [f"checkpoint {newer} skipped: manifest.json is of step 2, and the folder is step-00000003"]
