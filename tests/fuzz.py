"""Mutated bodies and mutated HTTP, in any number, at both paths and the stream: `make fuzz`.

Each body is asked of both paths and, where it is a single state's, of the stream too. All say the
same, byte for byte; nothing is a 5xx, and no answer holds a number that is not finite. Each mutated
connection ends, with answers that are whole; and requests that are right are answered as ever
wherever their bytes are cut. What fails is printed with the seed and the number that make it again.
"""

import argparse
import json
import logging
import multiprocessing
import random
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from models import bundle
from service.inference.loading import load
from service.settings import Settings
from service.state import ServiceState
from tests.support.raw_http import both_paths

COMMITTED = Path(__file__).parents[1] / "models" / "cartpole-dqn"
GROUP = 32  # bodies that are sent at once
TIMEOUT = 1  # seconds of the service under test
HANDSHAKE = (
    b"GET /act/stream HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
STATES = (
    b'{"state":[0,0,0.05,0]}',
    b'{"state":[-1.5,2.25e0,0.1,-3],"seq":7}',
    b' {"seq":0,\n"state" : [1,2,3,4]}',
    b'{"state":[3e38,3e38,3e38,3e38]}',
)
BATCHES = (
    b'{"states":[[0,0,0.05,0],[1,2,3,4]]}',
    b'{"states":[[0,0,0.05,0]],"seq":9223372036854775807}',
    b'{"states":[[0,0,0,0],[9e37,0,0,0]]}',
)
PIECES = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-1e999",
    b"1e-999",
    b"1e38",
    b"3.4028235677973366e38",
    b"3.4028235677973365e38",
    b"-0",
    b"-0.0",
    b"0.1",
    b"9" * 400,
    b"9223372036854775808",
    b"-1",
    b"1_0",
    b"0x1",
    b"01",
    b"1.",
    b".1",
    b"+1",
    b"true",
    b"null",
    b'"1"',
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b'"',
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b'"state"',
    b'"states"',
    b'"seq"',
    b"[0,0,0,0]",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\0",
    b"\r\n",
    b" " * 50,
    b"[" * 300,
    b'{"state":' * 60,
    b"//",
    b"\xc3\xa9",
)
HTTP_PIECES = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"\r\n\r\n",
    b"content-length: 5\r\n",
    b"transfer-encoding: chunked\r\n",
    b"connection: close\r\n",
    b"expect: 100-continue\r\n",
    b"connection: upgrade\r\nupgrade: h2c\r\n",
    b"upgrade: websocket\r\nconnection: upgrade\r\n",
    b"0\r\n\r\n",
    b"ffffffff\r\n",
    b"-1\r\n",
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"CONNECT ",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"/act",
    b"/v2",
    b"http://a",
    b"#",
    b"?",
    b"%00",
    b"\xff",
    b"x: y\r\n" * 120,
    b"x: " + b"a" * 3_000 + b"\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    HANDSHAKE,
    b"\x81\x80\0\0\0\0",
)
STEADY = re.compile(rb"(?<=\r\ndate: )[^\r]*|(?<=;dur=)[0-9.]+")
PING = 0x89  # the first byte of the service's own question whether the client is there
MARKS = re.compile(rb"([\[\]{},:])")


class FoundError(Exception):
    """Raised when the service did what it must not."""


def _not_finite(name: str) -> object:
    raise FoundError(f"{name} in an answer")


def retold(rng: random.Random, seeds: tuple[bytes, ...], pieces: tuple[bytes, ...]) -> bytes:
    """Return a seed in which something between two marks of JSON is replaced by something else."""
    parts = MARKS.split(rng.choice(seeds))
    told = [index for index, part in enumerate(parts) if part.strip() and not MARKS.fullmatch(part)]
    for index in rng.sample(told, rng.choice((1, 1, 2))):
        number = rng.choice(
            (
                rng.uniform(-3, 3),
                rng.gauss(0, 1e38),
                rng.randrange(-(2**70), 2**70),
                10.0 ** rng.randrange(-300, 300),
            )
        )
        parts[index] = repr(number).encode() if rng.random() < 0.7 else rng.choice(pieces)
    return b"".join(parts)


def mutated(rng: random.Random, seeds: tuple[bytes, ...], pieces: tuple[bytes, ...]) -> bytes:
    """Return a seed with a few things changed."""
    text = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 5, 9))):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice((1, 1, 2, 5, 20)))
        match rng.randrange(7):
            case 0:
                text[at:at] = rng.choice(pieces)
            case 1:
                text[at:end] = rng.choice(pieces)
            case 2:
                del text[at:end]
            case 3:
                text[at:end] = text[at:end] * 3
            case 4 if at < len(text):
                text[at] ^= 1 << rng.randrange(8)
            case 5 if at < len(text):
                text[at] = rng.randrange(256)
            case _:
                text[at:] = rng.choice(seeds)[rng.randrange(len(seeds[0])) :]
    return bytes(text)


