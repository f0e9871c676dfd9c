"""A new key: whose it is and what it opens in; the key itself on standard output, and its hash in a file of keys."""

import argparse
import contextlib
import fcntl
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from service.auth.key_file import NAME, read
from service.auth.keys import KeysError
from service.endpoints import SCOPES, Scope


def main(arguments: list[str]) -> int:
    """Make a key: print it once, and add its hash to a file of keys. Returns 1 where the file cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m service key",
        description=main.__doc__.partition(".")[0] if main.__doc__ else None,
    )
    parser.add_argument("name", help="whose key it is: letters, digits, dots, dashes")
    parser.add_argument(
        "--scope",
        action="append",
        required=True,
        choices=SCOPES,
        help="what it opens; may be given more than once",
    )
    parser.add_argument(
        "--keys", required=True, type=Path, metavar="FILE", help="file that its hash is added to"
    )
    asked = parser.parse_args(arguments)
    key = f"upright_{secrets.token_urlsafe(32)}"
    try:
        add(asked.keys, asked.name, asked.scope, sha256(key.encode()).hexdigest())
    except KeysError as error:
        sys.stderr.write(f"upright: {error}\n")
        return 1
    sys.stdout.write(f"{key}\n")
    sys.stderr.write(
        f"upright: this is the key of {asked.name}, shown this once; a running service knows it after SIGHUP\n"
    )
    return 0


def add(file: Path, name: str, scopes: list[Scope], digest: str) -> None:
    """Add an entry to a file of keys, which is there as a whole at any time, before and after. Raises `KeysError`."""
    if NAME.fullmatch(name) is None:
        raise KeysError(
            f"{name!r} is no name for a key: expected 1 to 64 letters, digits, dots, dashes and underscores"
        )
    file = file.resolve()  # a link stays a link
    try:
        with _locked(file.parent):
            before = file.stat() if file.exists() else None
            text = file.read_text() if before else ""
            if text and not text.endswith("\n"):
                text += "\n"
            quoted = ", ".join(f'"{scope}"' for scope in dict.fromkeys(scopes))
            text += f'{text and chr(10)}[[key]]\nname = "{name}"\nscopes = [{quoted}]\nsha256 = "{digest}"\n'
            _replace(file, text, before)
    except OSError as error:
        raise KeysError(f"{error.filename or file}: {error.strerror}") from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep others who add a key to a file in the folder waiting: of two at once, one would be lost."""
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _replace(file: Path, text: str, before: os.stat_result | None) -> None:
    """Replace a file by the text, if it can be read as keys. A new file is its owner's alone; an older one keeps owner and mode."""
    number, beside = tempfile.mkstemp(
        dir=file.parent, prefix=f".{file.name}-"
    )  # made with mode 600
    try:
        with os.fdopen(number, "w") as writer:
            writer.write(text)
            writer.flush()
            if before is not None:
                os.fchmod(number, before.st_mode & 0o777)
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(number, before.st_uid, before.st_gid)
            os.fsync(number)
        try:
            read(Path(beside))
        except KeysError as error:
            raise KeysError(str(error).replace(beside, str(file))) from error
        Path(beside).replace(file)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
