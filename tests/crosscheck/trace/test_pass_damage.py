"""Damaged passes: each ends with one line that says what is wrong and where."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from crosscheck import TraceError, Verdict, replay
from tests.crosscheck.trace.trace_files import (
    Arrays,
    Change,
    Meta,
    peak_of_a_replay,
    read_part,
    record_pass,
    run,
    write_bytes,
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of one step on four images, with its pass."""
    return record_pass(tmp_path_factory.mktemp("pass"))


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
    report = replay(trace, require=["gradient"])
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
    "another step than the name's": (say(step=7), "describes step 7; its name says another"),
    "half a name": (lambda meta, _: meta.update(network="\ud800"), "not JSON"),
    "a mean that is no number": (say(mean=["nan", 0.5, 0.5]), "mean is to be finite"),
    "an infinite std": (say(std=["inf", 0.25, 0.25]), "loss_scale and std are to be positive, and finite"),
    "an infinite loss scale": (say(loss_scale="inf"), "loss_scale and std are to be positive, and finite"),
    "a loss scale beyond all numbers": (say(loss_scale=1e300, world_size=2**62), "loss_scale and std are to be"),
    "too much smoothing": (say(label_smoothing=1.5), "label_smoothing is 1.5; accepted: from 0 to 1"),
    "no number for smoothing": (say(label_smoothing="nan"), "label_smoothing is nan"),
    "images without pixels": (put("images", lambda x: x[:, :0, :0]), "are not what the network takes"),
    "images without channels": (put("images", lambda x: x[..., :0]), "are not what the network takes"),
    "winners of images without pixels": (put("winners/0", lambda x: x[:, :, :0]), "winners/0 is uint8"),
    "a layer without outputs": (
        lambda _, arrays: [
            arrays.update({f"{kind}/{name}": arrays[f"{kind}/{name}"][:0].copy() for name in ("8.weight", "8.bias")})
            for kind in ("parameter", "gradient")
        ],
        "8.weight is (0, 64), which does not follow",
    ),
    "a scalar for the labels": (lambda _, arrays: arrays.update(labels=np.array(1)), "labels is int64 ()"),
    "booleans for the labels": (put("labels", lambda x: x > 2), "labels is BOOL"),
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


def zeros(images: int, size: int, convolutions: tuple[int, int, int], hidden: int) -> Arrays:
    """The arrays of a pass of zeros, of images with one channel and a network with one class."""
    *_, last = convolutions
    inputs = (1, *convolutions[:2])
    arrays: Arrays = {"images": np.zeros((images, size, size, 1), np.uint8), "labels": np.zeros(images, np.int64)}
    shapes: dict[str, tuple[int, ...]] = {
        **{f"{2 * k}.weight": (convolutions[k], inputs[k], 5, 5) for k in range(3)},
        **{f"{2 * k}.bias": (convolutions[k],) for k in range(3)},
        "7.weight": (hidden, last * (size // 8) ** 2),
        "7.bias": (hidden,),
        "8.weight": (1, hidden),
        "8.bias": (1,),
    }
    for k, channels in enumerate(convolutions):
        arrays[f"winners/{k}"] = np.zeros((images, channels, size >> (k + 1), size >> (k + 1)), np.uint8)
    for name, shape in shapes.items():
        arrays |= {f"{kind}/{name}": np.zeros(shape, np.float32) for kind in ("parameter", "gradient")}
    return arrays


@pytest.mark.parametrize(
    ("bomb", "message"),
    [
        pytest.param((1, 2048, (1, 1, 1), 1),
                     "5505026 numbers that the layers make of an image of 2048 x 2048", id="a large image"),
        pytest.param((1, 8, (1, 1, 1), 600_000), "numbers that the layers make", id="many outputs"),
        pytest.param((1, 8, (1, 250, 170), 1), "elements of all parameters", id="many parameters"),
        pytest.param((800, 8, (180, 180, 1), 1), "multiplications for 800 images", id="much work"),
    ],
)  # fmt: skip
def test_a_pass_of_zeros_that_would_take_gigabytes_or_minutes_is_refused(
    trace: Path, bomb: tuple[int, int, tuple[int, int, int], int], message: str
) -> None:
    def explode(meta: Meta, arrays: Arrays) -> None:
        meta.update(mean=[0.5], std=[0.25])
        arrays.clear()
        arrays.update(zeros(*bomb))

    harm(trace, explode)
    with pytest.raises(TraceError, match=message):
        replay(trace)


def test_a_pass_at_the_limit_takes_less_than_a_gibibyte(trace: Path) -> None:
    """Eight images, whose layers make nearly as many numbers as are accepted, and a million parameters."""

    def grow(meta: Meta, arrays: Arrays) -> None:
        meta.update(mean=[0.5], std=[0.25])
        arrays.clear()
        arrays.update(zeros(8, 112, (41, 1, 1), 5000))

    harm(trace, grow)
    assert peak_of_a_replay(trace) < 2**30


def test_passes_are_of_one_network(trace: Path) -> None:
    """Each other shape would be compiled anew: thousands of small passes would take hours."""
    path = pass_file(trace)
    meta, arrays = read_part(path)
    meta["step"] = 2
    for kind in ("parameter", "gradient"):
        arrays |= {f"{kind}/{name}": arrays[f"{kind}/{name}"][:9].copy() for name in ("8.weight", "8.bias")}
    write_bytes(path.parent, 2, save(arrays, {"twinstep": json.dumps(meta)}), kind="pass-{:08}")
    with pytest.raises(TraceError, match=r"8\.weight is \(9, 64\) and was \(10, 64\) in pass-00000001"):
        replay(trace)


def test_a_type_that_nobody_can_load_is_refused(trace: Path) -> None:
    """NumPy has no float of eight bits: to load one ends in a KeyError."""
    path = pass_file(trace)
    data = path.read_bytes().replace(b'"images":{"dtype":"U8"', b'"images":{"dtype":"F8_E4M3"')
    size = int.from_bytes(data[:8], "little") + len("F8_E4M3") - len("U8")
    path.unlink()
    write_bytes(path.parent, 1, size.to_bytes(8, "little") + data[8:], kind="pass-{:08}")
    with pytest.raises(TraceError, match="images is F8_E4M3"):
        replay(trace)


@pytest.mark.timeout(120)
def test_nobody_waits_for_a_pipe_or_reads_a_hole(trace: Path) -> None:
    path = pass_file(trace)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(TraceError, match="it is no regular file"):
        replay(trace)
    path.unlink()
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(TraceError, match=r"pass-00000001.* is larger than 268435456 bytes"):
        replay(trace)


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
    code, out, err = run(capsys, "replay", trace, "--require", "gradient", "--require", "average")
    assert (code, out) == (2, "")
    assert "average was not recorded; what was recorded: optimizer, clipping, gradient" in err
