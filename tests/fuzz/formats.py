"""The formats of the trainer that are attacked: a file that is right, and the reader that meets what became of it."""

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from accelerate import Accelerator
from PIL import Image

from distrib.config.load import load
from distrib.data.decoding import image_cache
from distrib.data.images import Sizes
from distrib.data.sources import folder
from distrib.data.sources.arrays import arrays
from distrib.errors import BadInput
from distrib.job import environment, lock
from distrib.job.status import Status
from distrib.page.render import render
from distrib.page.run_files import read_run
from distrib.training import facts, summary
from distrib.training.metrics.metrics import Metrics
from distrib.training.metrics.trackers import read_identities
from distrib.training.recipe import RunConfig
from slurm import decide, sweep_run
from tests.distrib.checkpoint.test_resume import Caller, Trainer
from tests.distrib.page.folders import hostile_run
from tests.fuzz.format import Format, plain
from tests.support import QUICKSTART


def recipe(place: Path) -> Format:
    file = place / "recipe.toml"
    return plain("recipe", file, QUICKSTART.read_bytes(), lambda: load(RunConfig, file))


def _image(suffix: str) -> Callable[[Path], Format]:
    def make(place: Path) -> Format:
        root, cache = place / f"images{suffix}", place / "cache"
        picture = Image.linear_gradient("L").convert("RGB").resize((48, 40))
        for split in ("train", "test"):
            for name in ("a", "b"):
                (root / split / name).mkdir(parents=True)
                picture.save(root / split / name / f"1{suffix}")
        file = root / "train" / "a" / f"1{suffix}"

        def read() -> None:
            for left in cache.glob("*"):
                left.unlink()
            folder.load(root, cache)

        return Format(f"image {suffix}", file, read, file.write_bytes)

    return make


def _arrays(name: str) -> Callable[[Path], Format]:
    """Return the format of a .npz file, or of an array in a folder."""

    def make(place: Path) -> Format:
        rng, root = numpy.random.default_rng(0), place / "arrays"
        root.mkdir(exist_ok=True)
        content = {
            "x_train": rng.integers(0, 256, (4, 9, 7, 3), dtype=numpy.uint8),
            "y_train": numpy.arange(4) % 2,
            "x_test": rng.integers(0, 256, (2, 9, 7), dtype=numpy.uint8),
            "y_test": numpy.arange(2),
            "classes": numpy.array(["owl", "wren"]),
        }
        if name.endswith(".npz"):
            (numpy.savez if name.startswith("stored") else numpy.savez_compressed)(root / name, **content)  # pyright: ignore[reportArgumentType]
        for array, values in content.items():
            numpy.save(root / f"{array}.npy", values)
        file = root / name

        def read() -> None:
            shutil.rmtree(place / "cache", ignore_errors=True)
            arrays.load(file if name.endswith(".npz") else root, place / "cache")

        return Format(f"array {name}", file, read, file.write_bytes)

    return make


def cache(place: Path) -> Format:
    file, counts = place / "images.safetensors", {"train": 6, "test": 4}
    images = {name: torch.zeros(count, 32, 32, 3, dtype=torch.uint8) for name, count in counts.items()}
    image_cache.write(file, image_cache.Decoded(images, Sizes((32, 32), (640, 480))))
    return Format("image cache", file, lambda: image_cache.read(file, counts, 32), file.write_bytes)


def _checkpoint(part: str, *, right_hashes: bool) -> Callable[[Path], Format]:
    def make(place: Path) -> Format:
        root = place / f"{part}{right_hashes}"
        checkpoint = Trainer().save(root, 1)
        go = Caller(Accelerator(cpu=True, mixed_precision="no"))
        file = checkpoint / part

        def write(data: bytes) -> None:
            file.write_bytes(data)
            if right_hashes:
                with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError, AttributeError, OSError):
                    _make_right(checkpoint)

        def read() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                go(root, checkpoint)

        return Format(f"checkpoint {part}{', hashes right' if right_hashes else ''}", file, read, write)

    return make


def _make_right(checkpoint: Path) -> None:
    manifest: dict[str, Any] = json.loads((checkpoint / "manifest.json").read_text())
    manifest.pop("sha256", None)
    for name in manifest["files"]:
        data = (checkpoint / name).read_bytes()
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest | {"sha256": digest}))


