"""Control loops that ask one service, each at its own moments, and what they saw.

A loop asks once a period, on a connection of its own. The loops are not in step: each begins its
periods at a moment that is drawn by chance. A loop whose last answer has not come when its next
step is due skips the step, as a real one falls back.

Sockets and epoll by hand: asyncio's transports would take as long for a request as the service.
"""

import gc
import random
import select
import socket
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

STATE = b'{"state":[0.01,-0.02,0.05,0.3],"seq":1}'
HANDSHAKE = (
    b"GET /act/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
ASKED = {
    "http": b"POST /act HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
    % (len(STATE), STATE),
    "stream": bytes((0x81, 0x80 | len(STATE))) + bytes(4) + STATE,  # masked with zeros
}
LAST_ANSWERS_SECONDS = 1.0

Transport = Literal["http", "stream"]


@dataclass
class Seen:
    """What all loops saw."""

    steps: int = 0
    skipped: int = 0
    wrong: int = 0
    seconds: list[float] = field(default_factory=list)  # from a step to its answer
    late: list[float] = field(default_factory=list)  # seconds by which a step was asked too late
    span: float = 0.0  # seconds in which all was asked


class _Loop:
    """One loop's connection."""

    __slots__ = ("asked_at", "received", "socket")

    def __init__(self, port: int, transport: Transport) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if transport == "stream":
            self.socket.sendall(HANDSHAKE)
            if not self.socket.recv(4_096).startswith(b"HTTP/1.1 101"):
                raise ConnectionError("the service opened no stream")
        self.socket.sendall(ASKED[transport])  # a connection's first answer takes longer
        while not self.socket.recv(4_096).endswith(b"}"):
            pass
        self.socket.setblocking(False)
        self.asked_at = 0.0  # 0: nothing is awaited
        self.received = b""


def run_loops(port: int, count: int, hertz: float, seconds: float, transport: Transport) -> Seen:
    """Return what `count` loops see of a service, each `hertz` times a second."""
    loops = [_Loop(port, transport) for _ in range(count)]
    seen = Seen()
    gc.disable()  # a pause of the loops' program would be taken for one of the service
    try:
        _ask(loops, hertz, seconds, ASKED[transport], seen)
    finally:
        gc.enable()
        for loop in loops:
            loop.socket.close()
    return seen


def _ask(loops: list[_Loop], hertz: float, seconds: float, asked: bytes, seen: Seen) -> None:
    by_number = {loop.socket.fileno(): loop for loop in loops}
    with select.epoll() as poll:
        for number in by_number:
            poll.register(number, select.EPOLLIN)
        rng = random.Random(len(loops))  # noqa: S311 - moments, no secrets
        phases = sorted(rng.random() / hertz for _ in loops)
        total = int(seconds * hertz) * len(loops)
        started = perf_counter()
        step, due = 0, started + phases[0]
        while True:
            now = perf_counter()
            while step < total and due <= now:
                loop = loops[step % len(loops)]
                if loop.asked_at:
                    seen.skipped += 1
                else:
                    loop.asked_at = now
                    loop.socket.send(asked)
                    seen.late.append(now - due)
                step += 1
                due = started + phases[step % len(loops)] + step // len(loops) / hertz
                now = perf_counter()
            for number, _ in poll.poll(0):
                _take(by_number[number], seen)
            if step == total:
                seen.span = seen.span or now - started
                if not any(loop.asked_at for loop in loops):
                    break
                if now - started > seen.span + LAST_ANSWERS_SECONDS:
                    break
    seen.steps = total


def _take(loop: _Loop, seen: Seen) -> None:
    data = loop.socket.recv(4_096)
    if not data:
        raise ConnectionError("the service ended a loop's connection")
    loop.received += data
    if not loop.received.endswith(b"}"):
        return
    seen.seconds.append(perf_counter() - loop.asked_at)
    seen.wrong += b'"action":1' not in loop.received
    loop.asked_at, loop.received = 0.0, b""
