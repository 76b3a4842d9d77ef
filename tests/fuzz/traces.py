"""The formats of the cross-check that are attacked: every file of a trace, read by `python -m crosscheck replay`.

The hash in a file's name is always made right, or no reader would look further. A part and a pass are attacked three times: in
the bytes of the file; in the JSON that describes it; and in the list of its arrays, of which each can get another name, type and
shape.
"""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from crosscheck.__main__ import main
from distrib.crosscheck import read_report
from distrib.errors import BadInput, RunFault
from distrib.training import summary
from tests.crosscheck.trace.trace_files import Arrays, adam, read_part, record, record_pass, segment, sgd, write_bytes
from tests.fuzz.format import Format, plain

_LARGEST_ARRAY = 2**24  # bytes that an attack writes
_TYPES = ("bool", "int8", "uint8", "int16", "int32", "int64", "uint64", "float16", "float32", "float64", "complex64")


def replay(trace: Path) -> None:
    """Replay the trace as the command does. Raises BadInput where it refuses, and AssertionError where it breaks."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        code = main(["replay", str(trace)])
    if code == 2:
        raise BadInput(errors.getvalue().removesuffix("\n"))
    assert code in (0, 1, 3), errors.getvalue()


def _text(name: str) -> Callable[[Path], Format]:
    def make(place: Path) -> Format:
        trace = record(place / name, sgd)
        file = segment(trace) / name
        return plain(f"trace {name}", file, file.read_bytes(), lambda: replay(trace))

    return make


def _hashed(kind: str, what: str, make_trace: Callable[[Path], Path]) -> Callable[[Path], Format]:
    """Return a format that is the first part or pass of a trace. `what`: its bytes, its description or its arrays."""
    pattern = {"part": "part-{:06}", "pass": "pass-{:08}"}[kind]

    def make(place: Path) -> Format:
        trace = make_trace(place / f"{make_trace.__name__} {kind} {what}")
        path = next(segment(trace).glob(f"{pattern.format(1)}.*"))
        right, (meta, arrays) = path.read_bytes(), read_part(path)
        file = trace / what
        seeds = {
            "bytes": right,
            "description": json.dumps(meta).encode(),
            "arrays": json.dumps(_listed(arrays)).encode(),
        }
        file.write_bytes(seeds[what])

        def write(data: bytes) -> None:
            if what == "description":
                data = save(arrays, {"twinstep": data.decode(errors="replace")})
            if what == "arrays":
                data = save(_arrays(data, arrays), {"twinstep": json.dumps(meta)})
            for old in segment(trace).glob(f"{pattern.format(1)}.*"):
                old.unlink()
            write_bytes(segment(trace), 1, data, kind=pattern)

        return Format(f"{make_trace.__name__} {kind} {what}", file, lambda: replay(trace), write)

    return make


def _listed(arrays: Arrays) -> list[list[object]]:
    return [[name, array.dtype.name, *array.shape] for name, array in arrays.items()]


def _arrays(data: bytes, arrays: Arrays) -> Arrays:
    """Return the arrays as an attack lists them; what it lists wrongly is left out."""
    found: Arrays = {}
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        for entry in cast(list[Any], json.loads(data)):
            with contextlib.suppress(ValueError, TypeError, KeyError, IndexError, MemoryError):
                name, dtype, *shape = entry
                if dtype not in _TYPES:
                    raise ValueError
                found[str(name)] = _of_shape(arrays.get(name, np.zeros(1)).astype(dtype), tuple(shape))
    return found


def _of_shape(array: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Return an array of another shape with the same elements, again and again. Raises ValueError for one too large."""
    if np.prod(shape, dtype=float) * array.itemsize > _LARGEST_ARRAY:
        raise ValueError
    return np.ascontiguousarray(np.resize(array, shape))


def record_sgd(folder: Path) -> Path:
    """Record six steps of SGD. Return the trace."""
    return record(folder, sgd)


def record_adam(folder: Path) -> Path:
    """Record six steps of Adam. Return the trace."""
    return record(folder, adam)


def report(place: Path) -> Format:
    """Attack the report of a replay, which the trainer reads back into its summary."""
    folder = place / "report"
    trace = record(folder / "trace", sgd)
    file = folder / "crosscheck.json"
    with contextlib.redirect_stdout(io.StringIO()):
        main(["replay", str(trace), "--json", str(file)])
    (folder / "summary.json").write_text(json.dumps({"steps": 6, "crosscheck": {"verdict": "pending"}}))

    def read() -> None:
        try:
            summary.add_verdict(folder, read_report(file))
        except RunFault as error:
            raise BadInput(str(error)) from None

    return plain("crosscheck.json", file, file.read_bytes(), read)


TRACES: list[Callable[[Path], Format]] = [
    report,
    *map(_text, ("header.json", "end.json")),
    *(_hashed("part", what, make) for make in (record_sgd, record_adam) for what in ("bytes", "description", "arrays")),
    *(_hashed("pass", what, record_pass) for what in ("bytes", "description", "arrays")),
]
