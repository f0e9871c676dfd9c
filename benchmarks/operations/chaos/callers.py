"""Four kinds of callers at a fixed open-loop rate, each answer compared number by number.

    python -m benchmarks.operations.chaos.callers KIND ADDRESS RATE SECONDS START FILE

START is a time of the monotonic clock. What became of each request goes to FILE as JSON: when it
was due, the seconds from then to its answer, and its outcome.
"""

import asyncio
import json
import random
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

import numpy as np

from benchmarks.calling.served import BUNDLE
from models import bundle
from service.inference.loading import load

STATES = 64
STREAMS = 4
PATIENCE_SECONDS = 15.0  # after which a request counts as failed
DEADLINE_SECONDS = 0.02  # of upright_client
KINDS = ("http", "stream", "grpc", "client-http", "client-stream")

Event = tuple[float, float, str]  # due, seconds, outcome
State = tuple[float, float, float, float]


@dataclass
class Events:
    """What became of the requests of one caller."""

    happened: list[Event] = field(default_factory=list)

    def add(self, due: float, outcome: str) -> None:
        """Note the outcome of a request that was due then, and is over now."""
        self.happened.append((due, monotonic() - due, outcome))


class Expected:
    """States, each with the policy's own answer to it."""

    def __init__(self, seed: int) -> None:
        policy = load(bundle.read(BUNDLE), "onnx")
        rng = random.Random(seed)  # noqa: S311 - states, no secrets
        bounds = (2.0, 2.0, 0.2, 2.0)
        self.states: list[State] = []
        self.answers: list[tuple[int, tuple[float, ...]]] = []
        for _ in range(STATES):
            # As 32-bit floats, so that gRPC carries the very same state.
            a, b, c, d = (float(np.float32(rng.uniform(-bound, bound))) for bound in bounds)
            decided = policy.decide_one((a, b, c, d))
            self.states.append((a, b, c, d))
            self.answers.append((decided[0], tuple(decided[1])))

    def outcome(
        self, number: int, action: int, q_values: tuple[float, ...], echoed: int | None
    ) -> str:
        """Return whether an answer is that to request `number`; `echoed` is the number it names."""
        if echoed is not None and echoed != number:
            return "stale" if echoed < number else "wrong"
        right_action, right_values = self.answers[number % STATES]
        if action == right_action and np.allclose(q_values, right_values, rtol=1e-6):
            return "ok"
        others = [values for _, values in self.answers]
        is_of_another = any(np.allclose(q_values, values, rtol=1e-6) for values in others)
        return "stale" if is_of_another else "wrong"


