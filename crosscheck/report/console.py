"""Colors a report for a terminal: what a person looks at first stands out, and what there is much of is cut."""

import math
from collections import Counter

from crosscheck.report.report import Report
from crosscheck.report.verdict import Verdict

_COLORS = {Verdict.MATCH: "32", Verdict.MISMATCH: "31", Verdict.VACUOUS: "33"}
_BOLD, _FAINT, _WARNING = "1", "2", "33"
_KINDS = {
    "finding": ("", 5),
    "warning": (_WARNING, 5),
    "power": (_FAINT, 3),
    "claim": (_FAINT, 3),
    "note": (_FAINT, 3),
    "not recorded": (_FAINT, 1),
}
"""By the kind of a section: its style, and how many of the kind are shown. Others are plain, and all are shown."""


def for_terminal(report: Report) -> str:
    """Return the report in a dozen lines or two, with the codes by which a terminal colors them."""
    headline, *sections = report.sections()
    verdict, _, rest = headline.lines[0].partition(": ")
    said = [f"{_styled(verdict, f'{_BOLD};{_COLORS[report.verdict]}')}: {_styled(rest, _BOLD)}"]
    seen, left_out = Counter[str](), 0
    for section in sections:
        style, most = _KINDS.get(section.kind, ("", math.inf))
        seen[section.kind] += 1
        if seen[section.kind] > most:
            left_out += len(section.lines)
        else:
            said += [_styled(line, style) for line in section.lines]
    if left_out:
        said.append(f"… and {left_out} lines more, which --json FILE, --html FILE and | cat show")
    return "\n".join(said)


def _styled(text: str, style: str) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if style else text
