"""The layers of the house: a room imports from rooms below it only, and no two modules import each other in a circle.

A room is a file or a folder directly in a package. Rooms of one layer do not import each other. To hold another package
to its layers, add its table to `LAYERS`. Inside a room, at any depth, no two folders import each other in a circle.
"""

import ast
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support import ROOT

LAYERS: Mapping[str, tuple[set[str], ...]] = {
    "twinstep": ({"__main__"}, {"command"}, {"completion", "__init__"}),
    "distrib": (
        {"__init__"},  # it imports its public names, when they are asked for
        {"train", "bench", "doctor", "export", "launcher", "predict", "sweep"},
        {"api", "command"},
        {"start", "dry_run", "inference", "compare"},
        {"training"},
        {"checkpoint", "crosscheck"},
        {"ranks"},
        {"data", "networks", "optim", "job", "page"},
        {"config", "exits"},
        {"arguments", "display", "files", "launch_files"},
        {"errors", "layout", "system", "counter_rng", "text"},
    ),
    "crosscheck": (
        {"__init__"},  # it imports its public names, when they are asked for
        {"__main__"},
        {"commands"},
        {"startup"},  # in processes that Python starts
        {"atlas", "pytest_plugin"},
        {"testing", "follower", "integrations", "page"},
        {"replayer"},
        {"checks"},
        {"diagnosis", "twin"},
        {"criterion"},
        {"rules", "recorder", "report"},
        {"tolerance"},
        {"trace"},
        {"arrays", "errors", "files", "float64", "json_text", "programs", "streams", "templates", "text"},
    ),
}
"""By package, its rooms from the top to the bottom."""


def modules(package: Path) -> dict[str, Path]:
    """The file of each module of the package, by dotted name; a folder's name stands for its __init__.py."""
    found: dict[str, Path] = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(file: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules among `known` that the file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in inner]
        else:
            continue
        yield from (name for name in names if name in known)


def graph(package: Path) -> dict[str, set[str]]:
    """Module -> the modules of the same package that it imports."""
    known = modules(package)
    return {name: set(imports(file, known)) for name, file in known.items()}


def upward(package: Path, layers: tuple[set[str], ...]) -> list[str]:
    """Each import that does not lead to a lower layer, as `module imports module`."""
    depth = {room: number for number, rooms in enumerate(layers) for room in rooms}
    return [
        f"{name} imports {other}"
        for name, others in graph(package).items()
        for other in sorted(others)
        if room_of(name) != room_of(other) and depth[room_of(name)] >= depth[room_of(other)]
    ]


def cycle(imported: Mapping[str, set[str]]) -> list[str]:
    """The names of one circle of imports, or none."""
    try:
        TopologicalSorter(imported).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def folder_cycle(package: Path) -> list[str]:
    """The folders of one circle inside a room, or none. A folder in the circle stands for all that is in it.

    The name of the folder around the circle stands for its own files, taken together.
    """
    known, imported = modules(package), graph(package)
    rooms = {name for name, file in known.items() if file.name == "__init__.py" and name != package.name}
    for outer in sorted(rooms):
        folder = {name: folder_in(outer, name, rooms) for name in known if f"{name}.".startswith(f"{outer}.")}
        between: defaultdict[str, set[str]] = defaultdict(set)
        for name, its in folder.items():
            between[its] |= {folder[other] for other in imported[name] if other in folder} - {its}
        if found := cycle(between):
            return found
    return []


def folder_in(outer: str, module: str, folders: Collection[str]) -> str:
    """The folder directly in `outer` that a module is in, or `outer` itself for one of its own files."""
    inner = ".".join(module.split(".")[: outer.count(".") + 2])
    return inner if inner in folders else outer


def room_of(module: str) -> str:
    """`training` for distrib.training.run; `__init__` for the package's own file."""
    return module.split(".")[1] if "." in module else "__init__"


