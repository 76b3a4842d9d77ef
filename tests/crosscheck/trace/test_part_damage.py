"""Parts have a correct hash and wrong content: made by hand, hostile, or written by a broken recorder."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosscheck import Recorder, Report, TraceError, UnsupportedOptimizer, replay
from crosscheck.diagnosis.cause import Cause
from crosscheck.diagnosis.diagnose import diagnose
from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Flags, Rule
from tests.crosscheck.trace.trace_files import (
    Arrays,
    Change,
    Meta,
    adam,
    copy,
    part_file,
    read_part,
    record,
    replace_bytes,
    rewrite,
    run,
    segment,
    sgd,
    write_part,
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    for name, make in (("adam", adam), ("sgd", sgd)):
        assert replay(record(folder / name, make)).verdict == "match"
    return folder


@pytest.fixture(scope="module", autouse=True)
def no_causes_for_adam() -> Iterator[None]:
    """Look for the cause of a mismatch for SGD only, since compiling Adam's mistakes one by one takes ten seconds."""

    def of_sgd(rule: Rule[Any], flags: Flags, inputs: Inputs) -> list[Cause]:
        return [] if rule.name.startswith("adam") else diagnose(rule, flags, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crosscheck.checks.judging.judge.diagnose", of_sgd)
        yield


def put(*path: str | int, value: Any) -> Change:
    """Return a change that sets one member of the description, or removes it if the value is `...`."""

    def change(meta: Meta, arrays: Arrays) -> None:
        del arrays
        at: Any = meta
        for member in path[:-1]:
            at = at[member]
        if value is ...:
            del at[path[-1]]
        else:
            at[path[-1]] = value

    return change


def option(name: str, value: Any) -> Change:
    return put("steps", 0, "options", 0, name, value=value)


def drop(name: str) -> Change:
    def change(meta: Meta, arrays: Arrays) -> None:
        del meta, arrays[name]

    return change


def reshape(name: str, *shape: int) -> Change:
    def change(meta: Meta, arrays: Arrays) -> None:
        del meta
        arrays[name] = np.resize(arrays[name], shape)

    return change


def cast(name: str, dtype: str) -> Change:
    def change(meta: Meta, arrays: Arrays) -> None:
        del meta
        arrays[name] = arrays[name].astype(dtype)

    return change


def fill(name: str, value: float) -> Change:
    def change(meta: Meta, arrays: Arrays) -> None:
        del meta
        arrays[name] = np.full_like(arrays[name], value)

    return change


def both(*changes: Change) -> Change:
    def change(meta: Meta, arrays: Arrays) -> None:
        for one in changes:
            one(meta, arrays)

    return change


def slot_forgotten(slot: str) -> Change:
    """Return a change that removes a slot, as if the recorder had never seen it."""

    def change(meta: Meta, arrays: Arrays) -> None:
        for block in meta["blocks"]:
            for tensor in block["tensors"]:
                del tensor["slots"][slot]
        for name in [name for name in arrays if f"/{slot}." in name]:
            del arrays[name]

    return change


FIRST = ("blocks", 0, "tensors", 0)  # the sampled rows of `weight`
SHAPE, TENSOR = ("tensors", 0, "shape"), ("tensors", 0)


@pytest.mark.parametrize(
    ("rule", "number", "change", "problem"),
    [
        # The description itself
        pytest.param("adam", 1, put("color", value="red"), "color", id="extra key"),
        pytest.param("adam", 1, put("blocks", value=...), "blocks", id="no blocks"),
        pytest.param("adam", 1, put("steps", value=[]), "steps", id="no steps"),
        pytest.param("adam", 1, put("steps", 0, "step", value=0), "step", id="step 0"),
        pytest.param("adam", 1, put("steps", 0, "applied", value="perhaps"), "applied", id="applied perhaps"),
        pytest.param("adam", 1, put("steps", 0, "grad_norm", value=10**400), "grad_norm", id="norm 10**400"),
        pytest.param("adam", 1, put(*TENSOR, "dtype", value="int8"), "dtype", id="dtype int8"),
        pytest.param("adam", 1, put(*TENSOR, "implementation", value="x"), "implementation", id="implementation"),
        pytest.param("adam", 1, put(*TENSOR, "group", value=7), "options of 1 groups", id="group 7"),
        pytest.param("adam", 1, put(*TENSOR, "group", value=-1), "group", id="group -1"),
        pytest.param("adam", 1, put(*TENSOR, "name", value="\ud800"), "not JSON", id="half a character"),
        # Numbers that point nowhere
        pytest.param("adam", 1, put(*FIRST, "tensor", value=2), "tensor 2", id="tensor out of range"),
        pytest.param("adam", 1, put(*FIRST, "tensor", value=1), "block 0, tensor 1", id="tensor listed twice"),
        pytest.param("adam", 1, put(*FIRST, "before", value=[2]), "row that does not exist", id="row out of range"),
        pytest.param("adam", 1, put(*FIRST, "no_grad", value=[9]), "row that does not exist", id="no_grad row"),
        pytest.param("adam", 1, put(*FIRST, "before", value=[-1]), "before", id="row -1"),
        pytest.param("adam", 1, put(*FIRST, "before", value=[]), "neither stored", id="no value before"),
        pytest.param("adam", 1, put("blocks", 0, "steps", value=[1, 9]), "block 0", id="block of other steps"),
        pytest.param("adam", 1, put("blocks", 0, "steps", value=[1, 1]), "block 0", id="block of a step twice"),
        pytest.param("adam", 1, put("blocks", 0, "steps", value=[2, 1]), "block 0", id="block of descending steps"),
        pytest.param("adam", 1, put("blocks", 0, "steps", value=[]), "steps", id="block of no steps"),
        pytest.param("adam", 1, put("blocks", 0, "tensors", value=[]), "block 0 has no tensors", id="empty block"),
        pytest.param(
            "adam", 1, put("blocks", 0, "full", value=True), "full and has 2 steps", id="full block of two steps"
        ),
        pytest.param("adam", 1, put("blocks", value=[]), "no block holds step 1", id="no block"),
        pytest.param("adam", 3, put("steps", 1, "step", value=7), "which the part does not list", id="step renamed"),
        pytest.param("adam", 1, put("steps", 1, "step", value=1), "ascend", id="step twice"),
        pytest.param("adam", 2, put("steps", 0, "step", value=9), "ascend", id="steps descend"),
        pytest.param("adam", 1, fill("0/0/coordinates", 12), "coordinates of 'weight'", id="coordinate 12 of 12"),
        pytest.param("adam", 1, fill("0/0/coordinates", -1), "coordinates of 'weight'", id="coordinate -1"),
        pytest.param("adam", 1, cast("0/0/coordinates", "float64"), "coordinates of 'weight'", id="real coordinates"),
        pytest.param("adam", 1, reshape("0/0/coordinates", 5), "coordinates of 'weight'", id="flat coordinates"),
        pytest.param("adam", 1, reshape("0/0/coordinates", 1, 13), "'weight'", id="13 coordinates of 12"),
        pytest.param(
            "adam", 2, fill("0/0/coordinates", 3), "coordinates of 'weight'", id="one coordinate again and again"
        ),
        # Arrays
        pytest.param("adam", 1, drop("0/0/grad"), r"grad of 'weight' \(0/0/grad\) is missing", id="no gradient"),
        pytest.param("adam", 1, drop("0/0/before"), "before of 'weight'.*is missing", id="no values before"),
        pytest.param("adam", 1, drop("2/1/after"), "after of 'bias'.*is missing", id="no values after"),
        pytest.param("adam", 1, drop("0/0/coordinates"), "'weight'.*shape", id="no coordinates"),
        pytest.param("adam", 1, drop("0/0/exp_avg.after"), "exp_avg.after of 'weight'.*is missing", id="no exp_avg"),
        pytest.param("adam", 1, drop("0/0/step.after"), "step.after of 'weight'.*is missing", id="no step"),
        pytest.param("adam", 1, reshape("0/0/grad", 2, 4), r"grad of 'weight'.*shape \(2, 4\)", id="narrow gradient"),
        pytest.param("adam", 1, reshape("0/0/after", 10), r"after of 'weight'.*shape \(10,\)", id="flat array"),
        pytest.param("adam", 1, reshape("0/0/after", 0, 5), r"after of 'weight'.*shape \(0, 5\)", id="no rows"),
        pytest.param("adam", 1, cast("0/0/after", "uint8"), "after of 'weight'.*uint8", id="bytes"),
        pytest.param("adam", 1, cast("0/0/after", "bool"), "after of 'weight'.*BOOL", id="flags"),
        pytest.param("adam", 1, cast("0/0/after", "int64"), "after of 'weight'.*int64", id="integers"),
        pytest.param("adam", 1, cast("0/0/before", "int64"), "before of 'weight'.*int64", id="integers before"),
        pytest.param("adam", 1, cast("0/0/grad", "int64"), "grad of 'weight'.*int64", id="integer gradient"),
        pytest.param("adam", 1, cast("0/0/exp_avg.after", "int64"), "exp_avg.after.*int64", id="integer exp_avg"),
        pytest.param(
            "adam", 1, cast("0/0/after", "float64"), "after of 'weight'.*float64", id="dtype not as described"
        ),
        pytest.param("adam", 1, cast("0/0/before", "float64"), "before of 'weight'.*float64", id="dtype not as after"),
        pytest.param("adam", 1, cast("0/0/before", "float16"), "before of 'weight'.*float16", id="narrow dtype before"),
        pytest.param("adam", 1, cast("0/0/grad", "float64"), "grad of 'weight'.*float64", id="wide gradient"),
        pytest.param(
            "adam", 2, cast("0/0/exp_avg.before", "float64"), "exp_avg.before.*float64", id="slot of two dtypes"
        ),
        # Shapes, of which none may cost the memory that it claims
        pytest.param("adam", 2, put(*SHAPE, value=[4, 3]), r"tensor 0 was \('weight', \(3, 4\)", id="shape changed"),
        pytest.param("adam", 2, put(*TENSOR, "name", value="w"), "tensor 0 was", id="name changed"),
        pytest.param("adam", 2, put(*TENSOR, "dtype", value="float16"), "tensor 0 was", id="dtype changed"),
        pytest.param("adam", 1, put(*SHAPE, value=[3, 5]), "'weight'.*shape", id="shape larger"),
        pytest.param("adam", 1, put(*SHAPE, value=[10**9, 10**9]), "'weight'", id="10**18 elements"),
        pytest.param("adam", 1, put(*SHAPE, value=[10**400]), "'weight'|shape", id="10**400 elements"),
        pytest.param("adam", 1, put(*SHAPE, value=[2**40, 2**40]), "tensor 0 has a shape", id="2**80 elements"),
        pytest.param("adam", 1, put(*SHAPE, value=[3, 4] + [1] * 63), "shape", id="65 dimensions"),
        pytest.param("adam", 1, put(*SHAPE, value=[-3, -4]), "shape", id="negative shape"),
        # Digests that are described and not there, or of elements that do not exist
        pytest.param("adam", 1, put(*FIRST, "held", value=[[0, 13]]), "elements 0 up to 13 of 12", id="held beyond"),
        pytest.param("adam", 1, put(*FIRST, "held", value=[[7, 3]]), "elements 7 up to 3", id="held backwards"),
        pytest.param("adam", 1, put(*FIRST, "held", value=[[0, 12]] * 2), "held has 2 ranges", id="held for some rows"),
        pytest.param("adam", 1, drop("0/0/digest"), "digest of 'weight'", id="no digest"),
        pytest.param("adam", 1, drop("0/0/exp_avg.digest"), "exp_avg.digest of 'weight'", id="no digest of a slot"),
        pytest.param("adam", 1, put("tensors", 0, "replaces", value=0), "replaces tensor 0", id="replaces itself"),
        # What the rule needs is missing or wrong
        pytest.param("adam", 1, option("lr", ...), "'lr'", id="no lr"),
        pytest.param("adam", 1, option("lr", "fast"), "lr", id="lr is a word"),
        pytest.param("adam", 1, option("lr", [0.1, 0.2]), "'lr'", id="lr is two numbers"),
        pytest.param("adam", 1, option("lr", None), "'lr'", id="lr is nothing"),
        pytest.param("adam", 1, option("lr", 10**400), "lr", id="lr 10**400"),
        pytest.param("adam", 1, option("betas", ...), "'betas'", id="no betas"),
        pytest.param("adam", 1, option("betas", [0.9]), "'betas'", id="one beta"),
        pytest.param("adam", 1, option("betas", [0.9, 0.99, 0.999]), "'betas'", id="three betas"),
        pytest.param("adam", 1, option("betas", [0.9, "x"]), "betas", id="beta is a word"),
        pytest.param("adam", 1, option("betas", 0.9), "'betas'", id="betas is a number"),
        pytest.param("adam", 1, option("eps", {"a": 1}), "eps", id="eps is an object"),
        pytest.param("adam", 1, put("steps", 0, "options", value=[]), "options of 0 groups", id="no groups"),
        pytest.param("sgd", 1, option("momentum", ...), "'momentum'", id="no momentum"),
        pytest.param("sgd", 1, option("dampening", "x"), "dampening", id="dampening is a word"),
        pytest.param("adam", 1, slot_forgotten("step"), "weight has no slot 'step'", id="step not recorded"),
        pytest.param("adam", 1, slot_forgotten("exp_avg"), "weight has no slot 'exp_avg'", id="exp_avg not recorded"),
        pytest.param("adam", 1, put(*FIRST, "slots", "exp_avg", "scalar", value=True), "exp_avg", id="scalar exp_avg"),
        pytest.param("adam", 1, fill("0/0/step.after", float("nan")), "'step' of weight.*nan", id="step is NaN"),
        pytest.param("adam", 1, fill("0/0/step.after", 1e300), r"'step' of weight.*1e\+300", id="step is 1e300"),
        pytest.param("adam", 1, fill("0/0/step.after", -1.0), "'step' of weight.*-1", id="step is -1"),
    ],
)
def test_what_a_part_may_not_say_is_refused(
    recorded: Path,
    tmp_path: Path,
    rule: str,
    number: int,
    change: Change,
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trace = copy(recorded / rule, tmp_path / "trace")
    rewrite(trace, number, change)
    with pytest.raises(TraceError, match=problem) as caught:
        replay(trace)
    assert str(segment(trace)) in str(caught.value)
    code, out, err = run(capsys, "replay", trace)
    assert (code, out, err) == (2, "", f"bad input: {caught.value}\n")
    assert err[:-1].isprintable()
    assert len(err) < 4000


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        pytest.param("sgd", fill("0/0/after", float("nan")), id="parameters NaN"),
        pytest.param("sgd", fill("0/0/grad", float("inf")), id="gradients inf"),
        pytest.param("adam", fill("0/0/exp_avg_sq.after", -1.0), id="negative second moment"),
        pytest.param("adam", option("lr", "inf"), id="lr inf"),
        pytest.param("sgd", option("lr", "inf"), id="SGD's lr inf"),
        pytest.param("adam", option("betas", [-1e300, 1e300]), id="betas huge"),
        pytest.param("adam", option("betas", [0.9, "nan"]), id="beta2 NaN"),
        pytest.param("adam", both(put(*TENSOR, "implementation", value="fused"), put(*TENSOR, "device", value="cuda"),
                                  option("lr", 1e300)), id="an lr that float32 cannot hold, rounded to float32"),
        pytest.param("sgd", option("momentum", -1e300), id="momentum -1e300"),
        pytest.param("sgd", put(*FIRST, "slots", value={}), id="buffer gone"),
    ],
)  # fmt: skip
def test_wrong_numbers_are_a_mismatch_and_not_bad_input(
    recorded: Path, tmp_path: Path, rule: str, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = copy(recorded / rule, tmp_path / "trace")
    rewrite(trace, 1, change)
    code, out, err = run(capsys, "replay", trace)
    assert (code, err) == (1, "")
    assert out.startswith("mismatch: ")


def test_a_type_that_numpy_does_not_have_is_refused(recorded: Path, tmp_path: Path) -> None:
    trace = copy(recorded / "adam", tmp_path / "trace")
    data = part_file(trace, 1).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    shape = header["0/0/after"]["shape"]
    header["0/0/after"] |= {"dtype": "F8_E4M3", "shape": [shape[0], shape[1] * 4]}
    changed = json.dumps(header).encode()
    replace_bytes(trace, 1, len(changed).to_bytes(8, "little") + changed + data[8 + size :])
    with pytest.raises(TraceError, match=r"after of 'weight'.*F8_E4M3"):
        replay(trace)


@pytest.mark.parametrize("offset", [0.5, 2.0])
def test_a_step_that_was_never_a_count_does_not_match(recorded: Path, tmp_path: Path, offset: float) -> None:
    """Each step adds one, as it should, but torch starts from zero."""
    trace = copy(recorded / "adam", tmp_path / "trace")

    def shift(meta: Meta, arrays: Arrays) -> None:
        for number, block in enumerate(meta["blocks"]):
            for tensor in range(2):
                arrays[f"{number}/{tensor}/step.after"] += offset
                rows = block["tensors"][tensor]["slots"]["step"]
                if rows.pop("absent_before", None):
                    rows["before"] = [0]
                    arrays[f"{number}/{tensor}/step.before"] = np.full((1, 1), offset)
                elif f"{number}/{tensor}/step.before" in arrays:
                    arrays[f"{number}/{tensor}/step.before"] += offset

    for number in (1, 2, 3):
        rewrite(trace, number, shift)
    result = outcome(trace)
    assert isinstance(result, TraceError) or (isinstance(result, Report) and result.verdict == "mismatch")


def outcome(trace: Path) -> Report | TraceError | UnsupportedOptimizer:
    try:
        return replay(trace)
    except (TraceError, UnsupportedOptimizer) as error:
        return error


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_bytes_under_the_right_hash_end_in_a_report_or_a_refusal(recorded: Path, data: st.DataObject) -> None:
    rule = data.draw(st.sampled_from(["adam", "sgd"]))
    number = data.draw(st.integers(1, 3))
    content = bytearray(part_file(recorded / rule, number).read_bytes())
    flips = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for at, value in data.draw(st.lists(flips, min_size=1, max_size=4)):
        content[at] = value
    with tempfile.TemporaryDirectory() as folder:
        trace = copy(recorded / rule, Path(folder) / "trace")
        replace_bytes(trace, number, bytes(content))
        result = outcome(trace)
        assert isinstance(result, Report) or str(trace) in str(result)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "nan", "inf", "x", 10**400, -1, 0, 2]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["lr", "0", ""]), inner, max_size=2),
    max_leaves=4,
)


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of every member at any depth."""
    members: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        members = list(value.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    elif isinstance(value, list):
        members = list(enumerate(value))  # pyright: ignore[reportUnknownArgumentType]
    return [place for name, member in members for place in ((*path, name), *places(member, (*path, name)))]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_value_anywhere_in_a_description_ends_in_a_report_or_a_refusal(recorded: Path, data: st.DataObject) -> None:
    rule = data.draw(st.sampled_from(["adam", "sgd"]))
    number = data.draw(st.integers(1, 3))
    meta, arrays = read_part(part_file(recorded / rule, number))
    place = data.draw(st.sampled_from(places(meta)))
    put(*place, value=data.draw(VALUES | st.just(...)))(meta, arrays)
    with tempfile.TemporaryDirectory() as folder:
        trace = copy(recorded / rule, Path(folder) / "trace")
        part_file(trace, number).unlink()
        write_part(segment(trace), number, meta, arrays)
        result = outcome(trace)
        assert isinstance(result, Report) or str(trace) in str(result)


def test_slots_that_no_row_has_are_refused(recorded: Path, tmp_path: Path) -> None:
    """Each of them would take as much memory as a tensor."""
    trace = copy(recorded / "adam", tmp_path / "trace")

    def describe(meta: Meta, arrays: Arrays) -> None:
        del arrays
        entry = meta["blocks"][0]["tensors"][0]
        rows = list(range(len(meta["blocks"][0]["steps"])))
        for number in range(20_000):
            entry["slots"][f"slot {number}"] = {"before": [], "absent_before": rows, "absent_after": rows}

    rewrite(trace, 1, describe)
    with pytest.raises(TraceError, match="the slot 'slot 0' is there in no row"):
        replay(trace)


def test_rows_that_are_nearly_all_empty_are_refused(tmp_path: Path) -> None:
    """A file of a quarter of a megabyte describes gigabytes."""
    weight = torch.nn.Parameter(torch.zeros(50_000))
    optimizer = torch.optim.SGD([("weight", weight)], lr=0.1, momentum=0.9)
    with Recorder(optimizer, tmp_path, coordinates=50_000, steps=()):
        weight.grad = torch.ones_like(weight)
        optimizer.step()

    def describe(meta: Meta, arrays: Arrays) -> None:
        del arrays
        block = meta["blocks"][0]
        (step,) = meta["steps"]
        meta["steps"] = [step | {"step": number} for number in range(1, 3001)]
        block["steps"] = list(range(1, 3001))

    rewrite(tmp_path, 1, describe)
    with pytest.raises(TraceError, match="3000 rows of 50000 elements in 1 slots are described of 'weight'"):
        replay(tmp_path)
