"""Scenarios: what can happen to a job on a cluster. Each is given a training that is not yet submitted."""

import shlex
import signal
import time
from collections.abc import Callable
from dataclasses import replace

from tests.processes import expect_process, that_name
from tests.slurm.training import LENGTH, RECIPE, Training
from tests.support import read_json, wait_until

Scenario = Callable[[Training], None]
MIDDLE = 30  # of a hundred steps
# `nodes = ranks` is one node with one rank in `make test`, and two nodes with two ranks each in `make matrix`.


def plain(training: Training) -> None:
    """Nothing happens, and every command is run through the words of CONTAINER."""
    training.environment["CONTAINER"] = "env 'SEEN=in the container'"
    training.submit()
    training.reach(1)
    assert {process.environment["SEEN"] for process in training.launchers().values()} == {"in the container"}
    training.expect_done(restarts=0)


def time_limit(training: Training) -> None:
    """The time limit is a minute, and SLURM itself sends the signal, between 50 s and 20 s before the end."""
    training.nodes = training.ranks
    job = training.submit(options=["--time=1", "--signal=B:USR1@20"])
    training.cluster.wait_until(job, "RUNNING")
    began = time.monotonic()
    training.reach(MIDDLE)
    ranks = training.trainers().values()
    for number in (signal.SIGSTOP, signal.SIGCONT):  # without a pause the training would be done by then
        for rank in ranks:
            rank.send(number)
        time.sleep(max(0.0, began + 45 - time.monotonic()))
    said = training.expect_done()  # on a busy machine an earlier start may have got the signal too
    assert "train.sbatch: stopped on request after step " in said


def node_killed(training: Training) -> None:
    """The second node loses power in the middle. SLURM notices, and the job starts again when the node is back."""
    job = training.submit()
    training.reach(MIDDLE)
    training.cluster.kill_node(training.pair[1])
    training.cluster.wait_until(job, "PENDING")
    training.cluster.start_node(training.pair[1])
    said = training.expect_done()
    assert "continuing from" in said


def node_rebooted(training: Training) -> None:
    """The second node loses power and is back before SLURM notices, and srun waits for ranks that no longer exist."""
    training.environment["STOP_SECONDS"] = "10"
    training.submit()
    training.reach(MIDDLE)
    training.cluster.kill_node(training.pair[1])
    training.cluster.start_node(training.pair[1])
    training.expect_done(restarts=1)


def preempted(training: Training) -> None:
    """A job of higher priority takes the nodes. SLURM sends TERM to the ranks and ends the job 5 s later."""
    training.submit()
    training.reach(MIDDLE)
    nodes = ",".join(training.pair)
    other = training.cluster.submit(
        "other.sh", options=["--partition=high", f"--nodelist={nodes}", "--nodes=2", "--cpus-per-task=8"]
    )
    said = training.expect_done(restarts=1)
    assert training.cluster.wait(other) == "COMPLETED"
    assert "train.sbatch: stopped on request after step " in said


def time_limit_near(training: Training) -> None:
    """The job gets the signal of --signal=B:USR1@120, while a cross-check job waits for the end of the training."""
    job = training.submit("--crosscheck.record=true", "--crosscheck.replay=false")
    dependent = ["--dependency", f"afterok:{job}", f"--nodelist={training.pair[0]}"]
    check = training.cluster.submit("slurm/crosscheck.sbatch", training.folder / "trace", options=dependent)
    training.reach(MIDDLE)
    training.send_usr1()
    said = training.expect_done(restarts=1)
    assert "train.sbatch: stopped on request after step " in said
    assert training.cluster.wait(check) == "COMPLETED", training.cluster.said(check)
    report = read_json(training.folder / "crosscheck.json")
    assert report["verdict"] == "match"


def launcher_killed(training: Training) -> None:
    """The launcher of the second node is killed. Its ranks notice, and all start again."""
    training.submit()
    training.reach(MIDDLE)
    training.launchers()[training.pair[1]].send(signal.SIGKILL)
    training.expect_done(restarts=1)


def rank_killed(training: Training) -> None:
    """Rank 1 is killed, and all start again."""
    training.submit()
    training.reach(MIDDLE)
    training.trainers()["1"].send(signal.SIGKILL)
    said = training.expect_done(restarts=1)
    assert "; restart 1 of at most 10; requeued" in said


def requeued_by_hand(training: Training) -> None:
    """Someone requeues the job with scontrol."""
    training.nodes = training.ranks
    job = training.submit()
    training.reach(MIDDLE)
    training.cluster.run("scontrol", "requeue", job)
    training.expect_done(restarts=1)


def signal_before_the_ranks(training: Training) -> None:
    """The signal comes while srun has not started the ranks yet and would lose it."""
    _signal_as_it_starts(training, "srun")


def signal_at_start_up(training: Training) -> None:
    """The signal comes while Python imports what the ranks or their launchers need."""
    _signal_as_it_starts(training, "python")