def metrics(place: Path) -> Format:
    file = place / "metrics.jsonl"
    lines = "".join(json.dumps({"kind": "step", "step": step, "loss": 0.5}) + "\n" for step in range(1, 9))
    return plain("metrics.jsonl", file, lines.encode(), lambda: Metrics(file, 4).close())


def run_summary(place: Path) -> Format:
    file = place / "summary" / "summary.json"
    data = json.dumps({"steps": 20, "crosscheck": {"verdict": "match"}}).encode()
    return plain(
        "summary.json", file, data, lambda: (summary.completed_steps(file.parent), summary.verdict(file.parent))
    )


def starts(place: Path) -> Format:
    file = place / "starts" / "facts.json"
    data = json.dumps({"starts": [{"time": 1.5, "step": 0, "world_size": 1}]}).encode()
    return plain("facts.json", file, data, lambda: facts.earlier_starts(file, lambda _: None))


def trackers(place: Path) -> Format:
    file = place / "trackers.json"
    data = json.dumps({"wandb": "o6st55wb", "tensorboard": ""}).encode()
    return plain("trackers.json", file, data, lambda: read_identities(file))


def status(place: Path) -> Format:
    file = place / "status" / "status.json"
    data = json.dumps({"state": "failed", "exit_code": 2, "reason": "x", "step": 3, "retry": False}).encode()
    reader = Status({"TORCHELASTIC_RESTART_COUNT": "1"})
    return plain("status.json", file, data, lambda: (reader.final_status(file.parent), decide.read_status(file)))


def _page(name: str) -> Callable[[Path], Format]:
    """Return the format of a file that the page of a run is made of: damage costs the page a part, and never all of it."""

    def make(place: Path) -> Format:
        folder = hostile_run(place / "pages" / name.replace("/", "-"), epochs=1, steps_per_epoch=4)
        file = folder / name
        return plain(f"{name} for the page", file, file.read_bytes(), lambda: render(read_run(folder)))

    return make


_PAGE_FILES = (
    *("metrics.jsonl", "config.toml", "status.json", "summary.json", "crosscheck.json"),
    *("page/facts.json", "page/images.json", "page/mistakes.json"),
)


def lost(place: Path) -> Format:
    file = place / "slurm-1.lost"
    return plain("slurm-1.lost", file, b"3 120\n", lambda: decide.read_lost(file))


def run_lock(place: Path) -> Format:
    file = place / "lock" / ".lock"

    def read() -> None:
        os.close(lock.acquire(file.parent, lambda _: None, {}))

    return plain(".lock", file, b'{"host": "a", "pid": 7}', read)


def sweep(place: Path) -> Format:
    file = place / "runs.txt"

    def read() -> None:
        out = io.TextIOWrapper(io.BytesIO())
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()) as said:
            code = sweep_run.main(str(file), "2")
        if code == 2:
            raise BadInput(said.getvalue().rstrip("\n"))

    return plain("sweep", file, b"a.toml --training.seed 1\n# c\nb.toml --output.dir 'x y'\n", read)


def variables(place: Path) -> Format:
    """What a launcher says in the environment, a variable a line."""
    file = place / "environment"
    names = (
        "WORLD_SIZE",
        "RANK",
        "LOCAL_WORLD_SIZE",
        "LOCAL_RANK",
        "MASTER_PORT",
        "OMP_NUM_THREADS",
        "SLURM_CPUS_PER_TASK",
    )
    lines = "".join(f"{name}=1\n" for name in names).replace("WORLD_SIZE=1", "WORLD_SIZE=2")

    def read() -> None:
        said = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        environment.check(dict(line.split("=", 1) for line in said if "=" in line))

    return plain("environment", file, f"{lines}MASTER_ADDR=localhost\n".encode(), read)


FORMATS: list[Callable[[Path], Format]] = [
    recipe,
    *(_image(suffix) for suffix in (".jpg", ".png", ".ppm", ".bmp", ".tif", ".webp")),
    *(_arrays(name) for name in ("stored.npz", "deflated.npz", "x_train.npy", "y_test.npy", "classes.npy")),
    cache,
    _checkpoint("manifest.json", right_hashes=False),
    _checkpoint("manifest.json", right_hashes=True),
    _checkpoint("model.safetensors", right_hashes=True),
    _checkpoint("optimizer.safetensors", right_hashes=True),
    *(metrics, run_summary, starts, trackers, status, lost, run_lock, sweep, variables),
    *(_page(name) for name in _PAGE_FILES),
]
