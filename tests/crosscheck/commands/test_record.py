"""`python -m crosscheck record -- …`: a script is recorded and replayed as it is, and notices nothing."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from crosscheck.__main__ import main
from tests.races import another_makes_it_first
from tests.support import ROOT, wait_for

MANY = """
import importlib.util, multiprocessing, os, sys, sitecustomize
assert importlib.util.find_spec("torch")
import torch

class Decayed(torch.optim.SGD):
    # It decays its weights although nobody asked for it.
    def step(self, closure=None):
        super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(0.999)

def train(make, steps=4, overflows=()):
    model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Linear(2, 2))
    optimizer, scaler = make(model.parameters()), torch.amp.GradScaler("cpu", enabled=bool(overflows), init_scale=4.0)
    for step in range(1, steps + 1):
        def closure():
            optimizer.zero_grad()
            loss = model(torch.randn(3, 4)).square().mean()
            scaler.scale(loss * float("inf") if step in overflows else loss).backward()
            return loss
        if overflows:
            closure()
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step(closure)
        for parameter in list(model.parameters()):
            torch.utils.swap_tensors(parameter, torch.nn.Parameter(parameter.detach().clone()))

def be_rank(rank):
    torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(rank)
    for _ in range(3):
        optimizer.zero_grad()
        with model.no_sync():
            model(torch.randn(3, 4)).square().mean().backward()
        optimizer.step()
    torch.distributed.destroy_process_group()

torch.manual_seed(0)
train(lambda p: torch.optim.SGD(p, lr=0.1), steps=5, overflows={3})
train(lambda p: Decayed(p, lr=0.1))
train(lambda p: torch.optim.LBFGS(p))
fork = multiprocessing.get_context("fork").Process
forked = [fork(target=be_rank, args=(rank,)) for rank in range(2)]
forked += [fork(target=train, args=(lambda p: torch.optim.SGD(p, lr=0.2),))]
for process in forked:
    process.start()
for process in forked:
    process.join()
os.environ["CROSSCHECK_RECORD"] = "/dev/null/nowhere"
train(lambda p: torch.optim.SGD(p, lr=0.3))
print(sitecustomize.WHOSE, *sys.argv[2:])
"""

WAITS = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
print("ready", flush=True)
time.sleep(60)
"""


def command(out: Path, script: str, *arguments: str, options: Sequence[str] = ()) -> list[str]:
    record = [sys.executable, "-m", "crosscheck", "record", "--out", str(out), *options]
    return [*record, "--", sys.executable, "-c", script, *arguments]


def record(out: Path, script: str, *arguments: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(out, script, *arguments, options=options), capture_output=True, text=True, check=False, cwd=ROOT
    )


def test_every_optimizer_that_steps_is_recorded_and_replayed(tmp_path: Path) -> None:
    """One is under a loss scaler and skips a step, one is wrong, one has no rule, one steps in a forked process, and two ranks
    never average their gradients. The last can neither be recorded nor listed, and the script goes on. All but the ranks swap
    their parameters, which torch refuses if there are weak references.
    """
    (tmp_path / "sitecustomize.py").write_text("WHOSE = 'the user'")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    arguments = command(
        tmp_path / "out",
        MANY,
        str(tmp_path / "store"),
        "--lr",
        "--",
        "1",
        options=["--json", str(tmp_path / "report.json")],
    )
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert (result.returncode, result.stdout) == (1, "the user --lr -- 1\n"), result.stderr
    reports = json.loads((tmp_path / "report.json").read_text())
    found = {name: (report["optimizer"].rpartition(".")[2], report["verdict"]) for name, report in reports.items()}
    assert found == {
        "optimizer-1": ("SGD", "match"),
        "optimizer-2": ("Decayed", "mismatch"),
        "optimizer-3": ("SGD", "match"),
        "replicated-1": ("SGD", "mismatch"),
    }
    [apart] = reports["replicated-1"]["findings"]
    assert (apart["check"], apart["step"], apart["tensor"], apart["slot"]) == ("replicas", 1, "weight", "grad")
    sgd, wrong = reports["optimizer-1"], reports["optimizer-2"]
    assert (sgd["steps"], sgd["skipped"], sgd["checks"]["loss scale"]) == (5, 1, "match")
    assert wrong["findings"][0]["step"] == 1
    assert {finding["tensor"] for finding in wrong["findings"]} <= {"0.weight", "0.bias", "1.weight", "1.bias"}

    assert "crosscheck: torch.optim.lbfgs.LBFGS is not recorded: there is no rule for LBFGS" in result.stderr
    assert (
        "If it claims one of these formulas, say which with rule=, or with --rule of the command record"
        in result.stderr
    )
    assert f"crosscheck: {tmp_path}/out/optimizer-2:\nmismatch: Decayed (single on cpu) is not sgd; " in result.stderr


