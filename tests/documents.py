"""The documents: the commands and the Python that they show, and the sections that measurements write into them."""

import re
import shlex
from pathlib import Path

from tests.support import ROOT

CRITERION, PERFORMANCE = ROOT / "docs" / "criterion.md", ROOT / "docs" / "performance.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_PROGRAMS = ("accelerate", "eval", "make", "pip", "pytest", "python", "sbatch", "source", "twinstep")
_INDENTED = re.compile(r"(?:^ {4}.*\n)+", re.MULTILINE)
_FENCED = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def name(document: Path) -> str:
    """Return what tests call a document."""
    return str(document.relative_to(ROOT))


def commands(document: Path) -> list[str]:
    """Return a document's shell commands, in order, without comments: fenced as sh,
    and indented lines that begin with a program.
    """
    text = document.read_text(encoding="utf-8")
    found = [(match.start(), match[1]) for match in _FENCED.finditer(text)]
    found += [(match.start(), match[0]) for match in _INDENTED.finditer(text)]
    lines = [line for _, block in sorted(found) for line in block.replace("\\\n", " ").splitlines()]
    return [
        " ".join(line.split(" #")[0].split()) for line in lines if line.split()[:1] and line.split()[0] in _PROGRAMS
    ]


def fenced_commands(document: Path) -> list[str]:
    """Return every line of the document's blocks that are fenced as sh."""
    text = document.read_text(encoding="utf-8")
    blocks = (match[1].replace("\\\n", " ") for match in _FENCED.finditer(text))
    return [line for block in blocks for line in block.splitlines() if shlex.split(line, comments=True)]


def scripts(document: Path) -> list[str]:
    """Return the blocks of Python of a document, in order."""
    return [match[1] for match in _PYTHON.finditer(document.read_text(encoding="utf-8"))]


def write_section(page: Path, name: str, section: str) -> None:
    """Put a section between the marks of its name, and these at the end of the page if it has none yet."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = page.read_text(encoding="utf-8")
    if begin not in text:
        text += f"\n{begin}\n{end}\n"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{section}{end}{after}", encoding="utf-8")
