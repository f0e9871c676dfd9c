"""Load on a port at a fixed rate, and what became of each request.

The load is open: a request is due at its time however late the others are, and its seconds count
from when it was due.
"""

import asyncio
import json
import random
from collections import Counter, deque
from dataclasses import dataclass, field
from time import perf_counter

from benchmarks.calling.served import BUNDLE, percentile
from models import bundle
from service.inference.loading import load

STATES = 64
PATIENCE_SECONDS = 5.0  # after which a request counts as failed


@dataclass
class Found:
    """What became of the requests."""

    seconds: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    connections: int = 0

    def row(self) -> str:
        """Return the cells of a table: requests, failed, p50, p99 and the longest in ms."""
        times = [1e3 * seconds for seconds in self.seconds] or [0.0]
        failed = sum(self.failures.values())
        figures = " | ".join(
            f"{figure:.1f}"
            for figure in (percentile(times, 0.5), percentile(times, 0.99), max(times))
        )
        return f"{len(self.seconds) + failed} | {failed} | {figures}"


class _Connection(asyncio.Protocol):
    """One connection to the service, with one request on it at a time."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._received = b""
        self.answer: asyncio.Future[tuple[bytes, bytes]] | None = None
        self.is_open = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # connections are streams
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, ended, body = self._received.partition(b"\r\n\r\n")
        if not ended:
            return
        lines = head.lower()
        length = int(lines.partition(b"content-length: ")[2].split(b"\r\n")[0])
        if len(body) < length or self.answer is None or self.answer.done():
            return
        self._received = body[length:]
        if b"\r\nconnection: close" in lines:
            self.is_open = False
            self.transport.close()
        self.answer.set_result((head, body[:length]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError(f"closed without an answer: {exc}"))


class Load:
    """Requests to `POST /act`, each with its own state; each answer is checked number by number."""

    def __init__(self, port: int, seed: int = 1) -> None:
        self._port = port
        self._idle: deque[_Connection] = deque()
        self.found = Found()
        policy = load(bundle.read(BUNDLE), "onnx")
        rng = random.Random(seed)  # noqa: S311 - states, no secrets
        states = [
            (rng.uniform(-2, 2), rng.uniform(-2, 2), rng.uniform(-0.2, 0.2), rng.uniform(-2, 2))
            for _ in range(STATES)
        ]
        self._expected = [(state, *policy.decide_one(state)[:2]) for state in states]

    async def run(self, rate: float, seconds: float) -> Found:
        """Ask `rate` times a second."""
        start = perf_counter()
        tasks = set()
        for number in range(int(rate * seconds)):
            due = start + number / rate
            if (wait := due - perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self._ask(number, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        for connection in self._idle:
            connection.transport.abort()
        return self.found

    async def _ask(self, number: int, due: float) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                wrong = await self._answered(number)
        except (OSError, TimeoutError) as error:
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            self.found.failures[wrong] += 1
        else:
            self.found.seconds.append(perf_counter() - due)

    async def _answered(self, number: int) -> str | None:
        """Ask once, and return what is wrong with the answer."""
        while self._idle and not self._idle[0].is_open:
            self._idle.popleft()
        loop = asyncio.get_running_loop()
        if self._idle:
            connection = self._idle.popleft()
        else:
            _, connection = await loop.create_connection(_Connection, "127.0.0.1", self._port)
            self.found.connections += 1
        state, action, q_values = self._expected[number % STATES]
        body = json.dumps({"state": state, "seq": number}).encode()
        connection.answer = loop.create_future()
        connection.transport.write(
            b"POST /act HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        head, content = await connection.answer
        if not head.startswith(b"HTTP/1.1 200"):
            return head.partition(b"\r\n")[0].decode()
        answer = json.loads(content)
        if (answer["action"], answer["q_values"], answer["seq"]) != (action, q_values, number):
            return "another request's answer"
        if connection.is_open:
            self._idle.append(connection)
        return None
