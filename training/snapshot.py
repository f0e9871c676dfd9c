"""Snapshots: the state of a training as a tree of named arrays and values.

Every part of a trainer that has a state (buffer, networks, environment, …) has the two methods
`snapshot` and `restore`; a trainer's snapshot has those of its parts.
"""

from dataclasses import dataclass, field
from typing import Protocol

from pydantic import JsonValue

from training.types import Array

SEPARATOR = "/"  # between the names in the path of an array or a value; no name contains it


@dataclass(frozen=True)
class Snapshot:
    """All that the future of a training depends on, or of one of its parts.

    A training that goes on from a snapshot gives the same weights, bit for bit, as one that never
    stopped. The arrays may be views that the next step changes.
    """

    arrays: dict[str, Array] = field(default_factory=dict)
    values: dict[str, JsonValue] = field(default_factory=dict)
    parts: "dict[str, Snapshot]" = field(default_factory=dict)

    def integer(self, name: str) -> int:
        """Return a value that is a whole number."""
        value = self.values[name]
        assert isinstance(value, int)
        return value

    def number(self, name: str) -> float:
        """Return a value that is a number."""
        value = self.values[name]
        assert isinstance(value, int | float)
        return value

    def flatten(self) -> "Snapshot":
        """Return the same without parts: `buffer/states` is the array `states` of `buffer`."""
        arrays, values = dict(self.arrays), dict(self.values)
        for name, part in self.parts.items():
            flat = part.flatten()
            arrays |= {f"{name}{SEPARATOR}{key}": array for key, array in flat.arrays.items()}
            values |= {f"{name}{SEPARATOR}{key}": value for key, value in flat.values.items()}
        return Snapshot(arrays, values)

    def unflatten(self) -> "Snapshot":
        """Undo `flatten`."""
        parts: dict[str, Snapshot] = {}
        arrays: dict[str, Array] = {}
        values: dict[str, JsonValue] = {}

        for path, array in self.arrays.items():
            name, separator, rest = path.partition(SEPARATOR)
            if separator:
                parts.setdefault(name, Snapshot()).arrays[rest] = array
            else:
                arrays[name] = array

        for path, value in self.values.items():
            name, separator, rest = path.partition(SEPARATOR)
            if separator:
                parts.setdefault(name, Snapshot()).values[rest] = value
            else:
                values[name] = value

        return Snapshot(arrays, values, {name: part.unflatten() for name, part in parts.items()})


class Stateful(Protocol):
    """A part of a trainer that has a state."""

    def snapshot(self) -> Snapshot:
        """Return all that the future of this part depends on."""
        ...

    def restore(self, snapshot: Snapshot) -> None:
        """Take over the state of a snapshot."""
        ...
