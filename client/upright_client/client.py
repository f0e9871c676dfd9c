"""What both clients have in common: their arguments, and what is known of their calls."""

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from upright_client.calls import Calls
from upright_client.connections.address import parse_address
from upright_client.connections.pool import ConnectionPool
from upright_client.connections.runtime import Runtime
from upright_client.decision import Counters, Fallback, LastAction
from upright_client.protocols.http11 import Http11Protocol
from upright_client.protocols.protocol import ConnectionProtocol, Transport
from upright_client.protocols.websocket import WebSocketProtocol
from upright_client.state import check_action, check_deadline
from upright_client.statistics import CallStatistics
from upright_client.text import describe

if TYPE_CHECKING:
    import ssl


class BaseClient(ABC):
    """The part of a client that does not depend on how it waits.

    `address`: `http://host:port`, `https://host:port`, either with the path below which a gateway
    shows the service, `unix:/path`, or a path of a Unix socket.
    `transport`: "http" asks by `POST /act`, "stream" over `WS /act/stream`.
    `deadline`: seconds that one `act` may take, at most 10.
    `fallback`: the action where there is no answer in time: a constant, `LastAction(first)`, or a
    function of the state.
    `pin_digest`: the bundle that may decide; an answer of any other is a fallback.
    `strict`: a state outside what training saw is answered by the fallback, not by the policy.
    `key`: sent as `Authorization: Bearer …`.
    `ssl_context`: whom `https://` trusts, and this client's certificate if it has one; by default
    the system's authorities, and none.
    `connections`: how many calls can be under way at once.

    Raises `TypeError` or `ValueError` for arguments that make no sense.
    """

    _starts_at_once: ClassVar[bool] = False  # or with the first call, when an event loop runs

    def __init__(
        self,
        address: str | os.PathLike[str],
        *,
        transport: Transport = "http",
        deadline: float = 0.02,
        fallback: Fallback,
        pin_digest: str | None = None,
        strict: bool = False,
        key: str | None = None,
        ssl_context: "ssl.SSLContext | None" = None,
        connections: int = 1,
    ) -> None:
        _check_arguments(transport, deadline, fallback, pin_digest, strict, key, connections)
        parsed_address = parse_address(address)
        if ssl_context is not None and not parsed_address.is_secure:
            raise ValueError(f"ssl_context is for https://, not for {os.fspath(address)!r}")
        if parsed_address.is_secure:
            from upright_client.protocols.tls import tls_wrapper

            wrap = tls_wrapper(parsed_address.host, ssl_context)

        def make_protocol(protocol: Transport) -> ConnectionProtocol:
            kind = Http11Protocol if protocol == "http" else WebSocketProtocol
            made = kind(parsed_address.authority, key, parsed_address.base_path)
            return wrap(made) if parsed_address.is_secure else made

        runtime = self._new_runtime()
        first_action = fallback.first if isinstance(fallback, LastAction) else 0
        self._statistics = CallStatistics(first_action)
        self._calls = Calls(deadline, fallback, pin_digest, strict, self._statistics)

        def make_pool(protocol: Transport, size: int) -> ConnectionPool:
            return ConnectionPool(
                runtime,
                parsed_address,
                lambda: make_protocol(protocol),
                size,
                deadline,
                self._statistics,
            )

        self._pool = make_pool(transport, connections)
        # A stream has one endpoint: its client calls the others over HTTP, once it needs them.
        self._http_pool = self._pool if transport == "http" else make_pool("http", 1)
        if self._starts_at_once:
            self._pool.start()

    def counters(self) -> Counters:
        """Return what happened so far."""
        return self._statistics.counters()

    @property
    def last_error(self) -> str:
        """What the last fallback or failed connection was about, for people; empty before one."""
        return self._statistics.last_error

    async def _close_pools(self) -> None:
        await self._pool.close()
        if self._http_pool is not self._pool:
            await self._http_pool.close()

    @abstractmethod
    def _new_runtime(self) -> Runtime:
        """Return what this kind of client waits with."""


def _check_arguments(
    transport: Transport,
    deadline: float,
    fallback: Fallback,
    pin_digest: str | None,
    strict: bool,
    key: str | None,
    connections: int,
) -> None:
    """Raise `TypeError` or `ValueError` for an argument that makes no sense."""
    if transport not in ("http", "stream"):
        raise ValueError(f"transport is 'http' or 'stream', not {transport!r}")
    check_deadline(deadline)
    if not callable(fallback):
        check_action(fallback.first if isinstance(fallback, LastAction) else fallback)
    if pin_digest is not None and not (
        isinstance(pin_digest, str) and pin_digest.startswith("sha256:")
    ):
        raise ValueError(f"pin_digest is a digest such as sha256:…, not {describe(pin_digest)}")
    if type(strict) is not bool:
        raise TypeError(f"strict is True or False, not {describe(strict)}")
    if key is not None:
        _check_key(key)
    if type(connections) is not int or connections < 1:
        raise ValueError(f"connections is a whole number from 1, not {describe(connections)}")


def _check_key(key: str) -> None:
    """Raise `ValueError` for a key that cannot be one. The message does not show it."""
    if not (isinstance(key, str) and key.isascii() and key.isprintable()):
        raise ValueError("key holds characters that no header may have")
    if not key.strip():
        raise ValueError("key is empty; None stands for no key")
    if key.split()[0].lower() == "bearer":
        raise ValueError("key is the key alone, without the word Bearer, which is put before it")
