"""Connects to the first address of a name that answers: Happy Eyeballs, version 2 (RFC 8305)."""

import socket
from collections.abc import Sequence
from itertools import zip_longest
from time import perf_counter
from typing import NamedTuple, Protocol, TypeVar

from upright_client.connections.runtime import STOP_CHECK_INTERVAL, Event

ATTEMPT_DELAY = 0.1  # seconds before the next address is tried as well: section 8 allows 0.1 to 2

AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[object, ...]]


class Endpoint(NamedTuple):
    """One address that a name stands for."""

    family: int
    address: tuple[object, ...]  # as the family's sockets take it


class Attempt(Protocol):
    """One attempt to connect, under way."""

    def error(self) -> OSError | None:
        """Return why it failed, or `None` where it is connected. Only once it is done."""
        ...

    def cancel(self) -> None:
        """Give it up and close its socket."""
        ...


A = TypeVar("A", bound=Attempt)


class Dialer(Protocol[A]):
    """Begins attempts and waits for them: with sockets alone, or on an event loop."""

    def begin(self, endpoint: Endpoint) -> A:
        """Begin to connect, without waiting."""
        ...

    async def wait(self, attempts: Sequence[A], seconds: float) -> Sequence[A]:
        """Wait until an attempt is done, or for so long. Returns those that are."""
        ...


def order_endpoints(infos: Sequence[AddressInfo]) -> list[Endpoint]:
    """Return the addresses of a name, families taking turns, the resolver's first one first."""
    by_family: dict[int, list[Endpoint]] = {}
    for family, _, _, _, address in infos:
        by_family.setdefault(family, []).append(Endpoint(family, address))
    turns = zip_longest(*by_family.values())
    return [endpoint for turn in turns for endpoint in turn if endpoint is not None]


async def connect_first(
    dialer: Dialer[A], endpoints: Sequence[Endpoint], seconds: float, stop: Event
) -> A:
    """Return the attempt that is connected first.

    The next address is tried when one has failed, or has been silent for `ATTEMPT_DELAY`. `seconds`
    is the time for the first one; each further address adds its delay. Raises `OSError`.
    """
    waiting = list(reversed(endpoints))
    attempts: list[A] = []
    failure: OSError = OSError("the name has no address")
    start = perf_counter()
    until = start + seconds + ATTEMPT_DELAY * max(0, len(endpoints) - 1)
    next_at = start
    try:
        while waiting or attempts:
            now = perf_counter()
            if stop.is_set():
                raise ConnectionAbortedError("the client was closed")
            if now >= until:
                raise TimeoutError(f"no answer within {until - start:g} s")

            if waiting and (now >= next_at or not attempts):
                attempts.append(dialer.begin(waiting.pop()))
                next_at = now + ATTEMPT_DELAY

            pause = min(until, next_at if waiting else until) - perf_counter()
            done = await dialer.wait(attempts, min(STOP_CHECK_INTERVAL, max(0.0, pause)))
            for attempt in done:
                attempts.remove(attempt)
                error = attempt.error()
                if error is None:
                    return attempt
                attempt.cancel()
                failure = error
                next_at = perf_counter()
        raise failure
    finally:
        for attempt in attempts:
            attempt.cancel()
