"""Weights & Biases offline, MLflow with a server of its own, and Trackio, each as it is: the extra `trackers`,
which CI does not install.
"""

import json
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import urllib.request
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import QUICKSTART, SMALL, Result, checkpoint_of, free_port, start, steps, train, wait_until

pytestmark = pytest.mark.matrix
ALL_STEPS = list(range(1, 21))


def train_twice(folder: Path, tracker: str, environment: Mapping[str, str]) -> None:
    """Train twenty steps, and the last ten of them again from the checkpoint in the middle."""
    for _ in range(2):
        [result] = trained(folder, tracker, environment)
        assert (result.code, "warning" in result.out) == (0, False), result
        shutil.rmtree(checkpoint_of(folder, 20))


def trained(folder: Path, tracker: str, environment: Mapping[str, str]) -> list[Result]:
    return train([QUICKSTART, *SMALL, "--output.trackers", tracker, "--output.dir", folder], environment=environment)


def test_wandb_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    train_twice(tmp_path, "wandb", {"WANDB_MODE": "offline", "WANDB_SILENT": "true"})
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert len({file.name for file in files}) == 1, "the resumed run is another one"
    first, second = (wandb_history(file) for file in files)
    assert sorted(first) == ALL_STEPS
    assert second == {}, "steps that were told already are told again"
    assert {"loss", "lr", "images_per_second", "skipped_steps"} <= set(first[5])
    assert {"test_accuracy", "peak_memory_mib"} <= set(first[10])


def wandb_history(file: Path) -> dict[int, set[str]]:
    """Return the names of what was told of each step, from the file that `wandb sync` uploads."""
    messages: Any = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    found: dict[int, set[str]] = {}
    for data in log_records(file.read_bytes()[7:], 7):
        record = messages.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            names = {item.key or ".".join(item.nested_key) for item in record.history.item}
            found[int(record.history.step.num)] = names - {"_step", "_runtime", "_timestamp"}
    return found


def log_records(data: bytes, offset: int) -> Iterator[bytes]:
    """Yield the records of a log in LevelDB's format: blocks of 32 KiB, in them checksum, length and kind before each piece."""
    whole, at = b"", 0
    while at + 7 <= len(data):
        if (left := 2**15 - (at + offset) % 2**15) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the only piece, or the last one
            yield whole
            whole = b""


@contextmanager
def mlflow_server(folder: Path) -> Generator[tuple[str, "subprocess.Popen[bytes]"]]:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    places = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--default-artifact-root",
        str(folder / "artifacts"),
    ]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen([*command, *places], stdout=log, stderr=log, start_new_session=True)
        try:
            assert wait_until(lambda: answers(address), 240, every=1.0), (folder / "server.log").read_text()
            yield address, server
        finally:
            stop(server)


def stop(server: "subprocess.Popen[bytes]") -> None:
    """Kill it with the processes that it started."""
    if server.poll() is None:
        os.killpg(server.pid, 9)
        server.wait()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:  # noqa: S310 (it is ours)
            return answer.status == 200
    except OSError:
        return False


def test_mlflow(tmp_path: Path) -> None:
    mlflow: Any = pytest.importorskip("mlflow")
    place, run = tmp_path / "server", tmp_path / "run"
    place.mkdir()
    quickly = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
    with mlflow_server(place) as (address, server):
        train_twice(run, "mlflow", {"MLFLOW_TRACKING_URI": address})
        client = mlflow.MlflowClient(tracking_uri=address)
        [experiment] = client.search_experiments(filter_string="name = 'twinstep'")
        [found] = client.search_runs([experiment.experiment_id])
        assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
        assert found.data.params["training.epochs"] == "2"
        told = client.get_metric_history(found.info.run_id, "loss")
        assert [metric.step for metric in told] == ALL_STEPS
        assert [metric.value for metric in told] == pytest.approx([line["loss"] for line in steps(run)])
        assert [metric.step for metric in client.get_metric_history(found.info.run_id, "test_accuracy")] == [10, 20]

        # The server goes away in the middle of a run.
        options = [
            QUICKSTART,
            *SMALL,
            "--training.epochs=6",
            "--output.trackers=mlflow",
            "--output.dir",
            tmp_path / "other",
        ]
        ranks = start(options, environment={"MLFLOW_TRACKING_URI": address, **quickly})
        assert wait_until(lambda: (tmp_path / "other" / "trackers.json").exists(), 240)
        stop(server)
        [result] = ranks.wait()
    assert result.code == 0, result
    assert result.out.count("warning: mlflow") == 1, result
    assert len(steps(tmp_path / "other")) == 60


def test_trackio(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    train_twice(tmp_path / "run", "trackio", {"TRACKIO_DIR": str(tmp_path / "trackio")})
    [file] = (tmp_path / "trackio").glob("twinstep*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("select run_name, step, metrics from metrics order by step").fetchall()
    database.close()
    assert {row[0] for row in rows} == {"run"}
    assert [row[1] for row in rows if "loss" in json.loads(row[2])] == ALL_STEPS
