"""Texts from outside, such as from a manifest, a record or a file's name, as they may be shown."""


def printable(text: str) -> str:
    """Return a text from outside as one line that no terminal takes for a command."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