def _signal_as_it_starts(training: Training, program: str) -> None:
    """Send the signal as soon as a process of this program runs."""
    training.nodes = 1
    training.submit()
    expect_process(program, training.folder)
    training.send_usr1()
    said = training.expect_done(restarts=1)
    assert said.count("; requeued") == 1


def signal_in_set_up(training: Training) -> None:
    """The signal comes while the file of SETUP runs."""
    training.nodes = 1
    began = training.folder.with_suffix(".began")
    set_up = training.folder.with_suffix(".set up")
    first = f"[[ -n ${{SLURM_RESTART_COUNT:-}} ]] || {{ : >{shlex.quote(str(began))}; sleep 5; }}"
    set_up.write_text(f"source 'set up'\n{first}\n")
    training.environment["SETUP"] = str(set_up)
    training.submit()
    assert wait_until(began.exists, 300)
    training.send_usr1()
    said = training.expect_done(restarts=1)
    assert "train.sbatch: asked to stop before the ranks were started; restart 1 of at most 10; requeued" in said


def submitted_from_a_task(training: Training) -> None:
    """The training is submitted from inside a task of an array, and sbatch passes on the variables of that task."""
    training.nodes = 1
    training.environment |= {"SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "1", "SLURM_RESTART_COUNT": "9"}
    training.submit()
    training.reach(MIDDLE)
    training.send_usr1()
    said = training.expect_done(restarts=1)
    assert "train.sbatch: stopped on request after step " in said
    assert not list(training.cluster.project.glob("slurm-1_1.*"))


def no_answer(training: Training) -> None:
    """A rank hangs when the time limit is near. The job is queued again and continues from its newest checkpoint."""
    training.nodes = 1
    training.environment["STOP_SECONDS"] = "2"
    training.submit()
    training.reach(MIDDLE)
    training.trainers()["0"].send(signal.SIGSTOP)
    training.send_usr1()
    said = training.expect_done(restarts=1)
    assert "train.sbatch: asked to stop, but no answer" in said


def cancelled(training: Training) -> None:
    """The user cancels the job, and it does not come back."""
    training.nodes = 1
    job = training.submit()
    training.reach(MIDDLE)
    training.cluster.run("scancel", job)
    assert training.cluster.wait(job) == "CANCELLED"
    assert training.cluster.show(job)["Restarts"] == "0"
    assert not (training.folder / "summary.json").exists()
    assert not that_name(training.folder)


def sweep(training: Training) -> None:
    """An array has two runs. The second, whose job id is that of the array, is stopped and continues."""
    cluster = training.cluster
    folder = cluster.project / "runs" / f"of {training.ranks} rank(s)"
    runs = {task: replace(training, nodes=training.ranks, folder=folder / f"#{task}'s") for task in (1, 2)}
    file = cluster.project / f"two runs of {training.ranks}"
    lines = [shlex.join([RECIPE, "--output.dir", str(run.folder)]) for run in runs.values()]
    file.write_text("# the runs\n\n" + " # and a comment\n".join([*lines, ""]))
    array = cluster.submit(
        "slurm/sweep.sbatch", file.name, *LENGTH,
        options=["--array=1-2", f"--nodes={training.ranks}", f"--nodelist={','.join(training.pair[: training.ranks])}"],
        environment={"RANKS_PER_NODE": str(training.ranks)},
    )  # fmt: skip
    for task, run in runs.items():
        run.job = f"{array}_{task}"
    runs[2].reach(MIDDLE)
    runs[2].send_usr1()
    runs[1].expect_done(restarts=0)
    runs[2].expect_done(restarts=1)


def gives_up(training: Training) -> None:
    """After MAX_RESTARTS lost starts in a row, which is 0 here, the job ends."""
    training.nodes = 1
    training.environment["MAX_RESTARTS"] = "0"
    job = training.submit()
    training.reach(MIDDLE)
    for rank in training.trainers().values():
        rank.send(signal.SIGKILL)
    assert training.cluster.wait(job) == "FAILED"
    said = training.cluster.said(job)
    assert "train.sbatch: all ranks were lost; not requeued: lost start 1 in a row, MAX_RESTARTS = 0" in said
    assert training.cluster.show(job)["ExitCode"] == "1:0"
    assert not that_name(training.folder)


def fault(training: Training) -> None:
    """A fault that would happen again ends the job."""
    training.nodes = 1
    job = training.submit("--optimizer.lr=1e30")
    assert training.cluster.wait(job) == "FAILED"
    said = training.cluster.said(job)
    assert "train.sbatch: fault" in said
    assert said.rstrip().endswith(", as said above; the same would happen again")
    assert training.cluster.show(job)["ExitCode"] == "1:0"


DEFAULT: tuple[Scenario, ...] = (
    preempted,
    time_limit_near,
    launcher_killed,
    sweep,
    signal_at_start_up,
    requeued_by_hand,
    fault,
    submitted_from_a_task,
)
OTHER: tuple[Scenario, ...] = (
    node_killed,  # the longest comes first, and others run beside it
    plain,
    node_rebooted,
    rank_killed,
    no_answer,
    signal_before_the_ranks,
    signal_in_set_up,
    cancelled,
    gives_up,
    time_limit,
)
