"""Tells Accelerate's experiment trackers what metrics.jsonl is told, from a thread, so that they never slow or end a run."""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, cast

from accelerate import Accelerator, tracking
from accelerate.utils import LoggerType

from distrib.display import Display
from distrib.errors import BadInput
from distrib.files import read_json, write_json
from distrib.layout import METRICS, TRACKERS
from distrib.training.metrics.metrics import Place, last_place

_tracking: Any = tracking  # typed in part
PROJECT = "twinstep"
MOST_POINTS = 2000
"""Steps that a tracker is told of one by one; of a longer run it gets as many windows of steps."""
_CLOSE_SECONDS = 20.0
_PACKAGES = {"comet_ml": "comet-ml"}  # the others are called as Accelerate calls them
_LONGEST = 200  # characters of what names a run
_OF_EPOCHS = ("epoch", "train_loss", "test_loss", "test_accuracy", "flop", "flop_per_second", "share_of_peak")
_KEEPS_ALL = ("wandb", "mlflow", "trackio")
"""Trackers whose run goes on when a run is resumed, and which keep what they were told before: no step is told twice."""


def expect_installed(names: Sequence[str]) -> None:
    """Raise BadInput for a tracker that Accelerate does not know or that is not installed."""
    known = sorted(str(each) for each in LoggerType if each != LoggerType.ALL)
    there = sorted(map(str, _tracking.get_available_trackers()))
    for name in names:
        if name not in known:
            raise BadInput(
                f"output.trackers = {', '.join(names)}: {name} is no tracker; accepted are {', '.join(known)}"
            )
        if name not in there:
            raise BadInput(
                f"output.trackers = {', '.join(names)}: {name} is not installed here: pip install {_PACKAGES.get(name, name)}; "
                f"installed are {', '.join(there) or 'none'}"
            )


class _Tracker(Protocol):
    """The part of Accelerate's interface of a tracker that is used here."""

    name: str

    def log(self, values: dict[str, float], step: int) -> None: ...
    def finish(self) -> None: ...


