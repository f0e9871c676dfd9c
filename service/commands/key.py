"""Making a key: the key on standard output, its hash in the file of keys."""

import secrets
import sys
from functools import partial
from hashlib import sha256

from service.auth.key_file import add_key
from service.auth.keys import KeysError
from service.commands.command_line import KeyOptions
from service.commands.output import OutputError, print_result
from service.observability.logging import print_error


def run(options: KeyOptions) -> int:
    """Make a key. Returns 1 where the file of keys cannot be used, or the key cannot be shown."""
    key = f"upright_{secrets.token_urlsafe(32)}"
    try:
        add_key(
            options.keys,
            options.name,
            options.scope,
            sha256(key.encode()).hexdigest(),
            before=partial(print_result, key),  # a key that nobody has seen is not added
        )
    except (KeysError, OutputError) as error:
        print_error(str(error))
        return 1

    sys.stderr.write(
        f"upright: this is the key of {options.name}, shown this once; a running service knows it"
        " after SIGHUP\n"
    )
    return 0
