"""A new key: whose it is and what it opens in; the key itself on standard output, and its hash in a file of keys."""

import argparse
import secrets
import sys
from hashlib import sha256
from pathlib import Path

from service.auth.key_file import add_key
from service.auth.keys import KeysError
from service.endpoints import SCOPES


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
        add_key(asked.keys, asked.name, asked.scope, sha256(key.encode()).hexdigest())
    except KeysError as error:
        sys.stderr.write(f"upright: {error}\n")
        return 1
    sys.stdout.write(f"{key}\n")
    sys.stderr.write(
        f"upright: this is the key of {asked.name}, shown this once; a running service knows it after SIGHUP\n"
    )
    return 0
