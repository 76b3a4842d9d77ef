"""Processes that must not outlive the trainer, however it ends."""

import shutil


def dies_with_us() -> list[str]:
    """A prefix to their command: the kernel kills them when this process dies (Linux; elsewhere nothing does)."""
    setpriv = shutil.which("setpriv")
    return [] if setpriv is None else [setpriv, "--pdeathsig", "KILL"]
