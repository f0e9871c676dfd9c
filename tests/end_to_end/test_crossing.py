"""Every answer is that of its own request, whoever leaves meanwhile and whatever is loaded."""

import asyncio
import json
import random
import re
import shutil
import signal
import struct
import subprocess
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from websockets.asyncio.client import connect

from benchmarks.operations import bundles
from models import bundle
from models.bundle import Bundle
from models.files import exchange_folders
from service.inference.loading import load
from service.inference.policy import Policy
from tests.end_to_end.test_drain import running
from tests.support.service import free_port

with warnings.catch_warnings():
    # What other people's modules warn of when they are imported is no claim of ours.
    warnings.simplefilter("ignore")
    import grpc
    from tritonclient.grpc import service_pb2 as pb  # two modules cannot define one message

SECONDS = 6.0
HEADER = re.compile(rb"HTTP/1\.1 (\d+) .*?\r\ncontent-length: (\d+)\r\n.*?\r\n\r\n", re.DOTALL)
ID = re.compile(rb"x-request-id: (\S+)\r\n")


class Asked:
    """States that are asked for, each by its own number; and how many answers were looked at."""

    def __init__(self, policies: list[Policy]) -> None:
        states = np.random.default_rng(7).uniform(-0.2, 0.2, (500, 4)).astype(np.float32)
        self.states = [[float(value) for value in state] for state in states]
        self._expected = {
            policy.bundle.digest: policy.decide(states).q_values for policy in policies
        }
        self.answers = dict.fromkeys(("http", "stream", "grpc"), 0)
        self.digests: set[str] = set()

    def check(self, kind: str, number: int, digest: str, q_values: list[float]) -> None:
        """Hold an answer to its state, by the policy that it names."""
        assert q_values == self._expected[digest][number], (kind, number)
        self.answers[kind] += 1
        self.digests.add(digest)


def post(number: int, state: list[float]) -> bytes:
    body = json.dumps({"state": state, "seq": number}).encode()
    head = f"POST /act HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: n{number}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def by_http(port: int, asked: Asked, seed: int, until: float) -> None:
    """Ask by pipelined requests, and leave in the middle of every third run of them."""
    rng, loop = random.Random(seed), asyncio.get_running_loop()  # noqa: S311 - no secret
    while loop.time() < until:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        numbers = [rng.randrange(len(asked.states)) for _ in range(rng.randrange(1, 24))]
        content = b"".join(post(number, asked.states[number]) for number in numbers)
        if rng.random() < 0.3:
            writer.write(content[: rng.randrange(len(content))])
            await writer.drain()
            await asyncio.sleep(rng.random() * 0.005)
            writer.transport.abort()
            continue

        writer.write(content)
        for number in numbers:
            head = await reader.readuntil(b"\r\n\r\n")
            match = HEADER.fullmatch(head)
            assert match is not None, head
            body = json.loads(await reader.readexactly(int(match[2])))
            request_id = ID.search(head)
            assert request_id is not None
            assert request_id[1] == b"n%d" % number
            assert (int(match[1]), body["seq"]) == (200, number)
            asked.check("http", number, body["digest"], body["q_values"])
        writer.close()


async def by_stream(port: int, asked: Asked, seed: int, until: float) -> None:
    """Ask by streams, on which several messages are under way."""
    rng, loop = random.Random(seed), asyncio.get_running_loop()  # noqa: S311 - no secret
    while loop.time() < until:
        async with connect(f"ws://127.0.0.1:{port}/act/stream") as stream:
            for _ in range(rng.randrange(1, 30)):
                numbers = [rng.randrange(len(asked.states)) for _ in range(rng.randrange(1, 9))]
                for number in numbers:
                    message = {"state": asked.states[number], "seq": number}
                    await stream.send(json.dumps(message))
                for number in numbers:
                    answer = json.loads(await stream.recv())
                    assert answer["seq"] == number
                    asked.check("stream", number, answer["digest"], answer["q_values"])
            await stream.send(json.dumps({"state": asked.states[0]}))  # which nobody waits for


async def by_grpc(port: int, asked: Asked, seed: int, until: float) -> None:
    """Ask by calls, some of which are cancelled."""
    rng, loop = random.Random(seed), asyncio.get_running_loop()  # noqa: S311 - no secret
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )

        async def ask(number: int) -> None:
            request = pb.ModelInferRequest(model_name="cartpole-dqn", id=f"n{number}")
            request.inputs.add(name="state", datatype="FP32", shape=[1, 4])
            request.raw_input_contents.append(struct.pack("<4f", *asked.states[number]))
            call = infer(request)
            if rng.random() < 0.2:
                loop.call_later(rng.random() * 0.003, call.cancel)
            with suppress(asyncio.CancelledError):
                answer = await call
                assert answer.id == f"n{number}"
                q_values = list(struct.unpack("<2f", answer.raw_output_contents[0]))
                digest = answer.parameters["digest"].string_param
                asked.check("grpc", number, digest, q_values)

        while loop.time() < until:
            await asyncio.gather(*(ask(rng.randrange(len(asked.states))) for _ in range(12)))


async def reload_often(
    served: Path, other: Path, process: "subprocess.Popen[bytes]", until: float
) -> None:
    """Exchange the bundle that is served for the other one, again and again."""
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        await asyncio.sleep(0.3)
        exchange_folders(served, other)
        process.send_signal(signal.SIGHUP)


def test_each_answer_is_that_of_its_request(tmp_path: Path, committed: Bundle) -> None:
    served, other = tmp_path / "served", tmp_path / "other"
    shutil.copytree(committed.folder, served)
    bundles.relative(committed, other, bundles.halved, version="2")
    asked = Asked([load(bundle.read(folder), "onnx") for folder in (served, other)])
    port, grpc_port = free_port(), free_port()
    arguments = ("--bundle", str(served), "--grpc-port", str(grpc_port), "--drain", "0")

    async def ask(process: "subprocess.Popen[bytes]") -> None:
        until = asyncio.get_running_loop().time() + SECONDS
        async with asyncio.TaskGroup() as tasks:
            for seed in range(4):
                tasks.create_task(by_http(port, asked, seed, until))
                tasks.create_task(by_stream(port, asked, 10 + seed, until))
            for seed in range(2):
                tasks.create_task(by_grpc(grpc_port, asked, 20 + seed, until))
            tasks.create_task(reload_often(served, other, process, until))

    with running(port, tmp_path / "log", *arguments) as process:
        asyncio.run(ask(process))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert len(asked.digests) == 2
    assert min(asked.answers.values()) > 500, asked.answers
    assert "Traceback" not in (tmp_path / "log").read_text()