@pytest.mark.parametrize(("ends", "code"), [("0", 2), ("7", 7), ("os.kill(os.getpid(), 9)", 137)])
def test_a_script_that_never_steps_an_optimizer(tmp_path: Path, ends: str, code: int) -> None:
    result = record(tmp_path / "out", f"import os, sys; print('a'); print('b', file=sys.stderr); sys.exit({ends})")
    assert (result.returncode, result.stdout) == (code, "a\n")
    first, second, *rest = result.stderr.splitlines()
    assert first == "b"
    assert second.startswith("crosscheck: no optimizer of torch took a step, so there is nothing to replay")
    assert second.endswith(f"is not seen, nor is one that cannot write to {tmp_path}/out")
    assert rest == ([] if code == 2 else [f"crosscheck: exit code {code} is the script's"])


DAMAGED = """
import pathlib, shutil, sys, torch
for _ in range(2):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for _ in range(3):
        weight.grad = torch.ones(3)
        optimizer.step()
shutil.rmtree(pathlib.Path(sys.argv[1], "optimizer-1", "segment-0001"))
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize("code", [0, 7])
def test_a_trace_that_cannot_be_replayed_hides_nothing_else(tmp_path: Path, code: int) -> None:
    """It hides neither the script's exit code nor the report of the other optimizer."""
    out, file = tmp_path / "out", tmp_path / "report.json"
    result = record(out, DAMAGED, str(out), str(code), options=["--json", str(file)])
    assert result.returncode == (code or 2)
    assert f"crosscheck: optimizer-1 cannot be replayed: {out}/optimizer-1" in result.stderr
    assert f"crosscheck: {out}/optimizer-2:\nmatch: SGD" in result.stderr
    assert list(json.loads(file.read_text())) == ["optimizer-2"]


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("(out / 'optimizers.jsonl').unlink()", "is gone, damaged, or on a full disk"),
        ("(out / 'optimizers.jsonl').write_text('{')", "is gone, damaged, or on a full disk"),
        ("(out / 'optimizer-1').mkdir()", "does not have optimizer-1"),
    ],
)
def test_what_is_not_listed_is_not_said_to_have_taken_no_step(tmp_path: Path, does: str, words: str) -> None:
    """This happens on a disk that is full, or where the script removes the folder."""
    result = record(
        tmp_path / "out", f"import pathlib, sys; out = pathlib.Path(sys.argv[1]); {does}", str(tmp_path / "out")
    )
    assert (result.returncode, "no optimizer of torch took a step" in result.stderr) == (2, False), result.stderr
    assert f"{tmp_path}/out/optimizers.jsonl {words}, so other optimizers, too, may" in result.stderr


def test_two_commands_that_start_at_the_same_moment_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    another_makes_it_first(monkeypatch)
    assert main(["record", "--", "true"]) == 2
    assert list(Path("crosscheck-record-1").iterdir()) == []
    assert [path.name for path in Path("crosscheck-record-2").iterdir()] == ["optimizers.jsonl"]


def test_of_two_commands_with_one_folder_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    look = Path.iterdir

    def before_another_takes_it(folder: Path) -> Iterator[Path]:
        found = list(look(folder))
        (folder / "optimizers.jsonl").touch()
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", before_another_takes_it)
    assert main(["record", "--out", str(tmp_path), "--", "true"]) == 2
    assert capsys.readouterr().err == f"bad input: --out {tmp_path} holds something already: choose another folder\n"


def test_signals_reach_the_script(tmp_path: Path) -> None:
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(command(tmp_path / "out", WAITS), stdout=output, stderr=output, cwd=ROOT)
        wait_for(tmp_path / "output", "ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 42


def test_what_cannot_be_run_or_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = record(tmp_path, "")
    assert (result.returncode, result.stderr) == (
        2,
        f"bad input: --out {tmp_path} holds something already: choose another folder\n",
    )
    arguments = [*command(tmp_path / "out", "")[:-3], "no-such-program"]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (result.returncode, result.stderr) == (
        2,
        "bad input: no-such-program cannot be started (No such file or directory)\n",
    )
    assert not (tmp_path / "out").exists()
