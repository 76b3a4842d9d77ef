"""Damaged passes: each ends with one line that says what is wrong and where."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from crosscheck import TraceError, Verdict, replay
from crosscheck.recorder import Claims, Pass, Recorder, Winners
from distrib.training.model import article
from tests.crosscheck.trace.trace_files import Change, read_part, run, write_bytes


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of one step on four images, with its pass."""
    folder = tmp_path_factory.mktemp("pass")
    torch.manual_seed(0)
    network = article()
    optimizer = torch.optim.SGD(network.named_parameters(), lr=0.1)
    images, labels = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8), torch.tensor([1, 2, 3, 4])
    described = Pass(step=1, network="article", compute="float32", mean=(0.5,) * 3, std=(0.25,) * 3, training=True)
    with Recorder(optimizer, folder, claims=Claims()) as recorder:
        with Winners(network) as winners:
            pixels = (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
            torch.nn.functional.cross_entropy(network(pixels), labels).backward()
        recorder.after_backward()
        recorder.add_pass(
            described,
            images=images,
            labels=labels,
            winners=[found for (found,) in winners.found],
            parameters=dict(network.named_parameters()),
        )
        optimizer.step()
    return folder


@pytest.fixture
def trace(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "trace"))


def pass_file(trace: Path) -> Path:
    return next((trace / "segment-0001").glob("pass-*"))


def harm(trace: Path, change: Change) -> None:
    """Change the pass, and its name with it."""
    path = pass_file(trace)
    meta, arrays = read_part(path)
    change(meta, arrays)
    path.unlink()
    write_bytes(path.parent, 1, save(arrays, {"twinstep": json.dumps(meta)}), kind="pass-{:08}")


def test_unharmed_it_matches(trace: Path) -> None:
    report = replay(trace, require=["backward"])
    assert report.verdict is Verdict.MATCH, str(report)


def leave_out(name: str) -> Change:
    return lambda _, arrays: arrays.pop(name)


def say(**values: Any) -> Change:
    return lambda meta, _: meta.update(values)


def put(name: str, make: Callable[[NDArray[Any]], NDArray[Any]]) -> Change:
    return lambda _, arrays: arrays.update({name: np.ascontiguousarray(make(arrays[name]))})


HARMS: dict[str, tuple[Change, str]] = {
    "no images": (leave_out("images"), "images is missing"),
    "no gradient": (leave_out("gradient/0.weight"), "gradient/0.weight is missing"),
    "no winners": (leave_out("winners/2"), "winners/2 is missing"),
    "another network": (say(network="resnet"), "no twin of the network 'resnet'"),
    "unknown key": (say(code="import os"), "code"),
    "no network": (lambda meta, _: meta.pop("network"), "network"),
    "std of zero": (say(std=[0.0, 0.25, 0.25]), "loss_scale and std are to be positive"),
    "std that is no number": (say(std=["nan", 0.25, 0.25]), "loss_scale and std are to be positive"),
    "loss scale of zero": (say(loss_scale=0.0), "loss_scale and std are to be positive"),
    "mean of two channels": (say(mean=[0.5, 0.5]), "are not what the network takes"),
    "images of floats": (put("images", lambda x: x.astype(np.float32)), "images is float32"),
    "images of another size": (put("images", lambda x: x[:, :30, :30]), "are not what the network takes"),
    "no image": (put("images", lambda x: x[:0]), "are not what the network takes"),
    "labels of fewer images": (put("labels", lambda x: x[:3]), "labels is int64"),
    "labels beyond the classes": (put("labels", lambda x: x + 10), "labels are not classes"),
    "negative labels": (put("labels", lambda x: -x), "labels are not classes"),
    "winners beyond the window": (put("winners/0", lambda x: x + 4), "winners are numbers from 0 to 3"),
    "winners of another shape": (put("winners/1", lambda x: x[:, :1]), "winners/1 is uint8"),
    "a gradient of another shape": (put("gradient/8.weight", lambda x: x.T), "gradient/8.weight is float32"),
    "layers that do not fit": (
        lambda _, arrays: [
            arrays.update({f"{kind}/8.weight": arrays[f"{kind}/8.weight"][:, :7].copy()})
            for kind in ("parameter", "gradient")
        ],
        "8.weight is (10, 7), which does not follow",
    ),
}


@pytest.mark.parametrize("name", HARMS)
def test_harm_is_bad_input(trace: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    change, message = HARMS[name]
    harm(trace, change)
    with pytest.raises(TraceError) as raised:
        replay(trace)
    assert message in str(raised.value)
    assert "pass-00000001" in str(raised.value)
    code, out, err = run(capsys, "replay", trace)
    assert (code, out) == (2, "")
    assert err.startswith("bad input: ")


@pytest.mark.parametrize("how", ["cut", "bit"])
def test_a_damaged_file_is_found_by_its_name(trace: Path, how: str) -> None:
    path = pass_file(trace)
    data = bytearray(path.read_bytes())
    if how == "cut":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(TraceError, match="is damaged"):
        replay(trace)


def test_a_wrong_winner_is_reported(trace: Path) -> None:
    harm(trace, put("winners/0", lambda x: (x + 1) % 4))
    report = replay(trace)
    assert report.verdict is Verdict.MISMATCH
    assert "winners of max-pooling 1 are no near-ties" in str(report)


def test_not_a_finite_number_is_a_mismatch(trace: Path) -> None:
    harm(trace, put("gradient/0.weight", lambda x: x * np.nan))
    report = replay(trace)
    assert report.verdict is Verdict.MISMATCH
    assert {finding.tensor for finding in report.findings} == {"0.weight"}


def test_a_required_check_that_was_not_recorded_is_bad_input(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "replay", trace, "--require", "backward", "--require", "average")
    assert (code, out) == (2, "")
    assert "average was not recorded; what was recorded: optimizer, gradient, backward" in err