class Trackers:
    """The trackers of rank 0. One thread starts, feeds and closes them, because a run of MLflow belongs to a thread.

    What fails in one of them is told once, and the run goes on without it.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        names: Sequence[str],
        folder: Path,
        config: Mapping[str, Any],
        display: Display,
        *,
        resumed_step: int,
        total_steps: int,
    ) -> None:
        """Start them, which may take minutes. Raises BadInput if one does not start; a run that goes on goes on without them."""
        self._accelerator, self._folder, self._display = accelerator, folder, display
        self._window = _Window(-(-total_steps // MOST_POINTS), total_steps)
        self._told_until: dict[str, Place] = {}
        self._trackers: list[_Tracker] = []
        self._orders: SimpleQueue[tuple[Place, Mapping[str, float]] | None] = SimpleQueue()
        self._started, self._problem = threading.Event(), ""
        self._thread = threading.Thread(
            target=self._work,
            args=(list(dict.fromkeys(names)), dict(config), resumed_step),
            daemon=True,
            name="trackers",
        )
        self._thread.start()
        self._started.wait()
        if self._problem and resumed_step == 0:
            raise BadInput(f"output.trackers = {', '.join(names)}: {self._problem}; mend it, or leave the tracker out")
        if self._problem:
            display.say(f"warning: the trackers did not start, and the run goes on without them: {self._problem}")

    def step(self, step: int, values: Mapping[str, Any], images: int) -> None:
        """Take the line of a step, in which so many images were seen; the trackers get it when its window is over."""
        told = self._window.add(step, values, images)
        if told:
            self._orders.put(((step, False), told))

    def epoch(self, step: int, values: Mapping[str, Any]) -> None:
        """Take the line of the epoch that ended with `step`."""
        told = {name: values[name] for name in _OF_EPOCHS if values[name] is not None}
        self._orders.put(((step, True), told | {"peak_memory_mib": values["peak_memory"] / 2**20}))

    def close(self) -> None:
        """Let them finish, but not for long."""
        self._orders.put(None)
        self._thread.join(_CLOSE_SECONDS)
        if self._thread.is_alive():
            self._display.say(
                f"warning: {self._names()} did not take everything within {_CLOSE_SECONDS:.0f} s after the run's end; "
                "metrics.jsonl has it"
            )

    def _names(self) -> str:
        return " and ".join(tracker.name for tracker in self._trackers) or "the trackers"

    def _work(self, names: list[str], config: dict[str, Any], resumed_step: int) -> None:
        try:
            self._start(names, config, resumed_step)
        except Exception as error:  # whatever a tracker raises, such as that nobody is logged in
            self._problem = f"{type(error).__name__}: {error}"
            for tracker in self._take_over():
                with contextlib.suppress(Exception):  # some did start, and none of them is wanted without the others
                    tracker.finish()
        finally:
            self._started.set()
        while (order := self._orders.get()) is not None:
            self._tell(*order)
        for tracker in list(self._trackers):
            self._attempt(tracker, tracker.finish)

    def _start(self, names: list[str], config: dict[str, Any], resumed_step: int) -> None:
        accelerator, file = self._accelerator, self._folder / TRACKERS
        before = read_identities(file)
        again = all(name in before for name in names)
        accelerator.project_configuration.set_directories(str(self._folder))
        accelerator.log_with = _tracking.filter_trackers(names, str(self._folder))
        accelerator.init_trackers(
            PROJECT,
            config=None if again else {key: _plain(value) for key, value in config.items()},
            init_kwargs=_options(self._folder, before, resumed_step),
        )
        self._trackers = self._take_over()
        reached = last_place(self._folder / METRICS)
        self._told_until = {name: reached for name in names if name in before and name in _KEEPS_ALL}
        write_json(file, before | {tracker.name: _identity(tracker) for tracker in self._trackers})

    def _take_over(self) -> list[_Tracker]:
        """Take the trackers from Accelerate, which would finish them from the main thread."""
        taken, self._accelerator.trackers = cast("list[_Tracker]", self._accelerator.trackers), []
        return taken

    def _tell(self, place: Place, values: Mapping[str, float]) -> None:
        for tracker in list(self._trackers):
            if place > self._told_until.get(tracker.name, (-1, False)):
                self._attempt(tracker, lambda tracker=tracker: tracker.log(dict(values), step=int(place[0])))

    def _attempt(self, tracker: _Tracker, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # whatever it is, the run is worth more
            self._trackers.remove(tracker)
            self._display.say(
                f"warning: {tracker.name} failed, and the run goes on without it: {type(error).__name__}: {error}"
            )


class _Window:
    """Steps that are told together: the mean loss of their images, their speed, and the last of everything else."""

    def __init__(self, size: int, total_steps: int) -> None:
        self._size, self._total = size, total_steps
        self._begin()

    def _begin(self) -> None:
        self._loss, self._seconds, self._data_seconds, self._images = 0.0, 0.0, 0.0, 0
        self._last: dict[str, float] = {}

    def add(self, step: int, values: Mapping[str, Any], images: int) -> dict[str, float]:
        """Return what is to be told of the window that ended with this step; nothing if none did."""
        self._loss += images * values["loss"]
        self._seconds += values["seconds"]
        self._data_seconds += values["data_seconds"]
        self._images += images
        self._last |= {name: values[name] for name in ("lr", "gradient_norm", "loss_scale") if name in values}
        if step % self._size and step != self._total:
            return {}
        told = {
            "loss": self._loss / self._images,
            **self._last,
            "skipped_steps": float(step - values["applied_updates"]),
        }
        if self._seconds > 0:
            told["images_per_second"] = self._images / self._seconds
            told["data_share"] = self._data_seconds / self._seconds
        self._begin()
        return told


def _options(folder: Path, before: Mapping[str, str], resumed_step: int) -> dict[str, dict[str, Any]]:
    """Return what each tracker's own start is given, so that a resumed run goes on in the same place."""
    name = folder.resolve().name
    return {
        # Its readers hide what earlier files say of these steps.
        "tensorboard": {"purge_step": resumed_step + 1} if "tensorboard" in before else {},
        "wandb": {
            "name": name,
            "dir": str(folder),
            "settings": {"console": "off"},
            **({"id": before["wandb"], "resume": "allow"} if "wandb" in before else {}),
        },
        "mlflow": {"run_name": name, **({"run_id": before["mlflow"]} if "mlflow" in before else {})},
        "trackio": {"name": before.get("trackio", name), "resume": "allow"},
    }


def _identity(tracker: Any) -> str:
    """Return by what the tracker finds its run again."""
    match tracker.name:
        case "wandb":
            return str(tracker.run.id)
        case "mlflow":
            return str(tracker.active_run.info.run_id)
        case "trackio":
            return str(tracker.run.name)
        case _:
            return ""


def read_identities(file: Path) -> dict[str, str]:
    """Return by name which runs of trackers belong to a folder; none where the file is missing or damaged."""
    try:
        found = read_json(file)
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        name: value
        for name, value in cast(dict[str, Any], found).items()
        if isinstance(value, str) and len(value) <= _LONGEST
    }


def _plain(value: Any) -> str | bool | int | float:
    """Return a value of the configuration as one that every tracker takes."""
    return value if isinstance(value, (str, bool, int, float)) else "none" if value is None else str(value)
