"""What becomes of gRPC calls when the service stops."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.end_to_end.test_drain import running
from tests.support.service import free_port, reachable, wait_for

SERVICE = "/inference.GRPCInferenceService"
SLOW_RELOADS = """
import sys, time
from service.__main__ import main
from service.rollout.reloader import Reloader

def load(reloader, name, load=Reloader._load):
    print("reload begun", flush=True)
    time.sleep(1.5)
    return load(reloader, name)

Reloader._load = load
sys.exit(main())
"""


@contextmanager
def unending(port: int) -> Iterator[tuple[grpc.Channel, list[grpc.Call]]]:
    """A channel, a stream that has had an answer and asks no more, and a watch of the health."""
    asked: Queue[bytes | None] = Queue()
    asked.put(b"\xff")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stream = channel.stream_stream(f"{SERVICE}/ModelStreamInfer")(
            iter(asked.get, None), timeout=60
        )
        next(stream)
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=60
        )
        next(watch)
        yield channel, [stream, watch]
        asked.put(None)


def test_streams_are_told_that_the_service_stops_and_keep_it_no_longer(tmp_path: Path) -> None:
    port = free_port()
    arguments = ("--grpc-port", str(port), "--drain", "0", "--shutdown", "60")
    with (
        running(free_port(), tmp_path / "log", *arguments) as process,
        unending(port) as (_, (stream, watch)),
    ):
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        with pytest.raises(grpc.RpcError):
            list(stream)
        assert (stream.code(), stream.details()) == (
            grpc.StatusCode.UNAVAILABLE,
            "the service stops",
        )
        with pytest.raises(grpc.RpcError):
            list(watch)
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_call_in_flight_is_answered_whatever_streams_there_are(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    arguments = ("--grpc-port", str(port), "--drain", "0")
    with (
        running(free_port(), log, *arguments, program=("-c", SLOW_RELOADS)) as process,
        unending(port) as (channel, _),
    ):
        answers: list[bytes] = []

        def load() -> None:
            method = channel.unary_unary(f"{SERVICE}/RepositoryModelLoad")
            answers.append(method(b"\x12\x0ccartpole-dqn", timeout=20))

        caller = threading.Thread(target=load)
        caller.start()
        wait_for(lambda: "reload begun" in log.read_text())
        process.send_signal(signal.SIGTERM)
        caller.join(20)
        assert answers == [b""]
        assert process.wait(20) == 0


def test_a_call_that_takes_longer_than_the_time_for_it_is_ended(tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    arguments = ("--grpc-port", str(port), "--drain", "0", "--shutdown", "1")
    with (
        running(free_port(), log, *arguments, program=("-c", SLOW_RELOADS)) as process,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        wait_for(lambda: reachable(port))
        call = channel.unary_unary(f"{SERVICE}/RepositoryModelLoad").future(
            b"\x12\x0ccartpole-dqn", timeout=20
        )
        wait_for(lambda: "reload begun" in log.read_text())
        process.send_signal(signal.SIGTERM)
        assert call.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
        assert process.wait(20) == 0
