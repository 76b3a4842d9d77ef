"""A trace with damaged files gives neither a verdict nor a traceback, but names the file and what is wrong with it."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crosscheck import TraceError, UnsupportedOptimizer, replay
from tests.crosscheck.trace import trace_files
from tests.crosscheck.trace.trace_files import (
    adam,
    copy,
    part_file,
    read_part,
    record,
    replace_bytes,
    rewrite,
    run,
    segment,
    write_part,
)

Harm = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undamaged trace; every test damages a copy."""
    trace = record(tmp_path_factory.mktemp("whole") / "trace", adam)
    assert replay(trace).verdict == "match"
    return trace


@pytest.fixture
def trace(whole: Path, tmp_path: Path) -> Path:
    return copy(whole, tmp_path / "trace")


def refused(trace: Path, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that the function raises this problem, and that the command prints it in one line and returns 2."""
    with pytest.raises(TraceError, match=problem) as caught:
        replay(trace)
    assert str(trace) in str(caught.value)
    code, out, err = run(capsys, "replay", trace)
    assert (code, out) == (2, "")
    assert err == f"bad input: {caught.value}\n"
    assert err[:-1].isprintable()


def header(**changes: Any) -> Harm:
    """Return a harm that sets members of the header, or removes those that are `...`."""

    def harm(trace: Path) -> None:
        path = segment(trace) / "header.json"
        values = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}))

    return harm


def text(name: str, content: str | bytes) -> Harm:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda trace: (segment(trace) / name).write_bytes(data)


def header_with(literal: str) -> Harm:
    """Return a harm that puts a number which json.dumps would not write in the place of the seed."""

    def harm(trace: Path) -> None:
        path = segment(trace) / "header.json"
        path.write_text(path.read_text().replace('"seed": null', f'"seed": {literal}'))

    return harm


def sparse(name: str, size: int) -> Harm:
    def harm(trace: Path) -> None:
        (segment(trace) / name).touch()
        os.truncate(segment(trace) / name, size)

    return harm


def without(name: str) -> Harm:
    return lambda trace: (segment(trace) / name).unlink()


def as_file(trace: Path) -> None:
    shutil.rmtree(trace)
    trace.write_text("{}")


def emptied(trace: Path) -> None:
    shutil.rmtree(segment(trace))


def segment_as_file(trace: Path) -> None:
    shutil.rmtree(segment(trace))
    segment(trace).write_text("{}")


def header_as_folder(trace: Path) -> None:
    (segment(trace) / "header.json").unlink()
    (segment(trace) / "header.json").mkdir()


def dangling_header(trace: Path) -> None:
    (segment(trace) / "header.json").unlink()
    (segment(trace) / "header.json").symlink_to("header.json")


def another_rule(trace: Path) -> None:
    shutil.copytree(segment(trace), trace / "segment-0002")
    path = trace / "segment-0002" / "header.json"
    path.write_text(path.read_text().replace('"adam"', '"sgd"'))


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        pytest.param(shutil.rmtree, "is not a trace: there is nothing of this name", id="nothing there"),
        pytest.param(as_file, "is not a trace: it is no folder", id="a file"),
        pytest.param(emptied, "is not a trace: it holds no segment-0001", id="an empty folder"),
        pytest.param(segment_as_file, "header.json cannot be read", id="a segment that is a file"),
        pytest.param(another_rule, r"different rules \(adam, sgd\)", id="segments of different rules"),
        pytest.param(without("header.json"), "header.json cannot be read", id="no header"),
        pytest.param(header_as_folder, "header.json cannot be read", id="header is a folder"),
        pytest.param(dangling_header, "header.json cannot be read", id="header is a link to itself"),
        pytest.param(text("header.json", ""), "header.json: not JSON", id="empty header"),
        pytest.param(text("header.json", "format = 1"), "header.json: not JSON", id="not JSON"),
        pytest.param(text("header.json", b"\xff\xfe{}"), "header.json is not UTF-8", id="not UTF-8"),
        pytest.param(text("header.json", "[1, 2]"), "header.json: format is None", id="a list"),
        pytest.param(text("header.json", "[" * 100_000), "header.json: not JSON", id="100,000 brackets"),
        pytest.param(text("header.json", '{"a":' * 100_000), "header.json: not JSON", id="100,000 braces"),
        pytest.param(sparse("header.json", 65 * 2**20), "header.json is larger than", id="a header of 65 MiB"),
        pytest.param(header(format="tfevents"), "format is 'tfevents'; a trace says 'twinstep-trace'", id="format"),
        pytest.param(header(format=...), "format is None", id="no format"),
        pytest.param(header(format=["x" * 100_000]), "header.json: format is", id="a format of 100,000 characters"),
        pytest.param(header(version=2), "version is 2; this replayer reads version 1", id="version"),
        pytest.param(header(version="1"), "version is '1'; this replayer reads version 1", id="version as text"),
        pytest.param(header(version=10**400), "header.json: version is", id="version 10**400"),
        pytest.param(header(version=...), "version is None", id="no version"),
        pytest.param(header(rule=...), "header.json: rule", id="no rule"),
        pytest.param(header(rule=["adam"]), "header.json: rule", id="rule is a list"),
        pytest.param(header(color="red"), "header.json: color", id="extra key"),
        pytest.param(header(**{"a\nmatch: \x1b[2K": 1}), "header.json: ", id="extra key that writes lines"),
        pytest.param(header(**{"\ud800": 1}), "header.json: ", id="extra key that is half a character"),
        pytest.param(header(**{"k" * 100_000: 1}), "header.json: ", id="extra key of 100,000 characters"),
        pytest.param(header(optimizer="\ud800"), "header.json: not JSON", id="half a character"),
        pytest.param(header(coordinates="many"), "header.json: coordinates", id="coordinates as text"),
        pytest.param(header(coordinates=0), "header.json: coordinates", id="no coordinates"),
        pytest.param(header(rank=-1), "header.json: rank", id="negative rank"),
        pytest.param(header(versions=[1]), "header.json: versions", id="versions are a list"),
        pytest.param(header_with("1e999"), "header.json: seed", id="1e999"),
        pytest.param(header_with("NaN"), "header.json: ", id="NaN"),
        pytest.param(header_with("9" * 5000), "header.json: not JSON", id="5,000 digits"),
        pytest.param(text("end.json", "{"), "end.json: not JSON", id="end is not JSON"),
        pytest.param(text("end.json", "[]"), "end.json: ", id="end is a list"),
        pytest.param(text("end.json", '{"parts": 3}'), "end.json: last_step", id="end without a step"),
        pytest.param(text("end.json", '{"parts": 3, "last_step": 6, "x": 1}'), "end.json: x", id="end with more"),
        pytest.param(text("end.json", '{"parts": 4, "last_step": 6}'), "4 parts, 3 are there", id="parts counted"),
        pytest.param(text("end.json", '{"parts": 3, "last_step": 7}'), "end.json.*7", id="last step counted"),
        pytest.param(header(first_step=2), "begins with step 1; .* step 2 is the first", id="first step counted"),
    ],
)
def test_what_is_no_trace_is_refused(trace: Path, harm: Harm, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    harm(trace)
    refused(trace, problem, capsys)


@pytest.mark.parametrize("rule", ["muon", "", "__class__", "../adam", "a\nmatch: all is well", "r" * 10_000])
def test_an_unknown_rule_names_those_there_are(trace: Path, rule: str, capsys: pytest.CaptureFixture[str]) -> None:
    header(rule=rule)(trace)
    with pytest.raises(UnsupportedOptimizer, match="sgd, adam, adamw") as caught:
        replay(trace)
    assert str(trace) in str(caught.value)
    code, out, err = run(capsys, "replay", trace)
    assert (code, out, err) == (2, "", f"bad input: {caught.value}\n")
    assert err[:-1].isprintable()


@pytest.mark.parametrize("depth", [300, 600, 800, 850, 900, 920, 940, 950, 960, 970, 980, 990])
def test_no_depth_of_json_is_too_deep_to_be_refused(trace: Path, depth: int) -> None:
    """Near the limit of recursion either the parser or the code that prints the value may reach the limit."""
    (segment(trace) / "header.json").write_text('{"format": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(TraceError, match=r"header\.json"):
        replay(trace)


def test_a_path_that_no_file_system_takes_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "replay", "x" * 5000)
    assert (code, out) == (2, "")
    assert "cannot be read" in err or "is not a trace" in err


def cut(size: int) -> Harm:
    """Return a harm that cuts a part to `size` bytes, or by so many bytes if `size` is negative."""

    def harm(trace: Path) -> None:
        path = part_file(trace, 2)
        os.truncate(path, size if size >= 0 else path.stat().st_size + size)

    return harm


def flip(at: int) -> Harm:
    def harm(trace: Path) -> None:
        path = part_file(trace, 2)
        data = bytearray(path.read_bytes())
        data[at] ^= 0x10
        path.write_bytes(data)

    return harm


@pytest.mark.parametrize("harm", [*map(cut, (0, 1, 7, 8, 9, 500, -1)), *map(flip, (0, 8, 40, 900, -200, -1))])
def test_a_part_that_is_not_what_its_name_promises_is_refused(
    trace: Path, harm: Harm, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(trace)
    refused(trace, rf"{part_file(trace, 2).name} is damaged: its sha256", capsys)


def lost(number: int) -> Harm:
    return lambda trace: part_file(trace, number).unlink()


def moved(number: int, to: int) -> Harm:
    def harm(trace: Path) -> None:
        path = part_file(trace, number)
        path.rename(path.with_name(path.name.replace(f"{number:06}", f"{to:06}", 1)))

    return harm


def copied(number: int, to: int) -> Harm:
    def harm(trace: Path) -> None:
        path = part_file(trace, number)
        shutil.copy(path, path.with_name(path.name.replace(f"{number:06}", f"{to:06}", 1)))

    return harm


def exchanged(trace: Path) -> None:
    for number, to in ((2, 9), (3, 2), (9, 3)):
        moved(number, to)(trace)


def said_again(trace: Path) -> None:
    copied(3, 4)(trace)
    (segment(trace) / "end.json").write_text('{"parts": 4, "last_step": 6}')


def part_as_folder(trace: Path) -> None:
    path = part_file(trace, 2)
    path.unlink()
    path.mkdir()


def dangling_part(trace: Path) -> None:
    path = part_file(trace, 2)
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        pytest.param(lost(1), "part 1 is missing", id="first missing"),
        pytest.param(lost(2), "part 2 is missing", id="middle missing"),
        pytest.param(lost(3), "counts 3 parts, 2 are there", id="last missing"),
        pytest.param(moved(3, 4), "part 3 is missing", id="misnumbered"),
        pytest.param(copied(1, 2), "part 3 is missing or there twice", id="number given twice"),
        pytest.param(exchanged, "step", id="two parts exchanged"),
        pytest.param(said_again, "step", id="last part there again"),
        pytest.param(part_as_folder, "cannot be read", id="a folder"),
        pytest.param(dangling_part, "cannot be read", id="a link to itself"),
    ],
)
def test_parts_that_do_not_follow_each_other_are_refused(
    trace: Path, harm: Harm, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(trace)
    refused(trace, problem, capsys)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("victim", ["header.json", "end.json", "part"])
def test_nobody_waits_for_a_pipe(trace: Path, victim: str) -> None:
    """Opening a pipe to which nobody writes would wait for ever."""
    path = part_file(trace, 2) if victim == "part" else segment(trace) / victim
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(TraceError, match=victim):
        replay(trace)


def test_links_to_whole_parts_and_stray_files_are_fine(trace: Path, tmp_path: Path) -> None:
    path = part_file(trace, 2)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    (segment(trace) / f".{path.name}").write_text("what a killed recorder leaves")
    (trace / "notes.txt").write_text("mine")
    assert replay(trace).verdict == "match"


class Bomb:
    """An object that runs code when it is unpickled."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> Any:
        return Path.touch, (self.crater,)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_in_the_place_of_a_part_is_not_loaded(
    trace: Path, tmp_path: Path, protocol: int, capsys: pytest.CaptureFixture[str]
) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "crater"), protocol)
    replace_bytes(trace, 1, bomb)
    refused(trace, "is not a safetensors file", capsys)
    assert not (tmp_path / "crater").exists()
    pickle.loads(bomb)  # noqa: S301 (it is live)
    assert (tmp_path / "crater").exists()


