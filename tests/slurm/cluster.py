"""A SLURM cluster of the test's own (tests/slurm/cluster.sh), and a project's root to submit from."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support import ROOT

SCRIPT = ROOT / "tests" / "slurm" / "cluster.sh"
PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
NAMESPACES = ("unshare", "--uts", "--mount", "--net", "--pid", "--fork", "--mount-proc")
UNFINISHED = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "CONFIGURING", "SUSPENDED")


def what_is_missing() -> str | None:
    """Why no cluster can be started here, if none can."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        return f"SLURM's programs are not installed: {', '.join(missing)}"
    if os.geteuid() != 0:
        return "a SLURM cluster for tests needs root"
    refused = subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True, check=False)
    return f"namespaces are refused: {refused.stderr.strip()}" if refused.returncode else None


class Cluster:
    """Running from its construction to `wipe`."""

    def __init__(self, folder: Path, *, nodes: int = 2, network: str = "shared") -> None:
        """`network="own"` gives each node an address of its own."""
        self.folder = folder
        sizes = {"CLUSTER_NODES": str(nodes), "CLUSTER_NETWORK": network}
        subprocess.run([SCRIPT, "start", folder], check=True, env=os.environ | sizes)
        # What a user may have: a root whose name needs quotes, and defaults of Accelerate that suit nothing here.
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
        }

    def wipe(self) -> None:
        subprocess.run([SCRIPT, "wipe", self.folder], check=True)

    def run(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """Standard output of a command of SLURM's on the login node."""
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
        """The job's id."""
        command = ["sbatch", "--parsable", *options, script, *map(str, arguments)]
        return self.run(*command, environment=environment).strip()

    def said(self, job: str) -> str:
        """What the job has written so far, over all its starts."""
        file = self.project / f"slurm-{job}.out"
        return file.read_text(errors="replace") if file.exists() else ""

    def show(self, job: str) -> dict[str, str]:
        """SLURM's fields of a job (or of one task of an array)."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "--oneliner", "show", "job", job)))

    def wait_until(self, job: str, *states: str, seconds: float = 150) -> str:
        """The first of these states that the job is in."""
        deadline = time.monotonic() + seconds
        while (state := self.show(job)["JobState"]) not in states:
            assert time.monotonic() < deadline, f"job {job} is {state}, not {states}: {self.said(job)}"
            time.sleep(0.1)
        return state

    def wait(self, job: str, seconds: float = 150) -> str:
        """The job's final state."""
        deadline = time.monotonic() + seconds
        while (state := self.show(job)["JobState"]) in UNFINISHED:
            assert time.monotonic() < deadline, f"job {job} is still {state}: {self.said(job)}"
            time.sleep(0.1)
        return state

    def kill_node(self, node: str) -> None:
        """Cut its power."""
        subprocess.run([SCRIPT, "node-kill", self.folder, node], check=True)

    def start_node(self, node: str) -> None:
        subprocess.run([SCRIPT, "node-start", self.folder, node], check=True)
