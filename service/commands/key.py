"""Making a key: the key on standard output, its hash in the file of keys."""

import secrets
import sys
from hashlib import sha256

from service.auth.key_file import add_key
from service.auth.keys import KeysError
from service.commands.command_line import KeyOptions
from service.observability.logging import print_error


def run(options: KeyOptions) -> int:
    """Make a key. Returns 1 where the file of keys cannot be used."""
    key = f"upright_{secrets.token_urlsafe(32)}"
    try:
        add_key(options.keys, options.name, options.scope, sha256(key.encode()).hexdigest())
    except KeysError as error:
        print_error(str(error))
        return 1

    sys.stdout.write(f"{key}\n")
    sys.stdout.flush()
    sys.stderr.write(
        f"upright: this is the key of {options.name}, shown this once; a running service knows it"
        " after SIGHUP\n"
    )
    return 0
