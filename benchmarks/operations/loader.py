"""One caller, whose answers are held to what each bundle must answer, and timed.

It runs in a process of its own until its standard input is closed, on one connection, and holds
each answer to the bundle that it names.
"""

import json
import select
import socket
import sys
from array import array
from pathlib import Path
from time import perf_counter
from typing import TypedDict


class Seen(TypedDict):
    """What a caller saw."""

    bundles: dict[str, int]  # digest -> answers that named it
    wrong: int
    shown: list[str]


SHOWN = 5  # wrong answers that are told in full


def main(port: int, expectations: Path, out: Path) -> None:
    """Ask until told to stop; then write when each answer came, and its seconds."""
    expected = json.loads(expectations.read_text())
    asked = [b'{"state":%s}' % json.dumps(state).encode() for state in expected["states"]]
    requests = [
        b"POST /act HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        for body in asked
    ]
    moments, seconds, wrong = array("d"), array("d"), list[str]()
    bundles: dict[str, int] = {}
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not select.select([sys.stdin], [], [], 0)[0]:
            for row, request in enumerate(requests):
                started = perf_counter()
                connection.sendall(request)
                received = connection.recv(16_384)
                while received and not received.endswith(b"}"):
                    received += connection.recv(16_384)
                ended = perf_counter()
                moments.append(ended)
                seconds.append(ended - started)
                digest, fault = _judged(received, row, expected["answers"])
                bundles[digest] = bundles.get(digest, 0) + 1
                if fault:
                    wrong.append(fault)
    (out.with_suffix(".moments")).write_bytes(moments.tobytes())
    (out.with_suffix(".seconds")).write_bytes(seconds.tobytes())
    out.with_suffix(".json").write_text(
        json.dumps(Seen(bundles=bundles, wrong=len(wrong), shown=wrong[:SHOWN]))
    )


def _judged(received: bytes, row: int, answers: dict[str, list[list[float]]]) -> tuple[str, str]:
    """Return the digest that an answer names, and what is wrong with it, if anything."""
    head, _, body = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        return "none", received[:300].decode("latin-1")
    answer = json.loads(body)
    digest, q_values = answer["digest"], answer["q_values"]
    if digest not in answers:
        return digest, f"a bundle that must not be served answered: {digest}"
    if q_values != answers[digest][row] or answer["action"] != q_values.index(max(q_values)):
        return (
            digest,
            f"state {row}: {q_values} and action {answer['action']}, expected"
            f" {answers[digest][row]} of {digest}",
        )
    return digest, ""


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
