"""Record the optimizers of a script as it is, and replay.

Every optimizer that the script steps, also in processes that it starts, is recorded from its first step on into a folder of
its own; the ranks of DDP share one, and are compared. The script keeps its standard input, output and error, its signals and its
exit code; the report goes to standard error. The exit code is the script's if the script failed (128 + N if signal N ended it).
Otherwise it is that of the replay: 0 match, 1 mismatch, 2 bad input (no optimizer was stepped, none could be recorded, or a trace
cannot be replayed), 3 vacuous, 70 an error in this program; of several optimizers the worst.
"""

import argparse
import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType
from typing import Any

from crosscheck.commands.jax_modules import import_jax
from crosscheck.commands.output import EXIT_BAD_INPUT, expect_writable, refuse, tell, write
from crosscheck.commands.replay import add_require
from crosscheck.errors import TraceError, UnsupportedOptimizer
from crosscheck.json_text import strict_json
from crosscheck.report.report import Report
from crosscheck.report.verdict import EXIT_CODES, Verdict
from crosscheck.startup.sitecustomize import FOLDER, LIST, RULE

HELP = "record the optimizers of a script as it is, and replay: record [options] -- python train.py ..."
_PASSED_ON = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_TRACES = ("optimizer-", "replicated-")
"""How the names of traces begin that the recorder makes (`crosscheck/recorder/unmodified.py`)."""
_OF_TERMINALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.usage = "%(prog)s [OPTION ...] -- COMMAND ..."
    parser.add_argument(
        "script", nargs="+", metavar="-- COMMAND", help="what runs the script, such as: python train.py"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="a new folder for the traces (crosscheck-record-N)")
    parser.add_argument(
        "--rule", default="auto", help="the formula that the optimizers claim: sgd, adam, adamw; auto goes by the class"
    )
    add_require(parser)
    parser.add_argument("--json", metavar="FILE", help="also write the reports as JSON, by the name of the trace")


def run(options: argparse.Namespace) -> int:
    """Run the script, replay what was recorded, print the reports, and return the exit code."""
    if options.json is not None:
        expect_writable("--json", options.json)
    if importlib.util.find_spec("jax") is None:  # before hours of training
        raise ModuleNotFoundError(name="jax")
    folder = _new_folder(options.out)
    try:
        code = _run_script(options.script, {FOLDER: str(folder.absolute()), RULE: options.rule})
    except OSError as error:
        (folder / LIST).unlink()
        folder.rmdir()
        return refuse(f"{options.script[0]} cannot be started ({error.strerror})")
    reports, failed = _replay_all(folder, options.require)
    if options.json is not None:
        write("--json", options.json, strict_json({name: asdict(report) for name, report in reports.items()}) + "\n")
    if code:
        tell(f"exit code {code} is the script's")
        return code
    if failed:
        return EXIT_BAD_INPUT
    verdicts = [report.verdict for report in reports.values()]
    return EXIT_CODES[Verdict.worst(verdicts)] if verdicts else EXIT_BAD_INPUT


def _new_folder(wanted: Path | None) -> Path:
    """Make the folder of the traces, and in it the empty list of optimizers, and return it.

    Raises TraceError if it cannot be made, or holds something. Of two commands that take one folder at once, the one that makes
    the list has it.
    """
    folder = wanted or _numbered_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_free = not any(folder.iterdir())
        if is_free:
            with suppress(FileExistsError):
                (folder / LIST).touch(exist_ok=False)
                return folder
    except OSError as error:
        raise TraceError(f"--out {folder} cannot be written ({error.strerror}): choose another folder") from None
    raise TraceError(f"--out {folder} holds something already: choose another folder")


def _numbered_folder() -> Path:
    """Make the first crosscheck-record-N that is not there, and return it. Raises TraceError."""
    for number in itertools.count(1):
        folder = Path(f"crosscheck-record-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise TraceError(f"{folder} cannot be made ({error.strerror}): choose another folder with --out") from None
    raise AssertionError("there is always another number")


def _run_script(script: list[str], variables: Mapping[str, str]) -> int:
    """Run the script to its end, and return its exit code as a shell would. Raises OSError if it cannot be started."""
    import crosscheck.startup as startup

    path = [str(Path(startup.__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    with _signals() as to:
        to.append(process := subprocess.Popen(script, env=environment))
        code = process.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _signals() -> Generator[list["subprocess.Popen[bytes]"]]:
    """Pass signals on to the processes that are put into the list, but for those that a terminal sends them itself."""
    processes: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if number not in _OF_TERMINALS or not _in_foreground():
            for process in processes:
                process.send_signal(number)

    earlier = {number: signal.getsignal(number) for number in _PASSED_ON}
    ours = [number for number, handler in earlier.items() if handler != signal.SIG_IGN]  # nohup's wish
    for number in ours:
        signal.signal(number, pass_on)
    try:
        yield processes
    finally:
        for number in ours:
            signal.signal(number, earlier[number])


def _in_foreground() -> bool:
    """Return whether a terminal sends its signals to this process, and so to the script as well."""
    with suppress(OSError):
        return os.tcgetpgrp(0) == os.getpgrp()
    return False


def _replay_all(folder: Path, require: list[str]) -> tuple[dict[str, Report], bool]:
    """Replay all traces and print what there is to say of each optimizer.

    Return the reports, and whether one is or may be missing.
    """
    listed, is_whole = _listed(folder)
    for entry in listed:
        if "refused" in entry:
            tell(f"{entry['optimizer']} is not recorded: {entry['refused']}")
    traces = list(dict.fromkeys(entry["trace"] for entry in listed if "trace" in entry))  # ranks share one
    unlisted = sorted({path.name for path in folder.glob("*") if path.name.startswith(_TRACES)} - set(traces))
    if unlisted or not is_whole:
        is_whole = False
        what = f"does not have {', '.join(unlisted)}" if unlisted else "is gone, damaged, or on a full disk"
        tell(f"{folder / LIST} {what}, so other optimizers, too, may have taken steps without being listed")
    elif not listed:
        tell(
            "no optimizer of torch took a step, so there is nothing to replay. An interpreter that ignores PYTHONPATH "
            f"(python -I, -E or -S) is not seen, nor is one that cannot write to {folder}"
        )
    traces += unlisted
    if not traces:
        return {}, not is_whole
    import_jax()
    from crosscheck.replayer import replay

    reports: dict[str, Report] = {}
    for name in traces:
        try:
            reports[name] = replay(folder / name, require=require)
        except (TraceError, UnsupportedOptimizer) as error:
            tell(f"{name} cannot be replayed: {error}")
            continue
        tell(f"{folder / name}:")
        print(reports[name], file=sys.stderr, flush=True)
    return reports, len(reports) < len(traces) or not is_whole


def _listed(folder: Path) -> tuple[list[dict[str, Any]], bool]:
    """Return what is told of each optimizer that was stepped, and whether that can be all: a full disk takes no line,
    or half of one.
    """
    try:
        lines = (folder / LIST).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return [], False
    entries: list[dict[str, Any]] = []
    for line in lines:
        with suppress(ValueError):
            entries.append(json.loads(line))
    return entries, len(entries) == len(lines) and (bool(entries) or _takes_files(folder))


def _takes_files(folder: Path) -> bool:
    try:
        with TemporaryFile(dir=folder) as probe:
            probe.write(b"\n")
    except OSError:
        return False
    return True
