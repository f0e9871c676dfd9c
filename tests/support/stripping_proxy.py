"""A proxy that shows a service below a path, which it takes away, as gateways do."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def stripping_proxy(port: int, prefix: str) -> Iterator[str]:
    """Show the service on a loopback port below `prefix`; give the address with the prefix.

    One request a connection, but for streams; what is not below the prefix is 404. The caller's
    Host is passed on.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        thread = threading.Thread(target=_accept, args=(listener, port, prefix.encode()))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}{prefix}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listener: socket.socket, port: int, prefix: bytes) -> None:
    with suppress(OSError):
        while True:
            caller = listener.accept()[0]
            threading.Thread(target=_serve, args=(caller, port, prefix), daemon=True).start()


def _serve(caller: socket.socket, port: int, prefix: bytes) -> None:
    with caller, suppress(OSError):
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := caller.recv(65_536)):
                return
            data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        method, target, lines = head.split(b" ", 2)
        if not target.startswith(prefix + b"/"):
            caller.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return

        if b"upgrade: websocket" not in lines.lower():
            kept = [each for each in lines.split(b"\r\n") if not _is_connection(each)]
            lines = b"\r\n".join([*kept, b"connection: close"])
        with socket.create_connection(("127.0.0.1", port)) as service:
            target = target.removeprefix(prefix)
            service.sendall(b"%b %b %b\r\n\r\n%b" % (method, target, lines, rest))
            threading.Thread(target=_copy, args=(caller, service), daemon=True).start()
            _copy(service, caller)


def _is_connection(line: bytes) -> bool:
    return line.lower().startswith(b"connection:")


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
