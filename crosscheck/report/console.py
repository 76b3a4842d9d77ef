"""Colors a report for a terminal: what a person looks at first stands out, and what there is much of is cut."""

from crosscheck.report.report import Report
from crosscheck.report.verdict import Verdict

_COLORS = {Verdict.MATCH: "32", Verdict.MISMATCH: "31", Verdict.VACUOUS: "33"}
_BOLD, _FAINT, _WARNING = "1", "2", "33"
_KINDS = {
    "- step ": ("", 5),
    "warning: ": (_WARNING, 5),
    "smallest error that would have been caught, ": (_FAINT, 3),
    "claim not tested by this record: ": (_FAINT, 3),
    "note: ": (_FAINT, 3),
    "not recorded: ": (_FAINT, 1),
}
"""By what a line begins with: its style, and how many of the kind are shown."""


def for_terminal(report: Report) -> str:
    """Return the report in a dozen lines or two, with the codes by which a terminal colors them."""
    headline, *lines = str(report).splitlines()
    verdict, _, rest = headline.partition(": ")
    shown = [f"{_styled(verdict, f'{_BOLD};{_COLORS[report.verdict]}')}: {_styled(rest, _BOLD)}"]
    kind, seen, left_out = "", dict.fromkeys(_KINDS, 0), 0
    for line in lines:
        if not line.startswith("    "):  # what is indented goes on with the line before
            kind = next((kind for kind in _KINDS if line.startswith(kind)), "")
            if kind:
                seen[kind] += 1
        style, most = _KINDS.get(kind, ("", 1))
        if kind and seen[kind] > most:
            left_out += 1
        else:
            shown.append(_styled(line, style))
    if left_out:
        shown.append(f"… and {left_out} lines more, which --json FILE, --html FILE and | cat show")
    return "\n".join(shown)


def _styled(text: str, style: str) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if style else text
