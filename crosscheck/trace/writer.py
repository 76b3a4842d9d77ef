"""Writing a trace: every file appears whole, under its final name, or not at all."""

import errno
import hashlib
import re
import shutil
from pathlib import Path
from tempfile import mkdtemp

import safetensors.torch
import torch
from pydantic import BaseModel

from crosscheck.errors import TraceError
from crosscheck.files import retry_transient, sync, write_whole
from crosscheck.trace.format import METADATA_KEY, PASS_NAME, SEGMENT_NAME, End, Header, Part, Pass
from crosscheck.trace.parsing import read_header, reading


def passes_on_record(trace: Path) -> set[int]:
    """Return the steps whose forward and backward passes the trace in this folder holds; none if there is no trace."""
    matches = (re.fullmatch(PASS_NAME, file.name) for file in trace.glob("segment-*/pass-*"))
    return {int(match[1]) for match in matches if match}


class SegmentWriter:
    """One segment of a trace, part after part."""

    def __init__(self, trace: Path, header: Header, *, append: bool) -> None:
        """Open a segment of the header's rank.

        Raises TraceError if the folder cannot be written, holds a trace while `append` is not set, or holds steps of another rule
        or a header that no replay can read.
        """
        _expect_rule(trace, header.rule)
        if header.rank:
            trace = trace / f"rank-{header.rank:04}"
            _expect_rule(trace, header.rule)
        try:
            self.folder = retry_transient(trace, lambda: _begin(trace, header, append=append))
            retry_transient(trace, lambda: sync(trace))
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and error.filename2 is not None:  # of the rename
                raise TraceError(
                    f"{error.filename2}: somebody else began it at this moment. If several ranks record, give each its rank= and "
                    "world_size=: then they write one trace"
                ) from error
            raise TraceError(f"{trace} cannot be written ({error.strerror}): choose another folder") from error
        self.parts = 0

    def write(self, part: Part, arrays: dict[str, torch.Tensor]) -> int:
        """Commit a part. Returns its bytes. Raises OSError; what was committed before stays."""
        nbytes = self._write(f"part-{self.parts + 1:06}", part, arrays)
        self.parts += 1
        return nbytes

    def write_pass(self, described: Pass, arrays: dict[str, torch.Tensor]) -> None:
        """Write one forward and backward pass to a file of its own. Raises OSError."""
        self._write(f"pass-{described.step:08}", described, arrays)

    def _write(self, name: str, described: BaseModel, arrays: dict[str, torch.Tensor]) -> int:
        data = safetensors.torch.save(arrays, {METADATA_KEY: described.model_dump_json(exclude_defaults=True)})
        write_whole(self.folder / f"{name}.{hashlib.sha256(data).hexdigest()}.safetensors", data)
        return len(data)

    def close(self, last_step: int, stopped: str | None = None) -> None:
        """Say that the recording ended here on purpose, or why it could not go on."""
        write_whole(self.folder / "end.json", _as_bytes(End(parts=self.parts, last_step=last_step, stopped=stopped)))

    def remove(self) -> None:
        """Remove the segment, so that another can be begun in its place."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _begin(trace: Path, header: Header, *, append: bool) -> Path:
    """Make the folder of the next segment, with its header. Raises TraceError, or OSError after which nothing new is there."""
    trace.mkdir(parents=True, exist_ok=True)
    earlier = [int(m[1]) for m in (re.fullmatch(SEGMENT_NAME, entry.name) for entry in trace.iterdir()) if m]
    if earlier and not append:
        raise TraceError(
            f"{trace} holds a trace already: choose another folder, or append=True to continue it. If several ranks "
            "record, give each its rank= and world_size=: then they write one trace"
        )
    number = len(earlier) + 1
    if sorted(earlier) != list(range(1, number)):
        raise TraceError(
            f"{trace} holds segment-{max(earlier):04}, but {number - 1} segments in all: no replay can read that; move what is "
            "not of this run out of it, or choose another folder"
        )
    folder = trace / f"segment-{number:04}"
    unfinished = Path(mkdtemp(dir=trace, prefix=f".{folder.name}-"))
    try:
        write_whole(unfinished / "header.json", _as_bytes(header))
        unfinished.chmod(0o755)  # temporary folders are private; a trace is not
        unfinished.rename(folder)  # a segment is never without its header
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return folder


def _expect_rule(trace: Path, rule: str) -> None:
    """Raise TraceError if a folder holds steps of another rule, or a header that no replay can read."""
    path = trace / "segment-0001" / "header.json"
    if not reading(path, path.exists):
        return
    try:
        held = read_header(path).rule
    except TraceError as error:
        raise TraceError(f"{error}. No replay could read what is added to it: choose another folder") from None
    if held != rule:
        raise TraceError(
            f"{trace} holds steps of {held}, and these are of {rule}, but a replay takes one rule: choose another folder"
        )


def _as_bytes(model: BaseModel) -> bytes:
    return (model.model_dump_json(indent=2) + "\n").encode()
