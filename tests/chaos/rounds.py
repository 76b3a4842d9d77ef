"""A round: a run under faults and an undisturbed run of the same job, from the plan to the comparison."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import compare, record
from tests.chaos.campaign import Campaign
from tests.chaos.faults import KINDS, NEEDS_SMALL_DISK
from tests.chaos.plan import EVERY_STEPS, draw, steps_needed
from tests.chaos.report import HEADING, Line, table
from tests.chaos.world import TIMEOUT_SECONDS, Job
from tests.disk import Disk
from tests.processes import kill_marked
from tests.support import RECIPES, wait_until

_STEPS_PER_EPOCH, _BATCH = 50, 16


@dataclass(frozen=True, slots=True)
class Size:
    """The number of nodes, and of ranks on each."""

    nodes: int
    ranks_per_node: int


class Round:
    """A run of one seed under `count` faults, and the undisturbed run that it is compared with."""

    def __init__(self, seed: int, count: int, size: Size, folder: Path) -> None:
        self.seed, self.count, self.size, self.folder = seed, count, size, folder
        self.disk = Disk(folder / "disk")

    def run(self) -> None:
        """Run both, compare them, and print each fault when it is over and a table at the end. Raises Violation."""
        began = time.monotonic()
        impossible = () if self.disk.small else (NEEDS_SMALL_DISK,)
        if impossible:
            print(f"{NEEDS_SMALL_DISK} is left out: no tmpfs may be mounted here")
        faults = draw(self.seed, self.count, {name: kind.phases for name, kind in KINDS.items()}, impossible)
        epochs = -(-steps_needed(faults) // _STEPS_PER_EPOCH)
        print(f"seed {self.seed}: {len(faults)} faults in {epochs * _STEPS_PER_EPOCH} steps; {self.folder}", flush=True)

        straight = Campaign(self._job(self.folder / "undisturbed", epochs), self.disk)
        straight.finish()
        print(
            f"undisturbed: {time.monotonic() - began:.0f} s, {straight.start_up_seconds:.1f} s of it to start",
            flush=True,
        )

        lines: list[Line] = []

        def say(line: Line) -> None:
            lines.append(line)
            print(line, flush=True)

        print(HEADING)
        campaign = Campaign(self._job(self.folder / "disk" / "run", epochs), self.disk, straight.start_up_seconds)
        campaign.disturbed(faults, say)
        campaign.finish()
        compare.same_end(campaign.job.folder, straight.job.folder)

        run = campaign.job.folder
        print(f"\n{table(lines)}\n")
        print(
            f"the same bytes after {len(lines)} faults and {campaign.starts} starts, in {time.monotonic() - began:.0f} s: "
            f"{campaign.steps} steps trained for {record.last_step(run)}, {compare.recorded_steps(run)} of them on record, "
            f"replayed through {compare.joins(run)} joins: match",
            flush=True,
        )

    def end(self) -> None:
        """Kill all processes of the round and unmount its disk."""
        wait_until(lambda: not kill_marked(f"{self.folder}/"), 10)
        self.disk.unmount()

    def keep(self) -> None:
        """Copy what is on the small disk, so that it can be looked at after the disk is gone."""
        if self.disk.small:
            kill_marked(f"{self.folder}/")
            self.disk.relieve()
            shutil.copytree(self.disk.folder, self.folder / "kept", ignore_dangling_symlinks=True)

    def _job(self, folder: Path, epochs: int) -> Job:
        """Return a job with Adam, a one-cycle schedule, accumulation and a moving average, recorded and replayed."""
        options = (
            *(str(RECIPES / "adam-onecycle.toml"), "--data.source=synthetic"),
            *(f"--data.train_images={_STEPS_PER_EPOCH * _BATCH}", "--data.test_images=50"),
            *(f"--training.epochs={epochs}", f"--training.batch_size={_BATCH}", "--training.accumulate=2"),
            *("--training.ema=0.9", "--training.threads=1", f"--training.timeout_seconds={TIMEOUT_SECONDS}"),
            *(f"--checkpoint.every_steps={EVERY_STEPS}", "--checkpoint.keep=3"),
            *("--crosscheck.record", "--crosscheck.steps=[1]", "--crosscheck.coordinates=16"),
        )
        logs = self.folder / "logs" / folder.name
        return Job(folder, logs, options, self.size.nodes, self.size.ranks_per_node)
