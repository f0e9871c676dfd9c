"""A service that answers each request with the bytes that a test chooses, on real sockets."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from typing import Self

from tests.client.fuzz import frame, handshake_answer, response, unmasked

Respond = Callable[[int], bytes]


def right_answer(seq: int, **changes: object) -> bytes:
    """Return the JSON of an answer of `/act`, with some fields changed."""
    fields = {"action": 1, "q_values": [1.0, 2.0], "out_of_range": [], "model": "m"}
    return json.dumps(fields | {"digest": "sha256:0", "seq": seq} | changes).encode()


class AnsweringService:
    """Answers `/act` and the messages of a stream with what `respond` makes of their seq.

    Where `respond` returns a text that begins with `{`, it is framed as the protocol wants;
    anything else is sent as it is, and ends the connection if `ends`.
    """

    def __init__(self, respond: Respond, *, ends: bool = False) -> None:
        self.respond = respond
        self.ends = ends
        self.requests = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for end in [self._listener, *self._connections]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(2)
        for end in [self._listener, *self._connections]:
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        is_stream = False
        with contextlib.suppress(OSError, ValueError):
            while data := connection.recv(65_536):
                if data.startswith(b"GET /act/stream"):
                    is_stream = True
                    connection.sendall(handshake_answer(data))
                    continue
                body = unmasked(data) if is_stream else data.partition(b"\r\n\r\n")[2]
                self.requests += 1
                answer = self.respond(json.loads(body)["seq"])
                if answer.startswith(b"{"):
                    answer = frame(answer) if is_stream else response(answer)
                    connection.sendall(answer)
                    continue
                connection.sendall(answer)
                if self.ends:
                    connection.shutdown(socket.SHUT_WR)
                    return
