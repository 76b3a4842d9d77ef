"""What JAX compiles in one test process serves in all others: xdist's workers, and the replays that trainers start.

Compiling the formulas took a quarter of the time of `make test`. The folder is of one test run only, because compiled
code is for the processor it was compiled on. JAX reads these variables when it is imported, and child processes inherit
them; the largest size makes JAX lock the folder, so that nobody reads what is half written.
"""

import os
import shutil
import tempfile
from pathlib import Path

_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_SETTINGS = {
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**30),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.03",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def share() -> Path | None:
    """Let this process and its children share what they compile, and return the new folder; None if one is named already."""
    if _FOLDER in os.environ:
        return None
    folder = Path(tempfile.mkdtemp(prefix="compiled-"))
    os.environ.update({_FOLDER: str(folder), **_SETTINGS})
    return folder


def forget(folder: Path | None) -> None:
    """Remove the folder that `share` returned."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
