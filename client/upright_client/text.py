"""Makes texts from outside safe to print: for messages that people read in a terminal or a log."""

TEXT_LIMIT = 300  # characters


def printable(text: str) -> str:
    """Return a text with control characters and lone surrogates escaped, cut to a length."""
    text = text[:TEXT_LIMIT]
    if text.isprintable():
        return text
    escaped = (
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
    return "".join(escaped)[:TEXT_LIMIT]


def describe(value: object) -> str:
    """Return a short `repr` of any value, also of one whose own `repr` raises."""
    try:
        return printable(repr(value)[:TEXT_LIMIT])
    except Exception:  # whatever the value's own method raises
        return f"a {type(value).__name__}"
