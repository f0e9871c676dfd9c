"""The tables of a decision record, and the rows in them.

A row is one decision: a state, the Q-values and the action that were answered.
"""

from typing import Any, NamedTuple, TypeGuard, get_args

import apsw

from models.manifest import FLOAT32_MAX, Manifest
from service.inference.backends import BackendName

APPLICATION_ID = 0x55505254  # "UPRT": SQLite's header has a field that says whose file it is
SCHEMA_VERSION = 1
STATE = ("cart_position", "cart_velocity", "pole_angle", "pole_angular_velocity")
ACTIONS = ("left", "right")
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
Q_VALUES = tuple(f"q_{action}" for action in ACTIONS)
COLUMNS = ("time", "request_id", "seq", "row", *STATE, *Q_VALUES, "action", "out_of_range")

SCHEMA = f"""
CREATE TABLE policies (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL,   -- of the bundle that answered
    model TEXT NOT NULL,    -- its name
    backend TEXT NOT NULL,  -- what ran it
    UNIQUE (digest, backend)
);
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY,    -- in the order of the answers
    time REAL NOT NULL,        -- when the answer was handed to the server, seconds since 1970
    request_id TEXT NOT NULL,  -- X-Request-ID
    seq INTEGER,               -- as the caller sent it
    row INTEGER NOT NULL,      -- place of the state in its request, from 0
    -- The numbers of state and answer. No type: in a REAL column SQLite makes 0.0 of -0.0.
    {", ".join(f"{name} NOT NULL" for name in (*STATE, *Q_VALUES))},
    action INTEGER NOT NULL,     -- 0 left, 1 right
    out_of_range TEXT,           -- names with a comma between them; NULL where there is none
    policy INTEGER NOT NULL REFERENCES policies
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""


def _insert_statement(rows: int) -> str:
    """Return what inserts so many rows, all of the policy that is its first parameter."""
    width = len(COLUMNS)
    places = [
        f"(?1, {', '.join(f'?{2 + row * width + column}' for column in range(width))})"
        for row in range(rows)
    ]
    return f"INSERT INTO decisions (policy, {', '.join(COLUMNS)}) VALUES {', '.join(places)}"  # noqa: S608 - our own names


# Rows are inserted by as few statements as can be: each one releases the GIL, which comes back
# when the event loop's thread pleases.
INSERT_STATEMENTS = [(rows, _insert_statement(rows)) for rows in (128, 16, 1)]
SELECT_STATEMENT = f"""
SELECT decisions.id, {", ".join(COLUMNS)}, digest, backend
FROM decisions JOIN policies ON policies.id = policy
WHERE decisions.id > ? ORDER BY decisions.id LIMIT ?
"""  # noqa: S608 - our own names

Values = tuple[float | int | str | None, ...]  # of `COLUMNS`: a decision as it is written


class RecordError(Exception):
    """Raised when a file is no record, or cannot be read or written."""


class Row(NamedTuple):
    """A decision as it is read."""

    time: float  # seconds since 1970
    request_id: str
    seq: int | None
    row: int  # place of the state in its request
    state: tuple[float, ...]
    q_values: tuple[float, ...]
    action: int
    out_of_range: str | None  # names with a comma between them; none where there is none
    digest: str
    backend: BackendName


def row_from(values: tuple[Any, ...]) -> Row:
    """Return a row of what `SELECT_STATEMENT` gives.

    SQLite keeps any type in any column, and another program may have written there. Raises
    `ValueError`, which names the column.
    """
    number, moment, request_id, seq, row, *numbers, action, out_of_range, digest, backend = values
    checks = {
        "time": _is_number(moment),
        "request_id": isinstance(request_id, str),
        "seq": seq is None or isinstance(seq, int),
        "row": isinstance(row, int),
        **dict(zip((*STATE, *Q_VALUES), map(_is_number, numbers), strict=True)),
        "action": action in range(len(ACTIONS)),
        "out_of_range": out_of_range is None or isinstance(out_of_range, str),
        "digest": isinstance(digest, str),
        "backend": backend in BACKENDS,
    }
    if not all(checks.values()):
        column = next(name for name, is_right in checks.items() if not is_right)
        raise ValueError(f"row {number} holds no possible value in its column {column}")

    state, q_values = tuple(numbers[: len(STATE)]), tuple(numbers[len(STATE) :])
    return Row(moment, request_id, seq, row, state, q_values, action, out_of_range, digest, backend)


def check_columns(manifest: Manifest) -> None:
    """Check that a policy's decisions fit the record's columns. Raises `RecordError`."""
    names = tuple(value.name for value in manifest.state)
    if names != STATE or tuple(manifest.actions) != ACTIONS:
        raise RecordError(
            f"a record has columns for {', '.join(STATE)} and the actions {', '.join(ACTIONS)};"
            f" {manifest.name} has {', '.join(names)} and {', '.join(manifest.actions)}"
        )


def check_schema(connection: apsw.Connection) -> None:
    """Check that an open file is a record of this schema. Raises `RecordError`."""
    name = connection.filename
    try:
        application_id = connection.execute("PRAGMA application_id").get
        version = connection.execute("PRAGMA user_version").get
    except apsw.Error as error:
        raise RecordError(
            f"{name}: cannot be read as a decision record ({error}); choose another path"
        ) from error
    if application_id != APPLICATION_ID:
        raise RecordError(f"{name}: is another program's, no decision record; choose another path")
    if version != SCHEMA_VERSION:
        raise RecordError(
            f"{name}: is a decision record of schema {version}, this program knows"
            f" {SCHEMA_VERSION}; choose another path"
        )


def _is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a number that float32 can hold."""
    return isinstance(value, int | float) and abs(value) <= FLOAT32_MAX
