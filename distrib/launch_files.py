"""Finds the recipes and launch files that come with the project, by their bare names, from any folder."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from distrib.errors import BadInput

_FOLDER = (Path(__file__).parent / "launch").resolve()
"""In a checkout a link to launch/, in an installation a copy of it."""
_RECIPES = _FOLDER / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the project's recipes."""
    return sorted(path.stem for path in _RECIPES.glob("*.toml"))


def find_recipe(given: str) -> Path:
    """Return the file of this path, or the project's recipe of this name. Raises BadInput if neither exists."""
    if given.startswith("-"):
        raise BadInput(
            f"argument {given!r} of the command line: the recipe comes first, such as quickstart --training.epochs 6"
        )
    path = Path(given)
    return path if _is_there(path) else _named(given, _RECIPES.glob("*.toml"), "recipe")


def find_launch_file(given: str) -> Path:
    """Return the file of this path, or the project's launch file of this name. Raises BadInput if neither exists."""
    path = Path(given)
    return path if _is_there(path) else _named(given, _FOLDER.glob("*.yaml"), "launch file")


def find(name: str) -> Path:
    """Return the project's recipe or launch file of this name. Raises BadInput if there is none."""
    return _named(name, [*_FOLDER.glob("*.yaml"), *_FOLDER.glob("*.sh"), *_RECIPES.glob("*.toml")], "file")


def _named(name: str, paths: Iterable[Path], what: str) -> Path:
    """Return the one of the paths that has this name, with or without its ending. Raises BadInput."""
    by_stem = {path.stem: path for path in sorted(paths)}
    for path in by_stem.values():
        if name in (path.stem, path.name):
            return path
    near = get_close_matches(name, by_stem, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    place = "launch/recipes/" if what == "recipe" else "launch/"
    raise BadInput(
        f"{what} {name}: there is no such file, and none that comes with the project has this name: {hint}"
        f"{place} holds {', '.join(by_stem)}"
    )


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True  # whoever reads it says why it cannot