async def open_loop(
    rate: float, start: float, seconds: float, ask: Callable[[int, float], Awaitable[None]]
) -> None:
    """Ask `rate` times a second from `start` on, however late the answers are."""
    tasks: set[asyncio.Task[None]] = set()
    for number in range(int(rate * seconds)):
        due = start + number / rate
        if (wait := due - monotonic()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.ensure_future(ask(number, due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


# POST /act, by connections that stay open.


async def by_http(
    address: str, rate: float, seconds: float, start: float, events: Events, expected: Expected
) -> None:
    """Ask by `POST /act`; a new connection where none is idle, and no second try."""
    host, _, port = address.rpartition(":")
    idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()

    async def answered(number: int) -> str:
        while idle and idle[0][0].at_eof():
            idle.popleft()[1].close()
        reader, writer = idle.popleft() if idle else await asyncio.open_connection(host, int(port))
        body = json.dumps({"state": expected.states[number % STATES], "seq": number}).encode()
        head = b"POST /act HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        fields = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(fields.partition(b"content-length: ")[2].split(b"\r\n")[0])
        content = await reader.readexactly(length)
        if b"\r\nconnection: close" in fields:
            writer.close()
        else:
            idle.append((reader, writer))
        if not fields.startswith(b"http/1.1 200"):
            return f"failed: {fields.split(maxsplit=2)[1].decode()}"
        answer = json.loads(content)
        return expected.outcome(
            number, answer["action"], tuple(answer["q_values"]), answer.get("seq")
        )

    async def ask(number: int, due: float) -> None:
        events.add(due, await _patiently(answered(number)))

    await open_loop(rate, start, seconds, ask)


async def _patiently(answer: Awaitable[str]) -> str:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await answer
    except TimeoutError:
        return "failed: no answer"
    except (OSError, EOFError) as error:
        return f"failed: {type(error).__name__}"


# WS /act/stream: each of a few streams sends its states in turn, and connects anew where it ends.


async def by_stream(
    address: str, rate: float, seconds: float, start: float, events: Events, expected: Expected
) -> None:
    """Ask over streams, one message at a time on each."""
    await asyncio.gather(
        *(
            _one_stream(address, rate / STREAMS, seconds, start, number, events, expected)
            for number in range(STREAMS)
        )
    )


async def _one_stream(
    address: str,
    rate: float,
    seconds: float,
    start: float,
    first: int,
    events: Events,
    expected: Expected,
) -> None:
    from websockets.asyncio.client import ClientConnection, connect
    from websockets.exceptions import WebSocketException

    stream: ClientConnection | None = None
    for step in range(int(rate * seconds)):
        number, due = first + STREAMS * step, start + step / rate
        if (wait := due - monotonic()) > 0:
            await asyncio.sleep(wait)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                if stream is None:
                    stream = await connect(f"ws://{address}/act/stream", open_timeout=2)
                state = expected.states[number % STATES]
                await stream.send(json.dumps({"state": state, "seq": number}))
                answer = json.loads(await stream.recv())
            outcome = expected.outcome(
                number, answer["action"], tuple(answer["q_values"]), answer.get("seq")
            )
        except (OSError, TimeoutError, WebSocketException) as error:
            outcome = f"failed: {type(error).__name__}"
            if stream is not None:
                stream.transport.abort()
                stream = None
        events.add(due, outcome)
    if stream is not None:
        await stream.close()


# gRPC.


async def by_grpc(
    address: str, rate: float, seconds: float, start: float, events: Events, expected: Expected
) -> None:
    """Ask by `ModelInfer` over one channel."""
    import grpc.aio

    from service.grpc.inference_pb2 import ModelInferRequest
    from service.grpc.inference_pb2_grpc import GRPCInferenceServiceStub

    async with grpc.aio.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call] # made by `make proto`

        async def ask(number: int, due: float) -> None:
            request = ModelInferRequest(model_name="cartpole-dqn", id=str(number))
            tensor = request.inputs.add(name="state", datatype="FP32", shape=[1, 4])
            tensor.contents.fp32_contents.extend(expected.states[number % STATES])
            try:
                answer = await stub.ModelInfer(request, timeout=PATIENCE_SECONDS)
                outcome = expected.outcome(number, *_decision(answer), int(answer.id))
            except grpc.aio.AioRpcError as error:
                outcome = f"failed: {error.code().name}"
            events.add(due, outcome)

        await open_loop(rate, start, seconds, ask)


def _decision(answer: object) -> tuple[int, tuple[float, ...]]:
    """Return the action and the Q-values of a ModelInferResponse."""
    found: dict[str, list[float]] = {}
    raw = list(answer.raw_output_contents)  # type: ignore[attr-defined] # protobuf's classes
    for place, tensor in enumerate(answer.outputs):  # type: ignore[attr-defined] # as above
        if raw:
            kind = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64}[tensor.datatype]
            found[tensor.name] = np.frombuffer(raw[place], kind).tolist()
        else:
            contents = tensor.contents
            found[tensor.name] = list(
                contents.fp32_contents or contents.fp64_contents or contents.int64_contents
            )
    return int(found["action"][0]), tuple(found["q_values"])


# upright_client, in a loop as a controller has it.


def by_client(
    address: str,
    rate: float,
    seconds: float,
    start: float,
    events: Events,
    expected: Expected,
    transport: str,
) -> None:
    """Call `PolicyClient.act` once in each step of a control loop; the seconds are the call's."""
    from upright_client import PolicyClient

    with PolicyClient(
        f"http://{address}",
        transport="stream" if transport == "stream" else "http",
        deadline=DEADLINE_SECONDS,
        fallback=0,
    ) as client:
        for number in range(int(rate * seconds)):
            due = start + number / rate
            if (wait := due - monotonic()) > 0:
                sleep(wait)
            begun = monotonic()
            decision = client.act(expected.states[number % STATES])
            if decision.source == "policy":
                outcome = expected.outcome(number, decision.action, decision.q_values, None)
            else:
                outcome = f"fallback: {decision.reason}"
            events.add(begun, outcome)


def main() -> None:
    """Call, and write what happened."""
    kind, address, rate, seconds, start, file = sys.argv[1:]
    events, expected = Events(), Expected(seed=KINDS.index(kind))
    arguments = (address, float(rate), float(seconds), float(start), events, expected)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # what is under way then counts as nothing
    try:
        match kind:
            case "http":
                asyncio.run(by_http(*arguments))
            case "stream":
                asyncio.run(by_stream(*arguments))
            case "grpc":
                asyncio.run(by_grpc(*arguments))
            case _:
                by_client(*arguments, transport=kind.removeprefix("client-"))
    finally:
        Path(file).write_text(json.dumps(events.happened))


if __name__ == "__main__":
    main()
