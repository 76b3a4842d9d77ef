"""Words in a report: text of others on a terminal, and lists of names."""

from collections.abc import Sequence

_SAID = 3  # names that stand one by one


def shown(text: str) -> str:
    """Return `text` as one harmless line: what is not printable, line breaks included, is escaped as Python would."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def count(number: int, thing: str) -> str:
    """Return how many there are of the thing, such as `1 step` and `1,170 steps`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them; of many the first, and how many others there are."""
    if len(names) > _SAID + 1:
        return f"{', '.join(names[:_SAID])} and {len(names) - _SAID} others"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