def test_a_pickle_in_the_place_of_a_header_is_not_loaded(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (segment(trace) / "header.json").write_bytes(pickle.dumps(Bomb(tmp_path / "crater"), 0))
    refused(trace, "header.json: not JSON", capsys)
    assert not (tmp_path / "crater").exists()


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 8, b"\xff" * 64, b"{}", (2**40).to_bytes(8, "little") + b"{}", b"PK\x03\x04" + b"\0" * 100],
    ids=["empty", "zeros", "ones", "JSON", "header of a TiB", "zip"],
)
def test_what_is_no_safetensors_file_is_refused_under_the_right_hash(
    trace: Path, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_bytes(trace, 2, data)
    refused(trace, rf"{part_file(trace, 2).name}.*is not a safetensors file", capsys)


def test_a_safetensors_file_cut_short_is_refused_under_the_right_hash(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_bytes(trace, 2, part_file(trace, 2).read_bytes()[:-4])
    refused(trace, "is not a safetensors file", capsys)


@pytest.mark.parametrize(
    "description",
    ["", "null", "[]", "{}", "{", "[" * 100_000, "9" * 5000, '{"tensors": 1e999}', "NaN", '"text"'],
    ids=lambda text: str(text)[:20] or "nothing",
)
def test_a_part_without_a_description_is_refused(
    trace: Path, description: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = part_file(trace, 2)
    _, arrays = read_part(path)
    path.unlink()
    write_part(path.parent, 2, description, arrays)
    refused(trace, part_file(trace, 2).name, capsys)


def test_a_safetensors_file_of_someone_else_is_refused(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, arrays = read_part(part_file(trace, 2))
    replace_bytes(trace, 2, trace_files.save(arrays))
    refused(trace, part_file(trace, 2).name, capsys)


@pytest.mark.parametrize(
    "name",
    ["../../escaped", "/escaped", 'say "so"', "it's", "a\nmatch: all is well", "\x1b[2K\r", "\0", "ä" * 50_000, ""],
    ids=lambda name: repr(name)[:30],
)
def test_odd_names_are_names_and_nothing_else(
    trace: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They do not become part of a path, and printed they cannot look like a line of the report."""

    def rename(meta: dict[str, Any], arrays: object) -> None:
        del arrays
        meta["tensors"][0]["name"] = name

    for number in (1, 2, 3):
        rewrite(trace, number, rename)
    files = sorted(tmp_path.rglob("*"))
    code, out, err = run(capsys, "replay", trace, "--json", tmp_path / "report.json")
    assert (code, err) == (0, "")
    assert out.replace("\n", "").isprintable()
    assert sum(line.startswith("match: ") for line in out.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == sorted([*files, tmp_path / "report.json"])
