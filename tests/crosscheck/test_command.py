"""`python -m crosscheck replay`: its exit codes, its report as JSON, and what it says of records that prove little."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from crosscheck import Recorder, replay
from crosscheck.__main__ import main
from tests.crosscheck.recording import parts_of
from tests.crosscheck.trace.trace_files import adam, part_file, record, rewrite, run, segment, sgd
from tests.support import JAX, ROOT, TORCH, largest_file, run_without, wait_until

Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("recorded") / "trace", sgd)


@pytest.fixture
def trace(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "run" / "trace"))


def harm(trace: Path, value: float = 7.0, at: tuple[int, int] = (1, 1)) -> None:
    """Change an element of the parameter after step 4."""

    def change(meta: object, arrays: dict[str, Any]) -> None:
        del meta
        arrays["0/1/after"][at] = value

    rewrite(trace, 2, change)


def strict(path: Path) -> dict[str, Any]:
    """Read the file as JSON and fail at NaN and Infinity, which most programs do not accept."""

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_a_match_exits_0(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "replay", trace)
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("match: SGD (single on cpu) agrees with sgd as Optax computes it; 6 steps, ")


def test_a_mismatch_exits_1_and_says_where(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harm(trace)
    code, out, err = run(capsys, "replay", trace)
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[0].startswith("mismatch: SGD (single on cpu) is not sgd; ")
    assert lines[1].startswith("- step 4, bias[1], param: ")
    assert lines[2].startswith("    recorded 7, expected ")


def test_bad_input_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "replay", tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith(f"bad input: {tmp_path} is not a trace")


@pytest.mark.parametrize("arguments", [[], ["replay"], ["repaly", "x"], ["replay", "x", "--jsn", "y"]])
def test_a_wrong_command_line_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(capsys, *arguments)
    assert exit_.value.code == 2


@pytest.mark.parametrize("command", ["replay", "report", "watch", "record", "atlas"])
def test_help_lists_the_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(capsys, command, "--help")
    said = " ".join(capsys.readouterr().out.split())
    assert all(code in said for code in ("0 ", "1 ", "2 bad input", "70 an error in this program"))


def test_an_option_that_does_not_exist_shows_the_usage_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(capsys, "watch", "x", "--require", "clipping")
    err = capsys.readouterr().err
    assert err.startswith("usage: crosscheck watch ")
    assert "unrecognized arguments: --require clipping" in err


def test_a_run_that_was_not_recorded_says_how_to_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.toml").touch()
    code, out, err = run(capsys, "replay", tmp_path)
    assert (code, out) == (2, "")
    assert f"{tmp_path} is the folder of a run that recorded nothing" in err
    assert "--crosscheck.record" in err


def test_the_folder_of_a_run_will_do(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "replay", trace.parent) == run(capsys, "replay", trace)


# --json


def test_json_of_a_match(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "replay", trace, "--json", tmp_path / "report.json")[0] == 0
    report = strict(tmp_path / "report.json")
    assert (report["verdict"], report["findings"], report["steps"]) == ("match", [], 6)
    assert 0 <= report["max_eta"] < 4


def test_json_of_a_mismatch(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harm(trace)
    assert run(capsys, "replay", trace, "--json", tmp_path / "report.json")[0] == 1
    report = strict(tmp_path / "report.json")
    assert report["verdict"] == "mismatch"
    assert report["max_eta"] > 32
    first = report["findings"][0]
    assert (first["step"], first["tensor"], first["slot"], first["index"]) == (4, "bias", "param", [1])
    assert first["recorded"] == 7.0
    assert first["expected"] == pytest.approx(replay(trace).findings[0].expected)
    assert first["eta"] == report["max_eta"]
    assert set(report["eta"]) == {"param", "momentum_buffer"}
    assert report["eta"]["param"] == report["max_eta"] > 1000 > 2 > report["eta"]["momentum_buffer"]
    assert "param" in first["cause"]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_json_has_no_infinities(trace: Path, tmp_path: Path, value: float, capsys: pytest.CaptureFixture[str]) -> None:
    harm(trace, value)
    assert run(capsys, "replay", trace, "--json", tmp_path / "report.json")[0] == 1
    report = strict(tmp_path / "report.json")
    assert report["max_eta"] == "inf"
    assert report["findings"][0]["recorded"] == str(value)
    assert math.isfinite(report["findings"][0]["expected"])


def test_json_of_a_finding_without_an_element(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def forget(meta: dict[str, Any], arrays: dict[str, Any]) -> None:
        for block in meta["blocks"]:
            del block["tensors"][1]["slots"]["momentum_buffer"]
        for name in [name for name in arrays if "/1/momentum_buffer." in name]:
            del arrays[name]

    for number in (1, 2, 3):
        rewrite(trace, number, forget)
    assert run(capsys, "replay", trace, "--json", tmp_path / "report.json")[0] == 1
    first = strict(tmp_path / "report.json")["findings"][0]
    assert (first["step"], first["tensor"], first["slot"]) == (1, "bias", "momentum_buffer")
    assert (first["index"], first["recorded"], first["expected"], first["eta"]) == (None, None, None, "inf")
    assert "never written" in first["cause"]


# --html, --junit and report


def test_one_replay_writes_all_its_reports(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harm(trace)
    files = {name: tmp_path / f"report.{name}" for name in ("json", "html", "junit")}
    options = [option for name, path in files.items() for option in (f"--{name}", path)]
    code, out, err = run(capsys, "replay", trace, *options)
    assert (code, err) == (1, "")
    assert strict(files["json"])["survey"]["num_tensors"] == 2
    assert strict(files["json"])["findings"][0]["arithmetic"]["recorded"]["param"] == 7.0
    page = files["html"].read_text(encoding="utf-8")
    assert f"<title>{trace} – mismatch</title>" in page
    assert "Written out: <code>bias[1]</code> at step 4" in page
    assert 'name="bias.param"' in files["junit"].read_text()
    assert out.splitlines()[0].removeprefix("mismatch: ") in page


def test_report_is_replay_that_writes_a_page_beside_the_trace(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, page in ((trace, trace.parent / "trace.html"), (trace.parent, trace.parent / "crosscheck.html")):
        code, out, err = run(capsys, "report", given)
        assert (code, out, err) == (0, run(capsys, "replay", trace)[1], f"crosscheck: the page is {page}\n")
        assert page.read_text().count("<h2") == 4
    harm(trace)
    code, _, err = run(capsys, "report", trace, "--html", trace / "mine.html")
    assert (code, err) == (1, f"crosscheck: the page is {trace / 'mine.html'}\n")
    assert "Written out" in (trace / "mine.html").read_text()


def test_watch_writes_the_same_files(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harm(trace)
    assert run(capsys, "watch", trace, "--html", tmp_path / "page.html", "--junit", tmp_path / "tests.xml")[0] == 1
    assert "Written out" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<failure " in (tmp_path / "tests.xml").read_text(encoding="utf-8")


def test_report_of_what_is_no_trace_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "report", tmp_path / "nowhere")
    assert (code, out) == (2, "")
    assert err.startswith(f"bad input: {tmp_path / 'nowhere'} ")
    assert not list(tmp_path.parent.glob("*.html"))


@pytest.mark.parametrize("option", ["--html", "--junit"])
def test_other_files_that_cannot_be_written_are_said_before_the_work(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "replay", tmp_path, option, "/missing/report")
    assert code == 2
    assert err == f"bad input: {option} /missing/report cannot be written (there is no such folder)\n"


def no_folder(tmp_path: Path) -> Path:
    return tmp_path / "missing" / "report.json"


def below_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    return tmp_path / "file" / "report.json"


def a_folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def the_root(tmp_path: Path) -> Path:
    del tmp_path
    return Path("/")


def too_long(tmp_path: Path) -> Path:
    return tmp_path / ("x" * 300)


@pytest.mark.parametrize("place", [no_folder, below_a_file, a_folder, the_root, too_long])
def test_json_that_cannot_be_written_exits_2(
    trace: Path, tmp_path: Path, place: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = place(tmp_path)
    code, _, err = run(capsys, "replay", trace, "--json", path)
    assert code == 2
    assert err.startswith(f"bad input: --json {path} cannot be written (")
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("**/.*"))


def test_json_that_cannot_be_written_is_said_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder holds no trace either, but the report is refused before anything looks for one."""
    code, out, err = run(capsys, "replay", tmp_path, "--json", "/missing/./report.json")
    assert (code, out) == (2, "")
    assert err == "bad input: --json /missing/./report.json cannot be written (there is no such folder)\n"