class Client:
    """A connection that asks and reads whole answers."""

    def __init__(self, port: int, first: bytes = b"") -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), 20)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        if first:
            self._connection.sendall(first)
            self._until(b"\r\n\r\n")

    def send(self, sent: bytes) -> None:
        self._connection.sendall(sent)

    def http(self) -> tuple[bytes, bytes]:
        """Return an answer's headers and body."""
        headers = self._until(b"\r\n\r\n")
        return headers, self._take(int(re.search(rb"\r\ncontent-length: (\d+)", headers)[1]))  # type: ignore[index] # every answer has one

    def frame(self) -> bytes:
        """Return a message."""
        while (first := self._take(2))[0] == PING:
            self.send(b"\x8a" + bytes((0x80 | first[1],)) + bytes(4) + self._take(first[1]))
        size = (
            first[1] if first[1] < 126 else int.from_bytes(self._take(2 if first[1] == 126 else 8))
        )
        if first[0] != 0x81:
            raise FoundError(
                f"a frame {first.hex()} in the place of an answer: {self._take(size)!r}"
            )
        return self._take(size)

    def rest(self) -> bytes:
        """Return what comes until the service closes; a reset is no answer, and no failure."""
        with suppress(ConnectionError):
            while data := self._connection.recv(65_536):
                self._received += data
        return self._received

    def close(self) -> None:
        self._connection.close()

    def end(self) -> None:
        """Say that nothing more comes."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            self._receive()
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _until(self, mark: bytes) -> bytes:
        while (at := self._received.find(mark)) < 0:
            self._receive()
        return self._take(at + len(mark))

    def _receive(self) -> None:
        data = self._connection.recv(65_536)
        if not data:
            raise FoundError(f"closed in the place of an answer, after {self._received[-200:]!r}")
        self._received += data


def bodies(fast: int, asgi: int, count: int, seed: int) -> Counter[int]:
    """Ask mutated bodies of both paths and of the stream. Raises `FoundError`."""
    rng = random.Random(seed)  # noqa: S311 - bodies, no secrets
    clients = Client(fast), Client(asgi)
    stream = Client(fast, HANDSHAKE)
    found: Counter[int] = Counter()
    for first in range(0, count, GROUP):
        asked = []
        for _ in range(min(GROUP, count - first)):
            path, seeds = (b"/act", STATES) if rng.random() < 0.7 else (b"/act/batch", BATCHES)
            asked.append((path, rng.choice((mutated, retold))(rng, seeds, PIECES)))
        sent = b"".join(
            b"POST %b HTTP/1.1\r\nhost: localhost\r\nx-request-id: r\r\n"
            b"content-length: %d\r\n\r\n%b" % (path, len(body), body)
            for path, body in asked
        )
        for client in clients:
            client.send(sent)
        stream.send(b"".join(_frame(body) for path, body in asked if path == b"/act"))
        for number, (path, body) in enumerate(asked, first):
            answers = [client.http() for client in clients]
            try:
                found[_judged(answers, stream.frame() if path == b"/act" else None)] += 1
            except (FoundError, ValueError) as error:
                raise FoundError(
                    f"--seed {seed}, body {number} to {path.decode()}: {body!r}\n{error}"
                ) from error
    for client in (*clients, stream):
        client.close()
    return found


def _frame(body: bytes) -> bytes:
    size = len(body)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2)
    return (
        b"\x82" + length + bytes(4) + body
    )  # binary: what is no text would end a text message's stream


def _judged(answers: list[tuple[bytes, bytes]], message: bytes | None) -> int:
    (headers, body), (other_headers, other_body) = answers
    if STEADY.sub(b"", headers) != STEADY.sub(b"", other_headers) or body != other_body:
        raise FoundError(f"the paths differ:\n{headers + body!r}\n{other_headers + other_body!r}")
    status = int(headers[9:12])
    if status not in (200, 400, 413, 422):
        raise FoundError(f"status {status}: {body!r}")
    answer = json.loads(body, parse_constant=_not_finite)
    if message is not None:
        said = json.loads(message, parse_constant=_not_finite)
        if status != 200:
            said.pop("seq", None)  # a problem of the stream names the message that it answers
        if said != answer:
            raise FoundError(f"the stream differs:\n{body!r}\n{message!r}")
    return status


def _requests(rng: random.Random) -> list[bytes]:
    """Return some requests as they should be."""
    found = []
    for number in range(rng.randrange(1, 6)):
        headers = b"host: localhost\r\nx-request-id: %d\r\n" % number
        body = rng.choice(STATES + BATCHES)
        path = rng.choice(
            (
                b"/act",
                b"/act",
                b"/act/batch",
                b"/act?x",
                b"/v2/models/cartpole-dqn/infer",
                b"/nowhere",
            )
        )
        match rng.randrange(3):
            case 0:
                found.append(
                    b"GET %b HTTP/1.1\r\n%b\r\n"
                    % (rng.choice((b"/health/live", b"/model", b"/v2", b"/act")), headers)
                )
            case 1:
                found.append(
                    b"POST %b HTTP/1.1\r\n%bcontent-length: %d\r\n\r\n%b"
                    % (path, headers, len(body), body)
                )
            case _:
                cut = rng.randrange(1, len(body))
                chunks = b"".join(
                    b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:cut], body[cut:])
                )
                found.append(
                    b"POST %b HTTP/1.1\r\n%btransfer-encoding: chunked\r\n\r\n%b0\r\n\r\n"
                    % (path, headers, chunks)
                )
    return found


def _cut(rng: random.Random, text: bytes) -> Iterator[bytes]:
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(4)))
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        yield text[start:end]


def connections(fast: int, count: int, seed: int) -> Counter[str]:
    """Cut requests anywhere, mutate half of them, and see that each connection ends as it should.

    Raises `FoundError`.
    """
    rng = random.Random(seed)  # noqa: S311 - bytes, no secrets
    found: Counter[str] = Counter()
    left: list[tuple[int, Client, float]] = []  # open, until the service's time-out
    for number in range(count):
        asked = _requests(rng)
        right = rng.random() < 0.5
        text = b"".join(asked)
        if not right:
            text = mutated(rng, (text,), HTTP_PIECES)
        client = Client(fast)
        with suppress(ConnectionError):
            for piece in _cut(rng, text):
                client.send(piece)
                if rng.random() < 0.3:
                    time.sleep(0.001)
        try:
            if right:
                for request in asked:
                    alone = Client(fast)
                    alone.send(request)
                    wanted, answer = alone.http(), client.http()
                    alone.close()
                    if STEADY.sub(b"", b"".join(wanted)) != STEADY.sub(b"", b"".join(answer)):
                        raise FoundError(f"alone {wanted!r}\namong others {answer!r}")
                client.close()
                found["right"] += 1
            elif rng.random() < 0.1:
                left.append((number, client, time.monotonic()))
            else:
                client.end()
                found[_ended(client)] += 1
        except (FoundError, TimeoutError) as error:
            raise FoundError(f"--seed {seed}, connection {number}: {text!r}\n{error}") from error
        while left and (time.monotonic() - left[0][2] > 4 * TIMEOUT or number == count - 1):
            waiting, client, _ = left.pop(0)
            try:
                found[_ended(client)] += 1
            except (FoundError, TimeoutError) as error:
                raise FoundError(
                    f"--seed {seed}, connection {waiting}, left open\n{error}"
                ) from error
    return found


def _ended(client: Client) -> str:
    """Read until the connection ends, and return the last status; answers before it are whole."""
    received = client.rest()
    client.close()
    if not received:
        return "closed"
    statuses: list[bytes] = re.findall(rb"(?:^|[}\n])HTTP/1\.1 (\d{3}) ", received)
    if not statuses or not received.startswith(b"HTTP/1.1 "):
        raise FoundError(f"no answer: {received[:300]!r}")
    if any(status[0] == ord("5") for status in statuses):
        raise FoundError(f"a 5xx: {received!r}")
    return statuses[-1].decode()


def serve(told: Connection) -> None:
    """Serve both paths in a process of its own until told to stop; tell the errors it logged."""
    log = Log()
    logging.getLogger().addHandler(log)
    settings = Settings.model_validate(
        {"header_timeout": TIMEOUT, "body_timeout": TIMEOUT, "keep_alive": 3 * TIMEOUT}
    )
    with both_paths(settings, ServiceState(load(bundle.read(COMMITTED), "onnx"))) as both:
        told.send((both.fast, both.asgi))
        told.recv()
    told.send(log.errors)


class Log(logging.Handler):
    """Keeps errors."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.errors.append(self.format(record))


def main() -> int:
    """Fuzz, and print what was answered."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bodies", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    server.start()
    fast, asgi = ours.recv()
    began = time.monotonic()
    try:
        statuses = bodies(fast, asgi, options.bodies, options.seed)
        print(
            f"{options.bodies} bodies in {time.monotonic() - began:.0f} s:"
            f" {dict(statuses.most_common())}",
            flush=True,
        )
        began = time.monotonic()
        ends = connections(fast, options.connections, options.seed)
        print(
            f"{options.connections} connections in {time.monotonic() - began:.0f} s:"
            f" {dict(ends.most_common())}"
        )
        ours.send("end")
        if errors := ours.recv():
            raise FoundError(f"the service has logged {len(errors)} errors: {errors[0]}")
    except (
        FoundError,
        TimeoutError,
        ConnectionError,
        EOFError,
    ) as error:  # the last one if the service has ended
        print(f"FAILED: {error!r}")
        return 1
    finally:
        with suppress(ConnectionError):
            ours.send("end")
        server.join(10)
    return 0


if __name__ == "__main__":
    sys.exit(main())
