"""Hostile and unusual answers to both clients, over HTTP and over a stream, by the client's seam.

    python -m tests.client.fuzz --answers 1000000 --seed 1

Answers are built from their parts (fields, JSON, header lines, chunks, frames), so that most get
far into the client. Unusual ones are allowed by their protocol and must decide. Hostile ones may
do anything but raise out of a call. No network is used: streams are handed in as a runtime, and
everything above it is the real client.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import math
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, Literal

from upright_client import AsyncPolicyClient, Decision, NoAnswerError, PolicyClient
from upright_client.aio import LoopRuntime
from upright_client.connections.address import Address
from upright_client.connections.runtime import Event, Runtime
from upright_client.errors import ProtocolError
from upright_client.protocols.websocket import ACCEPT_GUID, WebSocketProtocol
from upright_client.sync import ThreadRuntime

STATE = (0.0, 0.0, 0.05, 0.0)
ROWS = 3  # states of a batch
HOSTILE_JSON = (
    "1" + "0" * 400, "-1" + "0" * 400, "9" * 5_000, "1e400", "-1e400", "NaN", "Infinity", "1e-400",
    "null", "true", "false", "-1", "0", "1.5", "99", "2147483648", '""', '"\\ud800"', '"\\u0000"',
    '"\x1b[2J"', '"right"', "[]", "[[]]", "{}", '{"seq":1}', "[" * 2_000, "[" * 400 + "]" * 400,
    '{"a":' * 400 + "1" + "}" * 400, '"' + "x" * 40_000 + '"', "[" + "1," * 9_000 + "1]", "", "nul",
    "[" + "[]," * 9_000 + "1]", "{" + '"a":{},' * 4_000 + '"b":1}', "[1,2,",
    '"\udcff"', "401", "403", "412", "500", "1" * 4_299,
)  # fmt: skip
HOSTILE_LINES = (
    b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 1e3", b"Content-Length: +7",
    b"Content-Length: 99999999999999999999", b"Content-Length : 5", b"Content-Length:", b"",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding:",
    b"Transfer-Encoding: chunked, chunked", b"Content-Encoding: gzip", b"Connection: close",
    b"no colon", b": no name", b"n\0me: x", b"name: \0", b"name: a\rb", b" folded", b"\xff\xfe: x",
    b"Content-Length: 10, 10", b"Content-Length: 10, 11", b"X: " + b"y" * 20_000,
    b"X:" + b" " * 900, b"Upgrade: websocket", b"Sec-WebSocket-Extensions: x", b"Expect: x",
)  # fmt: skip
HOSTILE_STATUS_LINES = (
    b"HTTP/1.1 101 Switching", b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 Not Modified",
    b"HTTP/1.1 302 Found", b"HTTP/1.1 099 Low", b"HTTP/1.1 999 High", b"HTTP/1.1 20 Short",
    b"HTTP/1.1 2000 Long", b"HTTP/2 200", b"HTTP/1.1", b"HTTP/1.0 200 OK", b"http/1.1 200 OK", b"",
    b"HTTP/1.1 401 Unauthorized", b"HTTP/1.1 500 Broken", b"HTTP/1.1 503 Busy", b"SSH-2.0-surprise",
    b"HTTP/1.1 100 Continue", b"HTTP/1.1 200 \0", b"HTTP/1.10 200 OK", b"HTTP/1.1\t200\tOK",
)  # fmt: skip


@dataclass
class Findings:
    """What a run has seen."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)  # seconds of each call


@dataclass
class Answer:
    """What a service sends for one request."""

    pieces: list[bytes]
    ending: Literal["wait", "end", "reset"]
    must_decide: bool  # whether the protocol allows it, so that the policy's decision must come


