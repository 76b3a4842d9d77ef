"""Text of others on a terminal."""


def shown(text: str) -> str:
    """Return `text` as one harmless line: what is not printable, line breaks included, is escaped as Python would."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
