"""Sockets: settings in, listening sockets out. Knows nothing of what is answered on them."""

import asyncio
import contextlib
import logging
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from service.settings import Settings

STALE_SECONDS = (
    1.0  # a socket file whose owner does not take a connection for so long is still somebody's
)
# Bytes that the kernel keeps for a connection; Linux makes twice as many of them.
RECEIVE_BUFFER = 65_536  # what has come and was not read: as much may be read at once, and then waits in the process
SEND_BUFFER = 131_072
NO_LINGER = struct.pack("ii", 1, 0)  # a close sends a reset, and keeps nothing


class SocketError(Exception):
    """Raised when a place to listen cannot be had."""


@contextlib.contextmanager
def listening(settings: Settings) -> Iterator[list[socket.socket]]:
    """Give the sockets to listen on; close them and remove the socket file afterwards. Raises `SocketError`."""
    with contextlib.ExitStack() as stack:
        sockets = []
        if not settings.uds_only:
            sockets.append(stack.enter_context(_tcp(settings.host, settings.port)))
        if settings.uds is not None:
            sockets.append(stack.enter_context(_unix(settings.uds, int(settings.uds_mode, 8))))
            stack.callback(settings.uds.unlink, missing_ok=True)
        yield sockets


def address(listener: socket.socket, *, tls: bool = False) -> str:
    """Return how to reach the socket, as a person writes it."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    scheme = "https" if tls else "http"
    return (
        f"{scheme}://[{host}]:{port}"
        if listener.family == socket.AF_INET6
        else f"{scheme}://{host}:{port}"
    )


def check_free(host: str, port: int) -> None:
    """Check that a port that another library will bind is free. Raises `SocketError`."""
    if port:
        try:
            with _tcp(host, port):
                return
        except SocketError as error:
            raise SocketError(str(error).replace("--port", "--grpc-port")) from error


def announce(listeners: list[socket.socket], *, tls: bool = False) -> None:
    """Log where the service listens. Logging must have been configured."""
    log = logging.getLogger("uvicorn.error")
    for listener in listeners:
        log.info("Listening on %s", address(listener, tls=tls))
        if listener.family != socket.AF_UNIX:
            log.info("See it balance at %s/", address(listener, tls=tls))


def _tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # Connections inherit them. By itself the kernel would keep megabytes for a client that sends without reading its answers, until
        # the memory that it has for all connections is used up, and what others send is dropped.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    except OSError as error:
        raise SocketError(
            f"--host {host} --port {port}: {os.strerror(error.errno) if error.errno else error}"
        ) from error
    return listener


def _unix(path: Path, mode: int) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # A path of more than about 100 bytes does not fit into the system's structure: bind() says so.
        listener.bind(str(path))
        # Nobody can connect before listen(), so there is no moment in which the file has other permissions than these.
        path.chmod(mode)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise SocketError(f"--uds {path}: {error.strerror or error}") from error
    return listener


def _remove_stale(path: Path) -> None:
    """Remove the file that a killed service left, and nothing else."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SocketError(
                f"--uds {path}: is there, and is no socket; choose another path or remove it"
            )
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(STALE_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:  # nobody listens any more
            path.unlink(missing_ok=True)
        except OSError as error:
            raise SocketError(f"--uds {path}: {error.strerror or error}") from error
        else:
            raise SocketError(
                f"--uds {path}: another program listens there; stop it or choose another path"
            )


def cut_off(transport: asyncio.Transport) -> None:
    """End a connection whose client does not read: at once, with nothing left of it in the system.

    A plain close leaves the system with what is unsent, and a client that waits for room without end.
    """
    connection = transport.get_extra_info("socket")
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    transport.abort()