@pytest.mark.parametrize("package", LAYERS)
def test_every_room_has_its_place(package: str) -> None:
    placed = [room for rooms in LAYERS[package] for room in rooms]
    assert sorted(placed) == sorted({room_of(name) for name in modules(ROOT / package)})


@pytest.mark.parametrize("package", LAYERS)
def test_nothing_imports_upward(package: str) -> None:
    assert upward(ROOT / package, LAYERS[package]) == []


@pytest.mark.parametrize("package", LAYERS)
def test_no_imports_go_in_a_circle(package: str) -> None:
    assert cycle(graph(ROOT / package)) == []


@pytest.mark.parametrize("package", LAYERS)
def test_no_folders_import_each_other_in_a_circle(package: str) -> None:
    assert folder_cycle(ROOT / package) == []


def test_the_trainer_imports_of_the_cross_check_the_recorder_and_its_lowest_layer_only() -> None:
    known = modules(ROOT / "crosscheck")
    imported = {name for file in modules(ROOT / "distrib").values() for name in imports(file, known)}
    assert imported <= {"crosscheck.recorder", *(f"crosscheck.{room}" for room in LAYERS["crosscheck"][-1])}


def test_what_breaks_the_rules_is_found(tmp_path: Path) -> None:
    """A lower room that imports a higher one inside a function, one of its own layer, and a circle within a room."""
    package = tmp_path / "house"
    files = {
        "__init__.py": "",
        "roof.py": "import house.cellar.coal\n",
        "kitchen.py": "from house import cellar, parlour\n",
        "parlour.py": "from house.cellar.wine import BOTTLES\n",
        "cellar/__init__.py": "",
        "cellar/coal.py": "from house.cellar import wine\n",
        "cellar/wine.py": "def fetch():\n    from house.roof import TILES\n",
    }
    build(package, files)
    layers = ({"roof"}, {"kitchen", "parlour"}, {"cellar", "__init__"})
    assert upward(package, layers) == ["house.cellar.wine imports house.roof", "house.kitchen imports house.parlour"]
    assert set(cycle(graph(package))) == {"house.roof", "house.cellar.coal", "house.cellar.wine"}


@pytest.mark.parametrize(
    ("files", "circle"),
    [
        (
            {
                "cellar/rack/red.py": "from house.cellar.bin import apples\n",
                "cellar/rack/white.py": "",
                "cellar/bin/apples.py": "",
                "cellar/bin/pears.py": "from house.cellar.rack.white import BOTTLES\n",
            },
            {"house.cellar.rack", "house.cellar.bin"},
        ),
        (
            {
                "cellar/door.py": "from house.cellar.rack import red\n",
                "cellar/lamp.py": "",
                "cellar/rack/red.py": "",
                "cellar/rack/white.py": "import house.cellar.lamp\n",
            },
            {"house.cellar", "house.cellar.rack"},
        ),
        (
            {
                "cellar/rack/top/red.py": "from house.cellar.rack.low import apples\n",
                "cellar/rack/top/white.py": "",
                "cellar/rack/low/apples.py": "",
                "cellar/rack/low/pears.py": "import house.cellar.rack.top.white\n",
            },
            {"house.cellar.rack.top", "house.cellar.rack.low"},
        ),
    ],
    ids=["two folders", "a folder and the files beside it", "deeper"],
)
def test_folders_that_import_each_other_are_found(files: dict[str, str], circle: set[str], tmp_path: Path) -> None:
    """No two of these modules import each other in a circle, but their folders do."""
    package = tmp_path / "house"
    folders = {str(parent) for name in files for parent in Path(name).parents}
    build(package, {**{f"{folder}/__init__.py": "" for folder in folders}, **files})
    assert cycle(graph(package)) == []
    assert set(folder_cycle(package)) == circle


def build(package: Path, files: Mapping[str, str]) -> None:
    """Write the files of a package, by their paths inside it."""
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
