"""Loads data sets of the Hugging Face hub, `data.source = hf:NAME`, from the parquet files that the hub has of each.

They are kept in the hub's own cache, which `datasets` uses as well. What is there whole is taken as it is, without a network, so
that a run that is resumed sees the same images whatever the hub has by then. No code of a data set is ever run.
"""

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath

from distrib.data.images import Dataset
from distrib.data.selection import Selection
from distrib.data.sources.parquet import parquet
from distrib.data.sources.parquet.columns import WantedColumns
from distrib.data.sources.parquet.files import split_files
from distrib.data.sources.parquet.table import expect_pyarrow
from distrib.errors import BadInput
from distrib.files import DISK_BROKEN

# Where the hub has the files of a set, and those that it makes itself of a set that comes in another form.
_REVISIONS = ("main", "refs/convert/parquet")


def load(name: str, cache: Path, selection: Selection, columns: WantedColumns, *, download: bool) -> Dataset:
    """Return the images of a set: `name` is OWNER/NAME, or OWNER/NAME/FOLDER for one variant of a set that has several.

    Raises BadInput for a set that is not there, cannot be fetched, or is none of images; OSError.
    """
    expect_pyarrow()
    said = f"data.source = hf:{name}"
    owner, _, rest = name.partition("/")
    repository, _, variant = rest.partition("/")
    if not all(re.fullmatch(r"\w[\w.-]*", part, re.ASCII) for part in (owner, repository)):
        raise BadInput(f"{said}: expected is hf:OWNER/NAME, or hf:OWNER/NAME/FOLDER for one variant of the set")
    whole = f"{owner}/{repository}"
    path = _cached(said, whole, variant, tell=not download) or _fetched(said, whole, variant, download=download)
    return parquet.load(path, cache, selection, columns, f"hf:{name}")


def _cached(said: str, repository: str, variant: str, *, tell: bool) -> Path | None:
    """Return where the files of the set are, if all of them are in the hub's cache.

    If not and `tell` is true, raises the BadInput that says what is wrong with what is there, if anything is.
    """
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]

    for revision in _REVISIONS:

        def expect(patterns: Sequence[str], revision: str = revision) -> Path:
            return Path(
                snapshot_download(
                    repository,
                    repo_type="dataset",
                    revision=revision,
                    allow_patterns=list(patterns),
                    local_files_only=True,
                )
            )

        try:
            top = expect(())
            files, _ = split_files(said, [file.relative_to(top) for file in (top / variant).rglob("*.parquet")])
            # The files that the hub's listing, which is in the cache too, has beside those that were found.
            expect([re.sub(r"\d+", "*", str(file)) for its in files.values() for file in its])
        except (OSError, ValueError, BadInput) as error:
            if isinstance(error, OSError) and error.errno in DISK_BROKEN:
                raise
            if tell and isinstance(error, BadInput):
                raise
            continue
        return top / variant
    return None


def _fetched(said: str, repository: str, variant: str, *, download: bool) -> Path:
    """Fetch the files of the training and the test split, and return where they are. Raises BadInput and OSError."""
    from huggingface_hub import (
        constants,
        list_repo_files,
        snapshot_download,  # pyright: ignore[reportUnknownVariableType]
    )

    fix = (
        f"fetch it once where there is a network, and copy datasets--{repository.replace('/', '--')} into "
        f"{constants.HF_HUB_CACHE} (HF_HUB_CACHE)"
    )
    if not download:
        raise BadInput(f"{said} is not whole in the cache of the hub, and data.download is false: {fix}")

    for revision in _REVISIONS:
        with _answers_of_the_hub(said, fix):
            listed = [PurePath(file) for file in list_repo_files(repository, repo_type="dataset", revision=revision)]
        inside = [file for file in listed if file.suffix == ".parquet" and file.is_relative_to(variant)]
        if inside:
            files, _ = split_files(said, inside)
            wanted = [str(file) for its in files.values() for file in its]
            with _answers_of_the_hub(said, fix):
                top = snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=wanted)
            return Path(top) / variant
    raise BadInput(f"{said}: the hub has no parquet files of it{f' in {variant}' if variant else ''}; use another set")


@contextmanager
def _answers_of_the_hub(said: str, fix: str) -> Generator[None]:
    """Raise every error of a call to the hub as BadInput, and OSError for a disk that breaks."""
    try:
        yield
    except Exception as error:  # each version of huggingface_hub has errors of another HTTP client
        if isinstance(error, OSError) and error.errno in DISK_BROKEN:
            raise
        said_by_hub = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = " ".join(said_by_hub[:2]) or type(error).__name__
        raise BadInput(f"{said} cannot be fetched from the hub ({why}): check the name, or {fix}") from error
