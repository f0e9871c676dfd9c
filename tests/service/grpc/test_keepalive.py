"""A client that pings often, to notice a dead peer in time, is not sent away."""

import time

import grpc

from tests.support.service import Start, free_port, reachable, wait_for

SERVER_READY = "/inference.GRPCInferenceService/ServerReady"
PING_MILLISECONDS = 1_000
# gRPC sends a client away at its third ping too many.
SECONDS = 6.0


def test_pings_of_an_idle_client_end_no_connection(start: Start) -> None:
    port = free_port()
    with start("--grpc-port", str(port)):
        wait_for(lambda: reachable(port))
        options = [
            ("grpc.keepalive_time_ms", PING_MILLISECONDS),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]
        states: list[grpc.ChannelConnectivity] = []
        with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            ask = channel.unary_unary(SERVER_READY)
            ask(b"", timeout=10)
            channel.subscribe(states.append)
            time.sleep(SECONDS)
            ask(b"", timeout=10)
    assert set(states) == {grpc.ChannelConnectivity.READY}
