"""The commands of the launch files run with the real `accelerate launch`."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from distrib.launcher import USAGE, main
from tests.processes import MARK, kill_marked
from tests.support import QUICKSTART, ROOT, SMALL, free_port, losses, read_json, train_well, wait_for, wait_until

pytestmark = pytest.mark.usefixtures("signals_put_back")
Launch = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """A function that starts a launcher.

    After the test all processes that are left are killed, ranks too, although they are in sessions of their own.
    """

    def start(
        *arguments: str | Path, by: str = "accelerate.commands.launch", **environment: str
    ) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", by, *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {MARK: f"{tmp_path}:launch:0"} | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        return launchers.enter_context(process)

    with ExitStack() as launchers:
        yield start
        assert wait_until(lambda: not kill_marked(f"{tmp_path}:"), 10)


@pytest.fixture
def run(launch: Launch) -> Run:
    """A function that launches, waits, and returns the exit code, standard output and standard error."""

    def to_its_end(*arguments: str | Path, **how: str) -> tuple[int, str, str]:
        process = launch(*arguments, **how)
        out, err = process.communicate(timeout=400)
        return process.returncode, out, err

    return to_its_end


def test_one_and_two_processes_give_the_same_curve(tmp_path: Path, run: Run) -> None:
    """One is started by Accelerate's own command, two by ours, which finds launch/cpu-2.yaml and the recipe by their names."""
    command = ("-m", "distrib.train", "quickstart", *SMALL)
    for size, file, how in (
        (1, ("-q", "--config_file", "launch/cpu.yaml"), {}),
        (2, ("--config_file", "cpu-2"), {"by": "distrib.launcher"}),
    ):
        folder = tmp_path / str(size)
        code, out, err = run(*file, *command, f"--training.world_size={size}", "--output.dir", folder, **how)
        assert code == 0, err
        assert out.count("done: ") == 1
        assert read_json(folder / "summary.json")["world_size"] == size
    assert losses(tmp_path / "2") == pytest.approx(losses(tmp_path / "1"), rel=2e-5)


def test_the_launch_that_silently_starts_one_process_is_refused(tmp_path: Path, run: Run) -> None:
    options = (*SMALL, "--training.world_size=2", "--output.dir", tmp_path)
    code, _, err = run("-q", "--cpu", "--num_processes", "2", "-m", "distrib.train", QUICKSTART, *options)
    assert code != 0
    assert "training.world_size = 2, but this run has 1 process:" in err
    assert "launch/cpu-2.yaml" in err


def test_two_machines_join_one_world(tmp_path: Path, launch: Launch) -> None:
    """Run launch/multi-node.yaml with smaller numbers and with both machines on this one."""
    size = ("--num_machines", "2", "--num_processes", "2", "--main_process_ip", "127.0.0.1")
    port = ("--main_process_port", str(free_port()))
    options = (QUICKSTART, *SMALL, "--training.world_size=2", "--output.dir", tmp_path)
    nodes = [
        launch("--config_file", "launch/multi-node.yaml", *size, *port, "--machine_rank", str(rank),
               "-m", "distrib.train", *options, CUDA_VISIBLE_DEVICES="")
        for rank in (0, 1)
    ]  # fmt: skip
    outputs = [node.communicate(timeout=400) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert read_json(tmp_path / "summary.json")["world_size"] == 2
    assert "done: " in outputs[0][0]
    assert outputs[1][0] == ""


def test_bad_input_of_two_ranks_is_one_line_and_exit_code_2(tmp_path: Path, launch: Launch) -> None:
    options = ("--training.world_size=2", "--data.source=folder:/nowhere", "--output.dir", tmp_path)
    command = ("--config_file", "launch/cpu-2.yaml", "-m", "distrib.train", QUICKSTART, *options)
    process = launch(*command, by="distrib.launcher")
    _, err = process.communicate(timeout=400)
    assert (process.returncode, err.count("\n")) == (2, 1), err
    assert err.startswith("bad input: ")
    assert read_json(tmp_path / "status.json")["exit_code"] == 2


def test_after_a_ctrl_c_the_trainer_has_the_last_word(tmp_path: Path, launch: Launch) -> None:
    """A terminal sends the signal to the launcher and to all ranks."""
    command = ("--config_file", "launch/cpu-2.yaml", "-m", "distrib.train", QUICKSTART, *SMALL)
    process = launch(*command, "--training.epochs=500", "--output.dir", tmp_path, by="distrib.launcher")
    wait_for(tmp_path / "metrics.jsonl", '"step": 5,')
    for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children()):
        each.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=400)
    assert (process.returncode, err) == (75, "\n" if err else ""), err
    assert out.rstrip().splitlines()[-1].startswith("stopped on request (SIGINT) after step ")


