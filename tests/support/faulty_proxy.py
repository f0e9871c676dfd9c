"""A proxy that spoils what a service answers, in the ways in which networks do."""

import contextlib
import select
import socket
import struct
import threading
from typing import Literal, Self

Fault = Literal[
    "none", "delay", "drop", "reset", "invalid", "half", "stale", "stale-first", "silent", "flood"
]


class FaultyProxy:
    """Forwards connections to `port`, and spoils what comes back as `fault` says."""

    def __init__(self, port: int, *, whole: bool = True) -> None:
        self.fault: Fault = "none"
        # Wait two milliseconds for the rest of an answer in parts: a stale one is to be whole.
        self._whole = whole
        self.delay = 0.0  # seconds
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = 0
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._ended = threading.Event()
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._end(self._listener)
        self._threads[0].join(2)  # it may just have accepted one more
        for end in self._sockets:
            self._end(end)
        for thread in self._threads:
            thread.join(2)

    @staticmethod
    def _end(end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            try:
                service = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                caller.close()
                continue
            self._sockets += [caller, service]
            for source, target, spoil in ((caller, service, False), (service, caller, True)):
                thread = threading.Thread(
                    target=self._pump, args=(source, target, spoil), daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, target: socket.socket, spoil: bool) -> None:
        previous = b""
        try:
            while data := self._receive(source):
                if not spoil:
                    if self.fault != "silent":
                        target.sendall(data)
                    continue
                self._forward(target, data, previous)
                previous = data
        except (OSError, ValueError):  # the other pump closed it
            pass
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def _receive(self, source: socket.socket) -> bytes:
        # A socket that is closed while a thread waits in it is closed when that thread returns: no
        # wait may be long.
        while not select.select([source], [], [], 0.02)[0]:
            if self._ended.is_set():
                return b""
        data = source.recv(65_536)
        while (
            self._whole
            and data
            and select.select([source], [], [], 0.002)[0]
            and (more := source.recv(65_536))
        ):
            data += more
        return data

    def _forward(self, target: socket.socket, data: bytes, previous: bytes) -> None:
        match self.fault:
            case "delay":
                self._ended.wait(self.delay)
            case "drop":
                return
            case "reset":
                # Closing with a linger time of 0 sends a reset in place of an orderly end.
                target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                target.close()
                raise OSError("reset")
            case "invalid":
                data = b"\x00\xffSSH-2.0-surprise\r\n\r\n" + data
            case "half":
                data = data[: len(data) // 2]
            case "stale":
                data = previous
            case "stale-first":
                target.sendall(previous)
                self._ended.wait(0.01)
            case "flood":
                while previous and not self._ended.is_set() and self.fault == "flood":
                    target.sendall(previous)
            case _:
                pass
        target.sendall(data)
