"""No room of crosscheck imports one that stands above it, and no module imports itself by a detour."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

from tests.support import ROOT

LAYERS = (
    {"__main__"},
    {"atlas"},
    {"testing"},
    {"replayer"},
    {"checks"},
    {"diagnosis", "twin"},
    {"criterion"},
    {"rules", "recorder", "report"},
    {"tolerance"},
    {"trace"},
    {"errors", "files", "float64", "text"},
)
"""From the top, which imports, to the bottom, which is imported. The package itself names its public things only."""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / "crosscheck").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path, known: set[str]) -> set[str]:
    """Return the modules of crosscheck that a file imports, wherever in it; a module may be imported as a name."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {
                inner if (inner := f"{node.module}.{alias.name}") in known else node.module for alias in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & known


GRAPH = {name: imports(path, {known for known, _ in modules()}) for name, path in modules() if name != "crosscheck"}


def test_no_import_goes_up() -> None:
    height = {room: number for number, layer in enumerate(reversed(LAYERS)) for room in layer}

    def room(module: str) -> str:
        return module.split(".")[1]

    assert {room(module) for module in GRAPH} == set(height)
    upward = [
        (module, imported)
        for module, its in GRAPH.items()
        for imported in its
        if room(imported) != room(module) and height[room(imported)] >= height[room(module)]
    ]
    assert not upward


def test_no_import_goes_round() -> None:
    # checks/__init__.py names the class of its own checks, for the type checker alone.
    graph = {
        module: its - {"crosscheck.checks.check"} if module == "crosscheck.checks" else its
        for module, its in GRAPH.items()
    }
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)
