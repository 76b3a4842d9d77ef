"""An error that may pass by itself does not end a replay; one that stays is bad input in one line, whichever call met it."""

import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from crosscheck import Recorder, TraceError, replay
from crosscheck.trace import reader
from crosscheck.trace.reader import may_begin, segment_folders
from tests.crosscheck.trace.trace_files import copy, record_pass, run

LIST = "scandir" if sys.version_info >= (3, 13) else "listdir"
"""The function of `os` by which `Path.iterdir` lists a folder."""
Watched = Callable[[Callable[[int], bool], int], list[str]]
"""From the calls that fail, by their number, and the error: starts to watch, and returns the calls in their order."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace with a part and a pass."""
    return record_pass(tmp_path_factory.mktemp("busy"))


@pytest.fixture
def trace(recorded: Path, tmp_path: Path) -> Path:
    return copy(recorded, tmp_path / "trace")


@pytest.fixture
def watched(trace: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Make calls on the trace's files fail."""
    monkeypatch.setattr("crosscheck.files._PAUSES", (0.0, 0.0, 0.0))

    def start(fails: Callable[[int], bool], number: int) -> list[str]:
        calls: list[str] = []

        def watch(owner: Any, name: str) -> None:
            original: Callable[..., Any] = getattr(owner, name)

            def call(path: Any, *args: Any, **kwargs: Any) -> Any:
                if str(path).startswith(str(trace)):
                    calls.append(f"{name} {path}")
                    if fails(len(calls) - 1):
                        raise OSError(number, os.strerror(number), str(path))
                return original(path, *args, **kwargs)

            monkeypatch.setattr(owner, name, call)

        for owner, name in ((os, "stat"), (os, LIST), (io, "open"), (reader, "safe_open")):
            watch(owner, name)
        return calls

    return start


@pytest.mark.parametrize("number", [errno.EBUSY, errno.ESTALE])
def test_what_may_pass_is_tried_again(trace: Path, watched: Watched, number: int) -> None:
    """Every call fails, and succeeds when it is made again."""
    calls = watched(lambda call: call % 2 == 0, number)
    assert replay(trace).verdict == "match"
    assert len({call.split()[0] for call in calls}) == 4
    assert len(calls) > 30


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EIO])
def test_what_stays_is_told_with_the_file(
    trace: Path, watched: Watched, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    first = [10**6]
    calls = watched(lambda call: call >= first[0], number)
    replay(trace)
    for first[0] in range(len(calls)):
        calls.clear()
        code, out, err = run(capsys, "replay", trace)
        assert (code, out) == (2, "")
        assert err.startswith("bad input: "), err
        assert f"cannot be read ({os.strerror(number)})" in err
        assert str(trace) in err
        assert err.count("\n") == 1


def test_nobody_falls_over_a_folder_that_cannot_be_listed(trace: Path, watched: Watched) -> None:
    """`watch` lists folders again and again while it waits."""
    watched(lambda _: True, errno.EIO)
    for look in (segment_folders, may_begin):
        with pytest.raises(TraceError, match="cannot be read"):
            look(trace)


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EIO])
@pytest.mark.parametrize("call", ["mkdir", LIST, "chmod", "rename", "fsync"])
def test_a_segment_begins_on_a_disk_that_was_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """What may pass is tried again; after what stays, nothing half begun is left."""
    monkeypatch.setattr("crosscheck.files._PAUSES", (0.0, 0.0, 0.0))
    original: Callable[..., Any] = getattr(os, call)
    failed: list[int] = []

    def fail_at_first(*args: Any, **kwargs: Any) -> Any:
        if not failed:
            failed.append(number)
            raise OSError(number, os.strerror(number), str(args[0]))
        return original(*args, **kwargs)

    monkeypatch.setattr(os, call, fail_at_first)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))])
    trace = tmp_path / "trace"
    if number == errno.EBUSY:
        Recorder(optimizer, trace).close()
        assert [entry.name for entry in trace.iterdir()] == ["segment-0001"]
        assert reader.open_trace(trace)[0].end is not None
    else:
        with pytest.raises(TraceError, match=r"trace cannot be written \(Input/output error\)") as caught:
            Recorder(optimizer, trace)
        assert isinstance(caught.value.__cause__, OSError)  # by which the trainer knows a disk that breaks
        assert not list(trace.glob(".segment*"))
    assert failed == [number]
