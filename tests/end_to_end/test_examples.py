"""The examples, each run as it stands against the real service."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.programs import needed, node
from tests.support.project import ROOT
from tests.support.service import free_port, reachable, service, wait_for

EXAMPLES = ROOT / "examples"


@dataclass
class Addresses:
    """Where the service under test listens."""

    http: str
    host: str
    grpc: str


@pytest.fixture(scope="module")
def running() -> Iterator[Addresses]:
    http, grpc = free_port(), free_port()
    with service(http, "--grpc-port", str(grpc)):
        wait_for(lambda: reachable(grpc))
        yield Addresses(f"http://127.0.0.1:{http}", f"127.0.0.1:{http}", f"127.0.0.1:{grpc}")


def output(*command: str | Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "client"), "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_loop_through_the_client_is_decided_by_the_policy(running: Addresses) -> None:
    said = output(sys.executable, EXAMPLES / "balance.py", running.http, "100")
    found = re.search(r"(\d+) of 100 steps by the policy", said)
    assert found is not None, said
    assert int(found[1]) > 50
    assert "the pole fell" not in said


def test_the_loop_without_a_client_balances_to_the_end(running: Addresses) -> None:
    assert output(sys.executable, EXAMPLES / "plain.py", running.http) == "score 500\n"


def test_the_example_in_c_compiles_without_a_warning_and_asks(
    running: Addresses, tmp_path: Path
) -> None:
    compiler = needed("cc")
    if not any(Path("/usr/include").rglob("curl/curl.h")):
        pytest.skip(
            "needs libcurl's headers (libcurl4-openssl-dev), which this machine has not;"
            " .ci/run installs them"
        )
    output(
        compiler,
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-o",
        tmp_path / "act",
        EXAMPLES / "act.c",
        "-lcurl",
    )
    assert output(tmp_path / "act", running.http) == "action 1\naction 0\n0 of 100 calls failed\n"


@pytest.mark.parametrize("program", ["act.mjs", "stream.mjs"])
def test_the_examples_in_javascript_ask(running: Addresses, program: str) -> None:
    assert output(node(), EXAMPLES / program, running.http) == "action 1\naction 0\naction 1\n"


@pytest.mark.parametrize(
    ("program", "code", "told"),
    [("act.mjs", 0, "ECONNREFUSED"), ("stream.mjs", 1, "no stream at")],
)
def test_the_examples_in_javascript_name_a_service_that_is_not_there(
    program: str, code: int, told: str
) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    result = subprocess.run(
        [node(), EXAMPLES / program, address],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == code
    for line in result.stderr.splitlines():
        assert address in line
        assert told in line


def test_the_stream_in_javascript_says_by_itself_which_node_it_needs() -> None:
    old = subprocess.run(
        [node(), "--no-experimental-websocket", EXAMPLES / "stream.mjs"],  # as Node 20 is
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert old.returncode == 1
    assert old.stderr.startswith("stream.mjs needs Node 22 or newer")
    assert old.stderr.count("\n") == 1


def test_the_example_in_shell_asks(running: Addresses) -> None:
    needed("curl")
    said = output("sh", EXAMPLES / "act.sh", running.http)
    assert '"action_name":"right"' in said
    assert '"actions":[1,0]' in said
    assert said.endswith("refused, as it should be\n")


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_the_examples_with_tritonclient_ask(running: Addresses, kind: str) -> None:
    said = output(
        sys.executable,
        EXAMPLES / f"triton_{kind}.py",
        running.host if kind == "http" else running.grpc,
    )
    assert said.startswith("actions [1, 0]\nq_values [[")


def test_every_example_is_run_by_a_test_and_is_in_the_readme() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    tests = Path(__file__).read_text()
    for file in EXAMPLES.iterdir():
        if file.suffix in (".py", ".c", ".mjs", ".sh"):
            assert f"({file.name})" in readme
            assert file.name in tests or file.stem in ("triton_http", "triton_grpc")