class ScriptedService:
    """Makes the answers; every connection's first one is an ordinary one."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - no secret depends on it
        self.made = 0
        self.last: Answer | None = None

    def answer(self, request: bytes, number: int, *, is_stream: bool, is_clean: bool) -> Answer:
        """Return the answer to a request that came as bytes, the `number`th on its connection.

        What a hostile answer left behind may spoil the next one: only on a clean connection must an
        unusual one be read.
        """
        body = unmasked(request) if is_stream else request.partition(b"\r\n\r\n")[2]
        fields = _right_fields(request, body, is_stream=is_stream)
        if number == 0:
            self.last = None
            text = json.dumps(fields).encode()
            return Answer([frame(text) if is_stream else response(text)], "wait", True)

        self.made += 1
        is_allowed = is_clean and self._random.random() < 0.25
        make = self._unusual if is_allowed else self._hostile
        data, ending = make(fields, is_stream=is_stream)
        self.last = Answer(self._cut(data), ending, is_allowed)
        return self.last

    def forget(self) -> None:
        """Forget the last answer."""
        self.last = None

    def handshake(self, request: bytes) -> bytes:
        """Return a hostile answer to the handshake of a stream."""
        data = handshake_answer(request)
        lines = data.removesuffix(b"\r\n\r\n").split(b"\r\n")
        for _ in range(self._random.randint(1, 3)):
            where = self._random.randrange(len(lines) + 1)
            if self._random.random() < 0.3 and len(lines) > 1:
                del lines[self._random.randrange(len(lines))]
            else:
                lines.insert(where, self._random.choice(HOSTILE_LINES + HOSTILE_STATUS_LINES))
        return self._spoil(b"\r\n".join(lines) + b"\r\n\r\n", rarely=True)

    # --- answers that their protocol allows ---

    def _unusual(
        self, fields: dict[str, object], *, is_stream: bool
    ) -> tuple[bytes, Literal["wait", "end"]]:
        text = json.dumps(fields, indent=self._random.choice((None, 1))).encode()
        if is_stream:
            return self._fragmented(text), "wait"

        chance = self._random.random
        end = b"\n" if chance() < 0.2 else b"\r\n"
        lines = [
            self._random.choice((b"HTTP/1.1 200 OK", b"HTTP/1.1 200 ", b"HTTP/1.1  200  Fine"))
        ]
        lines += [b"X-Folded: a" + end + b" \t b"] if chance() < 0.2 else []
        ending: Literal["wait", "end"] = "wait"
        match self._random.randrange(4):
            case 0:
                space = self._random.choice((b"", b" ", b"\t \t"))
                name = self._random.choice((b"Content-Length", b"content-LENGTH"))
                lines.append(name + b":" + space + b"%03d" % len(text) + space)
                body = text
            case 1:
                lines.append(
                    b"Transfer-Encoding:" + self._random.choice((b" chunked", b"Chunked "))
                )
                body = self._chunked(text)
            case 2:
                body, ending = text, "end"
            case _:
                lines[0] = b"HTTP/1.0 200 OK"
                lines.append(
                    self._random.choice((b"Server: old", b"Content-Length: %d" % len(text)))
                )
                body, ending = text, "end"
        self._random.shuffle(tail := lines[1:])
        interim = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * self._random.choice((0, 0, 1, 3))
        return interim + end.join([lines[0], *tail]) + end + end + body, ending

    def _chunked(self, text: bytes) -> bytes:
        body = b""
        while text:
            size = self._random.randint(1, len(text))
            extension = self._random.choice((b"", b";a", b' ; a = "q\\";"', b";a=b;c", b" "))
            body += b"%x%b\r\n%b\r\n" % (size, extension, text[:size])
            text = text[size:]
        trailers = self._random.choice((b"", b"X-Sum: 1\r\n", b"A: b\r\nC:\r\n d\r\n"))
        return body + self._random.choice((b"0", b"000", b"0;x")) + b"\r\n" + trailers + b"\r\n"

    def _fragmented(self, text: bytes) -> bytes:
        parts = self._cut(text) if self._random.random() < 0.5 else [text]
        data = b""
        for number, part in enumerate(parts):
            opcode = (0x80 if number == len(parts) - 1 else 0) | (0x01 if number == 0 else 0)
            data += self._random.choice((b"", b"\x89\x02hi", b"\x8a\x00")) + frame(part, opcode)
        return data

    # --- answers that may be anything ---

    def _hostile(
        self, fields: dict[str, object], *, is_stream: bool
    ) -> tuple[bytes, Literal["wait", "end", "reset"]]:
        text = self._hostile_text(fields)
        data = self._hostile_frames(text) if is_stream else self._hostile_response(text)
        ending = self._random.choice(("wait", "end", "end", "reset"))
        return self._spoil(data, rarely=True), ending  # type: ignore[return-value] # one of these

    def _hostile_text(self, fields: dict[str, object]) -> bytes:
        members = [(name, json.dumps(value)) for name, value in fields.items()]
        if self._random.random() < 0.8:
            for _ in range(self._random.randint(1, 2)):
                where = self._random.randrange(len(members))
                name, value = members[where]
                hostile = self._random.choice(HOSTILE_JSON)
                match self._random.randrange(6):
                    case 0:
                        del members[where]
                    case 1:
                        members.append((name, hostile))
                    case 2:
                        extra = self._random.choice(("status", "detail", "errors", "x"))
                        members.append((extra, hostile))
                    case 3:
                        members[where] = (name, f"[{hostile},{value}]")
                    case _:
                        members[where] = (name, hostile)
                if not members:
                    break
        text = "{" + ",".join(f'"{name}":{value}' for name, value in members) + "}"
        return text.encode("utf-8", "surrogateescape")

    def _hostile_response(self, text: bytes) -> bytes:
        lines = [b"HTTP/1.1 200 OK", b"Server: x"]
        body = text
        match self._random.randrange(4):
            case 0:
                lines.append(b"Transfer-Encoding: chunked")
                tiny = b"".join(b"1\r\n%c\r\n" % byte for byte in text[:3_000]) + b"0\r\n\r\n"
                body = self._random.choice((self._chunked(text[:3_000]), tiny))
                body = self._spoil(body)
            case 1:
                lines.append(
                    b"Content-Length: %d" % self._random.choice((0, 1, 10**6, len(text) - 1))
                )
            case _:
                lines.append(b"Content-Length: %d" % len(text))
        if self._random.random() < 0.3:
            lines[0] = self._random.choice(HOSTILE_STATUS_LINES)
        if self._random.random() < 0.05:
            lines += [b"a:"] * 4_000
        for _ in range(self._random.choice((0, 0, 1, 2))):
            lines.insert(self._random.randint(1, len(lines)), self._random.choice(HOSTILE_LINES))
        interim = self._random.choice((b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 40))
        return interim + b"\r\n".join(lines) + b"\r\n\r\n" + body

    def _hostile_frames(self, text: bytes) -> bytes:
        frames = [self._fragmented(text[:3_000]) if self._random.random() < 0.3 else frame(text)]
        for _ in range(self._random.randint(0, 2)):
            payload = text[: self._random.choice((0, 2, 125, 126))]
            first = self._random.choice(
                (0x00, 0x01, 0x80, 0x82, 0x88, 0x08, 0x89, 0x8F, 0xC1, 0xF1)
            )
            frames.insert(self._random.randint(0, 1), frame(payload, first))
        frames += [
            b"\x81\xff",
            b"\x81\x7e\x00\x01x",
            b"\x81\x7f" + b"\xff" * 8,
            b"\x89\x00" * 9_000,
        ]
        keep = self._random.randint(1, len(frames) - 3)
        return b"".join(frames[:keep] + self._random.sample(frames[keep:], 1))

    def _spoil(self, data: bytes, *, rarely: bool = False) -> bytes:
        """Change, insert, repeat or lose a few bytes."""
        if rarely and self._random.random() < 0.6:
            return data
        spoiled = bytearray(data)
        for _ in range(self._random.randint(1, 4)):
            where = self._random.randrange(len(spoiled) + 1)
            match self._random.randrange(4):
                case 0:
                    spoiled[where : where + 1] = self._random.randbytes(1)
                case 1:
                    spoiled[where:where] = self._random.choice((b"\r\n", b"\n", b"\0", b" ", b"\r"))
                case 2:
                    spoiled[where:where] = spoiled[where : where + self._random.randint(1, 60)]
                case _:
                    del spoiled[where : where + self._random.randint(1, 20)]
        return bytes(spoiled)

    def _cut(self, data: bytes) -> list[bytes]:
        if self._random.random() < 0.6 or len(data) < 2:
            return [data]
        places = sorted(self._random.sample(range(1, len(data)), min(4, len(data) - 1)))
        return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


class ScriptedStream:
    """A connection to a `ScriptedService`, without a network."""

    def __init__(self, service: ScriptedService) -> None:
        self._service = service
        self._is_stream = False
        self._requests = 0
        self._is_clean = True  # whether nothing hostile came on it yet
        self._pieces: list[bytes] = []
        self._ending: Literal["wait", "end", "reset"] = "wait"

    async def exchange(self, data: bytes, until: float) -> bytes | None:  # noqa: ARG002 - a Stream's
        """Return the next piece; time is not waited for, it passes at once."""
        if data:
            answer = self._service.answer(
                data, self._requests, is_stream=self._is_stream, is_clean=self._is_clean
            )
            self._requests += 1
            self._is_clean = self._is_clean and answer.must_decide
            self._pieces, self._ending = [piece for piece in answer.pieces if piece], answer.ending
        if self._pieces:
            return self._pieces.pop(0)
        if self._ending == "reset":
            raise ConnectionResetError("reset")
        if self._ending == "end":
            return b""
        self._ending = "end"  # an overdue answer never comes
        return None

    def send_now(self, data: bytes) -> None:
        """Take a handshake or a pong."""
        if data.startswith(b"GET /act/stream"):
            self._is_stream = True
            self._pieces = [handshake_answer(data)]

    def receive_now(self) -> bytes | None:
        """Return that nothing came."""
        return None

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


def _right_fields(request: bytes, body: bytes, *, is_stream: bool) -> dict[str, object]:
    if not is_stream and request.startswith(b"GET"):
        return {"status": "ready", "digest": "sha256:0", "backend": "onnx", "manifest": {}}
    seq = json.loads(body)["seq"]
    shared = {"model": "m", "digest": "sha256:0", "seq": seq}
    if b"states" in body:
        columns = {"actions": [1] * ROWS, "q_values": [[1.0, 2.0]] * ROWS}
        return {**columns, "out_of_range": [[]] * ROWS, **shared}
    return {"action": 1, "q_values": [1.5, 2], "out_of_range": ["angle"], **shared}


def response(text: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text)


def frame(text: bytes, first: int = 0x81) -> bytes:
    if len(text) < 126:
        return bytes((first, len(text))) + text
    if len(text) < 65_536:
        return bytes((first, 126)) + len(text).to_bytes(2) + text
    return bytes((first, 127)) + len(text).to_bytes(8) + text


def unmasked(frame: bytes) -> bytes:
    start = {126: 4, 127: 10}.get(frame[1] & 0x7F, 2)
    mask, payload = frame[start : start + 4], frame[start + 4 :]
    return bytes(byte ^ mask[number % 4] for number, byte in enumerate(payload))


def handshake_answer(request: bytes) -> bytes:
    match = re.search(rb"Sec-WebSocket-Key: (\S+)", request)
    assert match is not None
    accept = base64.b64encode(hashlib.sha1(match[1] + ACCEPT_GUID, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


class ScriptedThreads(ThreadRuntime):
    """Threads as ever, and scripted connections."""

    def __init__(self, service: ScriptedService) -> None:
        self._service = service

    async def connect(self, address: Address, seconds: float, stop: Event) -> ScriptedStream:  # noqa: ARG002 - a Runtime's
        """Return a scripted connection."""
        return ScriptedStream(self._service)


class ScriptedLoop(LoopRuntime):
    """An event loop as ever, and scripted connections."""

    def __init__(self, service: ScriptedService) -> None:
        self._service = service

    async def connect(self, address: Address, seconds: float, stop: Event) -> ScriptedStream:  # noqa: ARG002 - a Runtime's
        """Return a scripted connection."""
        return ScriptedStream(self._service)


class ScriptedPolicyClient(PolicyClient):
    """`PolicyClient` over scripted connections."""

    def __init__(self, service: ScriptedService, **options: Any) -> None:
        self._service = service
        super().__init__("http://scripted:1", **options)

    def _new_runtime(self) -> Runtime:  # type: ignore[override] # another runtime is the point
        return ScriptedThreads(self._service)


class ScriptedAsyncPolicyClient(AsyncPolicyClient):
    """`AsyncPolicyClient` over scripted connections."""

    def __init__(self, service: ScriptedService, **options: Any) -> None:
        self._service = service
        super().__init__("http://scripted:1", **options)

    def _new_runtime(self) -> Runtime:  # type: ignore[override] # another runtime is the point
        return ScriptedLoop(self._service)


def run(answers: int, seed: int) -> Findings:
    """Send `answers` answers, a fourth each to the two clients over HTTP and over a stream."""
    findings = Findings()
    share = math.ceil(answers / 4)
    for number, transport in enumerate(("http", "stream")):
        service = ScriptedService(seed + 2 * number)
        with ScriptedPolicyClient(service, transport=transport, deadline=5.0, fallback=0) as client:
            blocking = _Calls(
                _as_coroutine(client.act),
                _as_coroutine(client.act_batch),
                _as_coroutine(client.model),
                _as_coroutine(client.ready),
                partial(getattr, client, "last_error"),
            )
            asyncio.run(_call_until(share, service, blocking, findings))
        asyncio.run(_run_async(share, ScriptedService(seed + 2 * number + 1), transport, findings))
    _run_handshakes(max(100, answers // 20), ScriptedService(seed + 4), findings)
    return findings


@dataclass
class _Calls:
    """The calls of either client."""

    act: Callable[..., Coroutine[Any, Any, Decision]]
    act_batch: Callable[..., Coroutine[Any, Any, list[Decision]]]
    model: Callable[..., Coroutine[Any, Any, object]]
    ready: Callable[..., Coroutine[Any, Any, bool]]
    last_error: Callable[[], str]


def _as_coroutine(call: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def called(*arguments: Any) -> Any:
        return call(*arguments)

    return called


async def _run_async(
    answers: int, service: ScriptedService, transport: str, findings: Findings
) -> None:
    async with ScriptedAsyncPolicyClient(
        service, transport=transport, deadline=5.0, fallback=0
    ) as client:
        calls = _Calls(
            client.act, client.act_batch, client.model, client.ready, lambda: client.last_error
        )
        await _call_until(answers, service, calls, findings)


async def _call_until(
    answers: int, service: ScriptedService, calls: _Calls, findings: Findings
) -> None:
    """Call until the service has made so many answers, and hold each call to what it promises."""
    choose = random.Random(answers)  # noqa: S311 - no secret depends on it
    while service.made < answers:
        kind = choose.choice(("act", "act", "act", "act", "batch", "model", "ready"))
        service.forget()
        start = perf_counter()
        try:
            outcome = await _call(kind, calls)
        except Exception as error:  # what must never happen is what is looked for
            findings.faults.append(f"{kind} raised {error!r} for {service.last}")
            outcome = "raised"
        findings.durations.append(perf_counter() - start)
        findings.outcomes[outcome] += 1

        answer = service.last
        if answer is not None and answer.must_decide and outcome != "policy":
            findings.faults.append(f"{kind}: {outcome}, {calls.last_error()!r} for {answer}")
        if outcome not in ("policy", "raised") and not calls.last_error().isprintable():
            findings.faults.append(f"{kind}: {calls.last_error()!r} cannot be printed")


async def _call(kind: str, calls: _Calls) -> str:
    """Make one call and return its outcome in a word. Raises what the call raises."""
    if kind == "ready":
        return "policy" if await calls.ready() else "not ready"
    if kind == "model":
        try:
            await calls.model()
        except NoAnswerError as error:
            return error.reason
        return "policy"
    decisions = [await calls.act(STATE)] if kind == "act" else await calls.act_batch([STATE] * ROWS)
    for decision in decisions:
        _check(decision)
    return decisions[0].reason or "policy"


def _check(decision: Decision) -> None:
    if decision.source == "fallback":
        assert decision.action == 0
        assert decision.reason is not None
        return
    assert all(type(value) is float and math.isfinite(value) for value in decision.q_values)
    assert 0 <= decision.action < len(decision.q_values)
    assert all(isinstance(name, str) for name in decision.out_of_range)


def _run_handshakes(count: int, service: ScriptedService, findings: Findings) -> None:
    for _ in range(count):
        protocol = WebSocketProtocol("scripted", None)
        data = service.handshake(protocol.hello())
        try:
            protocol.receive(data)
        except ProtocolError as error:
            if not str(error).isprintable():
                findings.faults.append(f"handshake: {error!s} cannot be printed")
        except Exception as error:  # as above
            findings.faults.append(f"handshake raised {error!r} for {data!r}")


def main() -> None:
    """Run, print what was seen, and exit with 1 if anything was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--answers", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    start = perf_counter()
    findings = run(options.answers, options.seed)
    ordered = sorted(findings.durations)
    print(f"{options.answers} answers in {perf_counter() - start:.0f} s: {findings.outcomes}")
    rare = ordered[int(0.999 * len(ordered))]
    print(f"seconds of a call: p99.9 {rare:.5f}, at most {ordered[-1]:.5f}")
    print(f"{len(findings.faults)} faults")
    for fault in findings.faults[:10]:
        print(fault[:2_000])
    sys.exit(bool(findings.faults))


if __name__ == "__main__":
    main()