@pytest.mark.parametrize(("world", "number"), [("cpu", signal.SIGINT), ("cpu-2", signal.SIGUSR1)])
def test_a_signal_to_the_launcher_alone_stops_the_run(
    tmp_path: Path, launch: Launch, world: str, number: signal.Signals
) -> None:
    command = ("--config_file", world, "-m", "distrib.train", QUICKSTART, *SMALL, "--training.epochs=500")
    process = launch(*command, "--output.dir", tmp_path, by="distrib.launcher")
    wait_for(tmp_path / "metrics.jsonl", '"step": 5,')
    ranks = psutil.Process(process.pid).children()
    process.send_signal(number)
    out, err = process.communicate(timeout=400)
    assert (process.returncode, err) == (75, "\n" if err else ""), err
    assert out.rstrip().splitlines()[-1].startswith(f"stopped on request ({number.name}) after step ")
    assert not any(rank.is_running() for rank in ranks)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_there_are_ranks(tmp_path: Path, number: signal.Signals) -> None:
    """Importing the launcher, with all of torch, takes seconds, and asks the system several things by programs of its own."""
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "__init__.py").write_text(
        f"import os, subprocess, time\nsubprocess.Popen(['sleep', '1'])\nos.kill(os.getpid(), {number:d})\ntime.sleep(60)\n"
    )
    environment = os.environ | {
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "TMPDIR": str(tmp_path),
        "TWINSTEP_STATUS": str(tmp_path / "s.json"),
    }
    command = [sys.executable, "-m", "distrib.launcher", "-m", "distrib.train", "quickstart"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    said = f"\nstopped on request ({number.name}) before the run began; the same command starts it\n"
    assert (result.returncode, result.stderr) == (75, said)
    assert read_json(tmp_path / "s.json")["exit_code"] == 75
    assert not list(tmp_path.glob("twinstep-*"))


def test_a_signal_after_the_run_has_ended_changes_nothing(tmp_path: Path) -> None:
    """One comes when the run has said how it ended, and one while the interpreter ends. A stand-in for the package sends them."""
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "__init__.py").write_text(
        "import atexit, os, signal, sys\n"
        "open(os.environ['TWINSTEP_STATUS'], 'w').write('{\"exit_code\": 1}')\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGTERM)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(3)\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "TWINSTEP_STATUS": str(tmp_path / "s.json")}
    command = [sys.executable, "-m", "distrib.launcher", "-m", "distrib.train", "quickstart"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (3, "")
    assert read_json(tmp_path / "s.json")["exit_code"] == 1


def test_a_rank_that_dies_of_the_request_was_stopped(tmp_path: Path, launch: Launch) -> None:
    """So does one of the trainer's, if the signal comes before it hears any."""
    (tmp_path / "deaf.py").write_text("import sys, time\nopen(sys.argv[1], 'w').close()\ntime.sleep(60)\n")
    process = launch(
        "--config_file",
        "cpu",
        tmp_path / "deaf.py",
        tmp_path / "runs",
        by="distrib.launcher",
        TWINSTEP_STATUS=str(tmp_path / "s.json"),
    )
    assert wait_until((tmp_path / "runs").exists, 300)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=400)
    said = "stopped on request (SIGTERM) before a rank could say where it stands; the same command goes on"
    assert (process.returncode, err.strip()) == (75, said)


def test_the_status_of_an_earlier_launch_is_not_this_one_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = tmp_path / "s.json"
    earlier.write_text('{"exit_code": 75}')
    monkeypatch.setenv("TWINSTEP_STATUS", str(earlier))
    assert main(["--config_file", "nosuch", "-m", "distrib.train", "quickstart"]) == 2
    assert "nosuch" in capsys.readouterr().err
    assert not earlier.exists()


def test_a_rank_that_is_killed_is_a_fault_of_the_launch(tmp_path: Path, launch: Launch) -> None:
    command = ("--config_file", "launch/cpu.yaml", "-m", "distrib.train", QUICKSTART, *SMALL)
    process = launch(*command, "--training.epochs=500", "--output.dir", tmp_path, by="distrib.launcher")
    wait_for(tmp_path / "metrics.jsonl", '"step": 5,')
    psutil.Process(process.pid).children()[0].kill()
    _, err = process.communicate(timeout=400)
    assert (process.returncode, "Traceback" in err) == (128 + signal.SIGKILL, False), err


def test_a_killed_rank_is_started_again_with_the_others(tmp_path: Path, run: Run) -> None:
    """With --max_restarts on one machine the weights are those of an undisturbed run."""
    options = (*SMALL, "--checkpoint.every_steps=2", "--training.world_size=2", "--model.name=tests.networks:Killed")
    straight = train_well(tmp_path / "straight", *options, world_size=2)
    command = ("-q", "--config_file", "launch/cpu-2.yaml", "--max_restarts", "1", "-m", "distrib.train", QUICKSTART)
    folder = tmp_path / "disturbed"
    code, out, err = run(*command, *options, "--output.dir", folder)
    assert code == 0, err
    assert "continuing from" in out
    assert "stopped answering" in err
    summary = read_json(folder / "summary.json")
    assert summary["weights_sha256"] == straight["weights_sha256"]
    assert read_json(folder / "status.json")["state"] == "done"


def test_what_was_stopped_on_request_is_not_started_again(tmp_path: Path, launch: Launch) -> None:
    command = ("-q", "--config_file", "launch/cpu-2.yaml", "--max_restarts", "1", "-m", "distrib.train", QUICKSTART)
    process = launch(*command, *SMALL, "--training.epochs=500", "--output.dir", tmp_path)
    wait_for(tmp_path / "metrics.jsonl", '"kind": "epoch"')
    psutil.Process(process.pid).children()[0].send_signal(signal.SIGUSR1)  # to the rank, not to the launcher
    out, err = process.communicate(timeout=400)
    assert process.returncode != 0, err
    assert out.count("stopped on request (SIGUSR1)") == 1
    assert "continuing" not in out
    status = read_json(tmp_path / "status.json")
    assert (status["state"], status["exit_code"], status["retry"]) == ("stopped", 75, True)


def test_ranks_whose_launcher_is_killed_stop_and_save(tmp_path: Path, launch: Launch) -> None:
    command = ("-q", "--config_file", "launch/cpu-2.yaml", "-m", "distrib.train", QUICKSTART)
    process = launch(*command, *SMALL, "--training.epochs=500", "--output.dir", tmp_path)
    wait_for(tmp_path / "metrics.jsonl", '"kind": "epoch"')
    ranks = psutil.Process(process.pid).children()
    process.kill()
    process.communicate(timeout=400)
    _, alive = psutil.wait_procs(ranks, timeout=120)
    assert not alive
    status = read_json(tmp_path / "status.json")
    assert (status["state"], status["exit_code"], status["retry"]) == (
        "failed",
        1,
        True,
    )  # a fault, though nothing is lost
    assert "launcher died" in status["reason"]
    [newest, *_] = sorted((tmp_path / "checkpoints").iterdir(), reverse=True)
    assert newest.name == f"step-{status['step']:08d}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no such file"),
        ("a: [", "cannot be used (ParserError: "),
        ("just words", "cannot be used (AttributeError: "),
        ("distributed_type: MULTI_GPU\nnum_processes: two\n", "num_processes = 'two': it must be a whole number"),
        ("distributed_type: MULTI_GPU\ngpu_ids: 0\n", "gpu_ids = 0: it must be text"),
        ("distributed_type: NOTHING\n", "'NOTHING' is not a valid DistributedType"),
    ],
)
def test_a_launch_file_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, words: str
) -> None:
    file = tmp_path / "nope.yaml"
    if text is not None:
        file.write_text(text)
    assert main(["--config_file", str(file), "-m", "distrib.train", "quickstart"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("bad input: ")
    assert (said.count("\n"), words in said, str(file) in said) == (1, True, True), said


def test_options_that_do_not_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cpu", "--multi_gpu", "-m", "distrib.train", "quickstart"]) == 2
    assert capsys.readouterr().err.startswith("bad input: the launcher refuses its options: You can only use one of ")
    with pytest.raises(ValueError, match="You can only use one of"):
        main(["--debug", "--cpu", "--multi_gpu", "-m", "distrib.train", "quickstart"])


def test_without_arguments_it_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err == USAGE
