"""The page that the measurements over drawn runs write their sections into: docs/criterion.md."""

from tests.support import ROOT

PAGE = ROOT / "docs" / "criterion.md"


def write_section(name: str, section: str) -> None:
    """Put a section between the marks of its name, and these at the end of the page if it has none yet."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    page = PAGE.read_text(encoding="utf-8")
    if begin not in page:
        page += f"\n{begin}\n{end}\n"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}\n{section}{end}{after}", encoding="utf-8")