def test_an_older_report_outlives_a_failure(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a full disk half of the new report is written. The half is removed and the old report stays."""
    path = tmp_path / "report.json"
    path.write_text("old")
    with largest_file(20):
        code, out, err = run(capsys, "replay", trace, "--json", path)
    assert (code, path.read_text()) == (2, "old")
    assert out.startswith("match: "), "the verdict is not lost"
    assert "File too large" in err
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["report.json"]


def test_bad_input_leaves_an_older_report_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.json").write_text("old")
    assert run(capsys, "replay", tmp_path, "--json", tmp_path / "report.json")[0] == 2
    assert (tmp_path / "report.json").read_text() == "old"


# Where a record ends


def test_a_killed_recording_replays_and_says_where_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trace is as it was before the recorder closed: five steps were taken, and two parts of two were committed."""
    monkeypatch.setattr("crosscheck.recorder.samples.sampler.TURN_STEPS", 2)
    parameter = torch.nn.Parameter(torch.randn(8, generator=torch.Generator().manual_seed(0)))
    optimizer = sgd([parameter])
    with Recorder(optimizer, tmp_path / "trace"):
        for _ in range(5):
            parameter.grad = torch.full_like(parameter, 0.5)
            optimizer.step()
        assert wait_until(lambda: len(parts_of(tmp_path / "trace")) == 2, seconds=60)  # a thread writes them
        shutil.copytree(tmp_path / "trace", tmp_path / "killed")
    code, out, _ = run(capsys, "replay", tmp_path / "killed")
    assert code == 0
    assert "4 steps" in out
    assert "segment-0001 ends at step 4 without being closed" in out
    code, out, _ = run(capsys, "replay", tmp_path / "trace")
    assert (code, "5 steps" in out, "without being closed" in out) == (0, True, False)


def test_a_recording_killed_before_its_first_part_is_vacuous(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in [*segment(trace).glob("part-*"), segment(trace) / "end.json"]:
        path.unlink()
    code, out, _ = run(capsys, "replay", trace)
    assert code == 3
    assert "ends at step 0 without being closed" in out


def test_a_part_half_written_is_not_part_of_a_killed_recording(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recorder first writes a part under a hidden name."""
    last = part_file(trace, 3)
    last.with_name(f".{last.name}").write_bytes(last.read_bytes()[:100])
    last.unlink()
    (segment(trace) / "end.json").unlink()
    code, out, _ = run(capsys, "replay", trace)
    assert (code, "ends at step 4 without being closed" in out) == (0, True)


# Records that prove nothing


def observe(folder: Path, make: Make, gradients: Iterable[torch.Tensor | None]) -> Path:
    parameter = torch.nn.Parameter(torch.arange(1.0, 9.0))
    optimizer = make([parameter])
    with Recorder(optimizer, folder) as recorder:
        for gradient in gradients:
            parameter.grad = gradient
            if gradient is not None and not gradient.isfinite().all():
                recorder.skipped()
            else:
                optimizer.step()
    return folder


def plain(lr: float) -> Make:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


ONES, ZEROS, OVERFLOW = torch.ones(8), torch.zeros(8), torch.full((8,), math.inf)


@pytest.mark.parametrize(
    ("make", "gradients", "reason"),
    [
        pytest.param(adam, [], "no step was committed", id="no step"),
        pytest.param(plain(0.0), [ONES] * 3, "nothing here could have failed", id="lr 0"),
        pytest.param(plain(0.1), [ZEROS] * 3, "nothing here could have failed", id="gradients zero"),
        pytest.param(adam, [ZEROS] * 3, "nothing here could have failed", id="gradients zero, Adam"),
        pytest.param(sgd, [OVERFLOW] * 3, "no recorded step moved anything", id="only skipped steps"),
        pytest.param(adam, [None] * 3, "no recorded step moved anything", id="no gradient ever"),
        pytest.param(plain(1e-12), [ONES] * 3, "nothing here could have failed", id="steps below rounding"),
    ],
)
def test_a_record_that_cannot_fail_is_vacuous(
    tmp_path: Path,
    make: Make,
    gradients: list[torch.Tensor | None],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trace = observe(tmp_path / "trace", make, gradients)
    code, out, err = run(capsys, "replay", trace, "--json", tmp_path / "report.json")
    assert (code, err) == (3, "")
    assert out.startswith("vacuous: ")
    assert reason in out.splitlines()[0]
    report = strict(tmp_path / "report.json")
    assert report["verdict"] == "vacuous"
    assert reason in report["reason"]


def test_one_step_that_moves_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = observe(tmp_path / "trace", plain(0.1), [ZEROS, OVERFLOW, None, ONES])
    code, out, _ = run(capsys, "replay", trace)
    assert (code, out.startswith("match: ")) == (0, True)


# Without the packages it needs

COMMAND = """
import sys
from crosscheck.__main__ import main
code = main(sys.argv[1:])
print("loaded:", *sorted({"torch", "jax"} & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


def test_without_jax_it_says_what_to_install(trace: Path) -> None:
    result = run_without(JAX, COMMAND, "replay", trace)
    assert (result.returncode, result.stdout) == (2, "")
    message = result.stderr.splitlines()[0]
    assert message == (
        "bad input: replay needs jax, which is not installed: pip install '.[replay]' in a clone of Twinstep"
    )


def test_without_jinja2_the_page_says_what_to_install_and_the_rest_works(trace: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run_without(("jinja2", "jax"), COMMAND, "replay", trace, "--html", page)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[0] == (
        "bad input: --html needs jinja2, which is not installed: pip install '.[page]' in a clone of Twinstep"
    )
    assert not page.exists()
    result = run_without(("jinja2", *TORCH), COMMAND, "replay", trace, "--junit", tmp_path / "report.xml")
    assert (result.returncode, result.stderr) == (0, "loaded: jax\n")


def test_without_torch_the_atlas_says_what_to_install() -> None:
    result = run_without(TORCH, COMMAND, "atlas")
    assert (result.returncode, result.stdout) == (2, "")
    message = result.stderr.splitlines()[0]
    assert message == (
        "bad input: atlas needs torch, which is not installed: pip install '.[train]' in a clone of Twinstep"
    )


def test_without_torch_it_replays(trace: Path) -> None:
    result = run_without(TORCH, COMMAND, "replay", trace)
    assert (result.returncode, result.stderr) == (0, "loaded: jax\n")
    assert result.stdout.startswith("match: ")


TWICE = """
import gc
import sys
from crosscheck.__main__ import main
main(sys.argv[1:])
frozen = gc.get_freeze_count()
main(sys.argv[1:])
assert 0 < gc.get_freeze_count() <= frozen  # fewer, as some of it went out of use
"""


def test_a_second_replay_in_one_process_leaves_nothing_that_is_never_freed(trace: Path) -> None:
    subprocess.run([sys.executable, "-c", TWICE, "replay", str(trace)], check=True, cwd=ROOT)


def test_as_a_program_with_an_odd_terminal(trace: Path) -> None:
    """A name that the terminal cannot encode does not stop the command."""

    def rename(meta: dict[str, Any], arrays: object) -> None:
        del arrays
        for tensor in meta["tensors"]:
            tensor["name"] = "größe→"

    for number in (1, 2, 3):
        rewrite(trace, number, rename)
    result = subprocess.run(
        [sys.executable, "-m", "crosscheck", "replay", str(trace)],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env={"PYTHONIOENCODING": "ascii", "JAX_PLATFORMS": "cpu"},
    )
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.startswith(b"match: ")


# What is no verdict is never exit code 1


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("value", [None, 7.0], ids=["match", "mismatch"])
def test_a_stream_that_python_found_closed_changes_no_verdict(
    trace: Path, stream: str, value: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        harm(trace, value)
    monkeypatch.setattr(sys, stream, None)
    assert main(["replay", str(trace)]) == (value is not None)


def test_a_program_without_output_and_error_has_an_exit_code_and_writes_its_report_only(
    trace: Path, tmp_path: Path
) -> None:
    """What is printed must not end in the files that are opened in place of the streams."""
    harm(trace)
    command = [sys.executable, "-m", "crosscheck", "replay", trace, "--json", tmp_path / "report.json"]
    shell = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command]
    assert subprocess.run(shell, check=False, cwd=ROOT).returncode == 1
    assert strict(tmp_path / "report.json")["verdict"] == "mismatch"


@pytest.mark.parametrize("seconds", ["-1", "soon", "nan"])
def test_seconds_that_are_none_are_refused_in_words(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["watch", "trace", "--timeout", seconds])
    assert f"--timeout: {seconds!r} is no number of seconds, which is 0 or more" in capsys.readouterr().err


def test_a_full_disk_under_standard_output_is_no_mismatch(trace: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "crosscheck", "replay", trace, "--json", report],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert strict(report)["verdict"] == "match"
    assert (done.returncode, done.stderr) == (
        2,
        "bad input: standard output cannot be written (No space left on device)\n",
    )


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "crosscheck: interrupted, and there is no verdict\n"),
        (ZeroDivisionError("planted"), 70, "crosscheck: there is no verdict: this is a mistake of crosscheck itself"),
        (ModuleNotFoundError(name="crosscheck.rules.lion"), 70, "crosscheck: there is no verdict: this is a mistake"),
        (ModuleNotFoundError("planted"), 70, "crosscheck: there is no verdict: this is a mistake of crosscheck itself"),
        (ModuleNotFoundError(name="jax.extend"), 2, "bad input: replay needs jax, which is not installed"),
    ],
)
def test_what_ends_a_replay_is_no_verdict(
    error: BaseException,
    code: int,
    says: str,
    trace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr("crosscheck.replayer.replay", fail)
    found, out, err = run(capsys, "replay", trace)
    assert (found, out) == (code, "")
    assert says in err
