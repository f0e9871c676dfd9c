"""The sockets that the service listens on, TCP and Unix."""

import asyncio
import contextlib
import ctypes
import logging
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from errno import EADDRINUSE
from pathlib import Path

from service.settings import Settings, url_host

BACKLOG = 2_048  # connections that may wait to be accepted
ACCEPTS_A_ROUND = 8  # connections that a listener gives in one round of the event loop
PROBE_SECONDS = 1.0  # in which the owner of a socket file would accept a connection
# Bytes that the kernel keeps for a connection; Linux makes twice as many of them. As much as the
# first may be read at once.
RECEIVE_BUFFER_BYTES = 65_536
SEND_BUFFER_BYTES = 131_072
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # the value of SO_LINGER: on, for no time
# A program of classic BPF (linux/filter.h) for a listener: drop a TCP segment that opens a
# connection, let any other pass. Each instruction: code, jump if true, jump if false, operand.
DROP_NEW_CONNECTIONS = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in [
        (0x30, 0, 0, 13),  # load the byte of the flags
        (0x45, 0, 1, 0x02),  # is SYN among them?
        (0x06, 0, 0, 0),  # yes: keep 0 bytes
        (0x06, 0, 0, 0xFFFFFFFF),  # no: keep all
    ]
)
SO_ATTACH_FILTER = 26  # asm-generic/socket.h; the socket module has no name for it

log = logging.getLogger("uvicorn.error")


class SocketError(Exception):
    """Raised when the service cannot listen where its settings say."""


@contextlib.contextmanager
def listening(settings: Settings) -> Iterator[list[socket.socket]]:
    """Open the sockets to listen on; close them and remove the socket file afterwards.

    Raises `SocketError`.
    """
    with contextlib.ExitStack() as stack:
        sockets = []
        if not settings.uds_only:
            port = settings.port
            for host in settings.host:
                sockets.append(stack.enter_context(_tcp(host, port)))
                port = sockets[0].getsockname()[1]  # 0 asks for any that is free, the same for all
        if settings.uds is not None:
            sockets.append(stack.enter_context(_unix(settings.uds, int(settings.uds_mode, 8))))
            stack.callback(SocketFile(settings.uds).remove)
        yield sockets


class SocketFile:
    """The file of a Unix socket that this service has just made.

    Another service may replace it, since nobody listens any more while this one drains.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = self._present()
        self._is_missed = False

    def check(self) -> None:
        """Log it, once, if the file has gone or is another service's: nobody finds this one."""
        is_missed = self._present() != self._identity
        if is_missed and not self._is_missed:
            log.error(
                "--uds %s: somebody has removed or replaced the socket's file, so no new caller"
                " can connect there; start the service again",
                self._path,
            )
        self._is_missed = is_missed

    def remove(self) -> None:
        """Remove the file, unless it is another one by now."""
        if self._present() == self._identity:
            self._path.unlink(missing_ok=True)

    def _present(self) -> tuple[int, int, int] | None:
        """Return what tells the file at the path from others; None if there is none.

        An inode's number alone does not: it is given to the next file soon.
        """
        try:
            status = self._path.lstat()
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_mtime_ns


def find_socket_file(listeners: Sequence[socket.socket]) -> SocketFile | None:
    """Return the file of the listener on a Unix socket; None if there is no such listener."""
    paths = (each.getsockname() for each in listeners if each.family == socket.AF_UNIX)
    return next((SocketFile(Path(path)) for path in paths), None)


def address(listener: socket.socket, *, tls: bool = False) -> str:
    """Return how to reach the socket, as a person writes it."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://{url_host(host)}:{port}"


def check_free(hosts: Sequence[str], port: int) -> None:
    """Check that a port that another library will bind is free. Raises `SocketError`."""
    for host in hosts if port else ():
        try:
            _tcp(host, port).close()
        except SocketError as error:
            raise SocketError(str(error).replace("--port", "--grpc-port")) from error


def announce(listeners: list[socket.socket], *, tls: bool = False) -> None:
    """Log where the service listens. Logging must have been configured."""
    for listener in listeners:
        log.info("Listening on %s", address(listener, tls=tls))


def copies_to_accept_from(listeners: Sequence[socket.socket]) -> list[socket.socket]:
    """Return copies of the listeners for an event loop, several of each.

    libuv, which uvloop runs on, accepts one connection of each socket in a round. Of a crowd that
    comes at once, as after a restart, the last one would wait for as many rounds as there are
    others, and each round answers all that were accepted before.

    Not by `dup()`, by which a listener would block for a moment, in all processes that share it.
    """
    return [
        socket.fromfd(each.fileno(), each.family, each.type, each.proto)
        for each in listeners
        for _ in range(ACCEPTS_A_ROUND)
    ]


def refuse_new(listener: socket.socket) -> None:
    """Let nobody else connect to a listener, whose waiting connections can still be accepted.

    To close it would reset a connection that is made after the last look at those that wait. A
    Unix socket refuses at once; a TCP client finds out when it asks again, after a second. Where
    the system has no filters, clients go on connecting.
    """
    with contextlib.suppress(OSError):
        if listener.family == socket.AF_UNIX:
            listener.shutdown(socket.SHUT_RD)
        elif sys.platform == "linux":
            program = ctypes.create_string_buffer(DROP_NEW_CONNECTIONS)
            length = len(DROP_NEW_CONNECTIONS) // 8
            value = struct.pack("HP", length, ctypes.addressof(program))
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, value)


def accept_waiting(listener: socket.socket) -> list[socket.socket]:
    """Accept the connections that wait at a socket that does not block."""
    accepted = []
    with contextlib.suppress(OSError):  # none is left, or the listener is closed
        while True:
            accepted.append(listener.accept()[0])
    return accepted


def _tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # All addresses of a machine are those of both families, as gRPC takes it, too.
    takes_both = host == "::" and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server(
            (host, port), family=family, backlog=BACKLOG, dualstack_ipv6=takes_both
        )
        # Connections inherit these. By itself the kernel would keep megabytes for a client that
        # sends without reading its answers, until the memory that it has for all connections is
        # used up, and what others send is dropped.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno and error.errno < 0:  # the resolver has numbers and words of its own
            reason = str(error.strerror).partition(" (while")[0]
        remedy = "; choose another --port, or 0 for any" if error.errno == EADDRINUSE else ""
        raise SocketError(f"--host {host} --port {port}: {reason}{remedy}") from error
    return listener


def _unix(path: Path, mode: int) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # A path of more than about 100 bytes does not fit into the system's structure: bind() says
        # so.
        listener.bind(str(path))
        # Nobody can connect before listen(), so there is no moment in which the file has other
        # permissions than these.
        path.chmod(mode)
        listener.listen(BACKLOG)
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
    except OSError as error:
        raise SocketError(f"--uds {path}: {error.strerror}") from error
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_SECONDS)
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


def abort_with_reset(transport: asyncio.Transport) -> None:
    """End a connection whose client does not read, at once.

    A plain close would leave the kernel with what is unsent, for as long as the client keeps it
    waiting.
    """
    connection = transport.get_extra_info("socket")
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    transport.abort()
