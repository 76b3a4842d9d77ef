"""Text for people: how things are counted and listed, and how none of it is obeyed by a terminal that is to show it."""

from collections.abc import Sequence

_SAID = 3  # names that stand one by one


def harmless(text: str) -> str:
    """Return the text with everything escaped, as Python would, that a terminal obeys instead of showing it, but for line ends.

    Names of files, tensors and classes, keys and values come from outside.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def one_line(text: object) -> str:
    """Return the text as `harmless` does, with line ends escaped too, for a name in a line of its own:
    it must not begin another one.
    """
    return harmless(str(text)).replace("\n", "\\n")


def count(number: int, thing: str) -> str:
    """Return how many there are of the thing, such as `1 step`, `1,170 steps` and `2 processes`."""
    plural = thing if number == 1 else f"{thing}es" if thing.endswith("s") else f"{thing}s"
    return f"{number:,} {plural}"


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them; of many the first, and how many others there are."""
    if len(names) > _SAID + 1:
        return f"{', '.join(names[:_SAID])} and {len(names) - _SAID} others"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
