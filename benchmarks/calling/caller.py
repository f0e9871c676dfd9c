"""Calls the service again and again by one kind of client, and prints the seconds of each call.

    python caller.py KIND ADDRESS COUNT

The seconds are printed as a JSON list. Every kind does the same: a state of four floats and a seq
become JSON, and the answer's JSON becomes an action and Q-values.
"""

import asyncio
import itertools
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

WARM_UP = 200
STATE = (0.01, -0.02, 0.05, 0.3)


def main(kind: str, address: str, count: int) -> list[float]:
    """Return the seconds of `count` calls."""
    if kind in ("upright-async", "aiohttp"):
        return asyncio.run(_timed_async(kind, address, count))
    call = _caller(kind, address)
    for _ in range(WARM_UP):
        call()
    seconds = []
    for _ in range(count):
        started = perf_counter()
        call()
        seconds.append(perf_counter() - started)
    return seconds


def _body(seq: int) -> bytes:
    return json.dumps({"state": STATE, "seq": seq}).encode()


def _caller(kind: str, address: str) -> Callable[[], object]:
    seqs = itertools.count(1)
    match kind:
        case "raw" | "raw-unix":
            return _raw_http(address, seqs)
        case "raw-stream" | "raw-stream-unix":
            return _raw_stream(address, seqs)
        case "upright" | "upright-unix" | "upright-stream" | "upright-stream-unix":
            sys.path.insert(0, str(Path(__file__).parents[2] / "client"))
            from upright_client import PolicyClient

            client = PolicyClient(
                address,
                transport="stream" if "stream" in kind else "http",
                deadline=1.0,
                fallback=0,
            )

            def act() -> None:
                if client.act(STATE).source != "policy":
                    raise RuntimeError(client.last_error)

            return act
        case "http.client":
            import http.client

            host, _, port = address.removeprefix("http://").partition(":")
            connection = http.client.HTTPConnection(host, int(port))
            connection.connect()

            def ask() -> object:
                connection.request(
                    "POST", "/act", _body(next(seqs)), {"Content-Type": "application/json"}
                )
                return json.loads(connection.getresponse().read())["action"]

            return ask
        case "requests":
            import requests

            session = requests.Session()
            return lambda: session.post(
                f"{address}/act", json={"state": STATE, "seq": next(seqs)}, timeout=1
            ).json()["action"]
        case "httpx":
            import httpx

            general = httpx.Client()
            return lambda: general.post(
                f"{address}/act", json={"state": STATE, "seq": next(seqs)}
            ).json()["action"]
    raise ValueError(kind)


def _raw_http(address: str, seqs: "itertools.count[int]") -> Callable[[], object]:
    connection = _connected(address)
    head = (
        b"POST /act HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: "
    )

    def ask() -> object:
        body = _body(next(seqs))
        connection.sendall(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        received = connection.recv(16_384)
        while not received.endswith(b"}"):
            received += connection.recv(16_384)
        answer = json.loads(received.partition(b"\r\n\r\n")[2])
        return answer["action"], answer["q_values"]

    return ask


def _raw_stream(address: str, seqs: "itertools.count[int]") -> Callable[[], object]:
    connection = _connected(address)
    connection.sendall(
        b"GET /act/stream HTTP/1.1\r\nHost: localhost\r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    connection.recv(16_384)

    def ask() -> object:
        body = _body(next(seqs))
        mask = os.urandom(4)
        repeated = (mask * (len(body) // 4 + 1))[: len(body)]
        masked = (int.from_bytes(body) ^ int.from_bytes(repeated)).to_bytes(len(body))
        connection.sendall(bytes((0x81, 0x80 | len(body))) + mask + masked)
        received = connection.recv(16_384)
        while not received.endswith(b"}"):
            received += connection.recv(16_384)
        answer = json.loads(received[4:])
        return answer["action"], answer["q_values"]

    return ask


def _connected(address: str) -> socket.socket:
    if address.startswith("/"):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(address)
        return connection
    host, _, port = address.removeprefix("http://").partition(":")
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


async def _timed_async(kind: str, address: str, count: int) -> list[float]:
    seconds = []
    if kind == "aiohttp":
        import aiohttp

        seqs = itertools.count(1)
        async with aiohttp.ClientSession() as session:
            for number in range(WARM_UP + count):
                started = perf_counter()
                async with session.post(
                    f"{address}/act", json={"state": STATE, "seq": next(seqs)}
                ) as response:
                    (await response.json())["action"]
                if number >= WARM_UP:
                    seconds.append(perf_counter() - started)
        return seconds
    sys.path.insert(0, str(Path(__file__).parents[2] / "client"))
    from upright_client import AsyncPolicyClient

    async with AsyncPolicyClient(address, deadline=1.0, fallback=0) as client:
        for number in range(WARM_UP + count):
            started = perf_counter()
            if (await client.act(STATE)).source != "policy":
                raise RuntimeError(client.last_error)
            if number >= WARM_UP:
                seconds.append(perf_counter() - started)
    return seconds


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
