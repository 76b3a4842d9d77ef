"""A SLURM cluster that only a test uses (tests/slurm/cluster.sh), and a project's root to submit from."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support import ROOT, wait_until

SCRIPT = ROOT / "tests" / "slurm" / "cluster.sh"
PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
NAMESPACES = ("unshare", "--uts", "--mount", "--net", "--pid", "--fork", "--mount-proc")
UNFINISHED = ("PENDING", "RUNNING", "COMPLETING", "PREEMPTED", "REQUEUED", "CONFIGURING", "SUSPENDED")
"""States of a job that has not ended; a preempted one is put back into the queue a moment later."""


def what_is_missing() -> str | None:
    """Return why no cluster can be started here, or None if one can."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        return f"SLURM's programs are not installed: {', '.join(missing)}"
    if os.geteuid() != 0:
        return "a SLURM cluster for tests needs root"
    refused = subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True, check=False)
    return f"namespaces are refused: {refused.stderr.strip()}" if refused.returncode else None


@contextmanager
def start_cluster(*, nodes: int = 2, network: str = "shared") -> Generator["Cluster"]:
    """Run a cluster for as long as the context lasts.

    Its folder holds sockets and so needs a shorter name than pytest's folders have.
    """
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        yield Cluster(folder / "cluster", nodes=nodes, network=network)
    finally:
        subprocess.run([SCRIPT, "wipe", folder / "cluster"], check=True)
        folder.rmdir()


class Cluster:
    """A SLURM cluster that runs from its construction on."""

    def __init__(self, folder: Path, *, nodes: int, network: str) -> None:
        """Start the cluster. With `network="own"` each node has an address of its own."""
        self.folder = folder
        sizes = {"CLUSTER_NODES": str(nodes), "CLUSTER_NETWORK": network}
        subprocess.run([SCRIPT, "start", folder], check=True, env=os.environ | sizes)
        # A user may have a root whose name needs quotes, and defaults of Accelerate that fit no test here.
        self.project = folder / """the user's "project" $HOME"""
        self.project.mkdir()
        for name in ("crosscheck", "distrib", "launch", "slurm"):
            (self.project / name).symlink_to(ROOT / name)
        defaults = folder / "home" / ".cache" / "huggingface" / "accelerate" / "default_config.yaml"
        defaults.parent.mkdir(parents=True)
        defaults.write_text(
            "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nnum_processes: 1\nmixed_precision: bf16\n"
        )
        (self.project / "other.sh").write_text("#!/bin/sh\nsleep 3\n")
        set_up = self.project / "set up"
        set_up.write_text(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH\n")
        self.environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(folder / "home"),
            "LANG": "C.UTF-8",
            "SLURM_CONF": str(folder / "slurm.conf"),
            "SETUP": set_up.name,
            # As in tests/conftest.py: float32 on every processor.
            "ONEDNN_MAX_CPU_ISA": os.environ["ONEDNN_MAX_CPU_ISA"],
        }

    def run(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a command of SLURM on the login node, expect it to succeed, and return its standard output."""
        result = subprocess.run(
            [SCRIPT, "run", self.folder, *command],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.project,
            env=self.environment | dict(environment or {}),
        )
        assert result.returncode == 0, f"{command}: {result.stderr}"
        return result.stdout

    def submit(
        self,
        script: str,
        *arguments: str | Path,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Submit a job and return its id."""
        command = ["sbatch", "--parsable", *options, script, *map(str, arguments)]
        return self.run(*command, environment=environment).strip()

    def said(self, job: str) -> str:
        """Return what the job has written so far, in all its starts."""
        file = self.project / f"slurm-{job}.out"
        return file.read_text(errors="replace") if file.exists() else ""

    def show(self, job: str) -> dict[str, str]:
        """Return SLURM's fields of a job, or of one task of an array."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "--oneliner", "show", "job", job)))

    def state(self, job: str) -> str:
        """Return SLURM's state of the job, such as RUNNING."""
        return self.show(job)["JobState"]

    def wait_until(self, job: str, state: str, seconds: float = 500) -> None:
        """Wait until the job is in this state."""
        there = wait_until(lambda: self.state(job) == state, seconds, every=0.1)
        assert there, f"job {job} is {self.state(job)}, not {state}: {self.said(job)}"

    def wait(self, job: str, seconds: float = 500) -> str:
        """Wait until the job has ended and return its final state."""
        over = wait_until(lambda: self.state(job) not in UNFINISHED, seconds, every=0.1)
        assert over, f"job {job} is still {self.state(job)}: {self.said(job)}"
        return self.state(job)

    def kill_node(self, node: str) -> None:
        """Kill a node at once, as if its power were cut."""
        subprocess.run([SCRIPT, "node-kill", self.folder, node], check=True)

    def start_node(self, node: str) -> None:
        """Start a node that was killed."""
        subprocess.run([SCRIPT, "node-start", self.folder, node], check=True)
