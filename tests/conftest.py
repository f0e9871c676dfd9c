"""What tests share: the committed bundle, small runs, and the real server on a loopback port."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest
import torch
from starlette.testclient import TestClient

from models import bundle
from models.bundle import Bundle
from service.inference.backends import BackendName
from service.inference.loading import load
from service.server.application import create_application
from service.state import ServiceState
from tests.support.project import COMMITTED, CREATED, ROOT
from tests.support.service import Start, clean_environment, settings
from training.export.candidates import from_run
from training.export.exporter import export
from training.recipes import recipe
from training.train import train
from training.trainer import Run

# A shell starts what runs in the background with Ctrl-C ignored, and what tests start would inherit
# that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No example has a deadline: how long one takes is a matter of the machine.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")
# pytest --hypothesis-profile long tests/service/server/test_fast_path.py
hypothesis.settings.register_profile("long", deadline=None, max_examples=10_000)


@pytest.fixture(scope="session")
def committed() -> Bundle:
    return bundle.read(COMMITTED)


@pytest.fixture(scope="session")
def short_run() -> Run:
    """Training by the real recipe, ended after 150 episodes."""
    return train(recipe("baseline", {"episodes": 150}), 7, torch.device("cpu"))


@pytest.fixture(scope="session")
def exported(short_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle of the short run. Read only: tests that change files take a copy."""
    folder = tmp_path_factory.mktemp("exported") / "short"
    return export(
        from_run(short_run),
        folder,
        name="short",
        model_version="1",
        created=CREATED,
        force=True,
        episodes=20,
        scenario_episodes=4,
    )


@pytest.fixture(params=["onnx", "torchscript"])
def backend(request: pytest.FixtureRequest) -> BackendName:
    name: BackendName = request.param
    return name


@pytest.fixture
def client(committed: Bundle, backend: BackendName) -> Iterator[TestClient]:
    """The real app, by both backends, over a transport."""
    with TestClient(
        create_application(settings(), ServiceState(load(committed, backend))),
        raise_server_exceptions=False,
    ) as client:
        yield client


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start the real service on a free loopback port; gives its address, and ends it afterwards."""

    @contextmanager
    def started(
        *arguments: str,
        program: tuple[str, ...] = ("-m", "service"),
        environment: dict[str, str] | None = None,
    ) -> Iterator[str]:
        log = tmp_path / "service.log"
        command = [sys.executable, *program, "--port", "0", "--drain", "0", *arguments]
        with (
            log.open("wb") as output,
            subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=output,
                stderr=output,
                env=clean_environment() | (environment or {}),
            ) as process,
        ):
            try:
                yield _address(process, log)
            finally:
                process.terminate()
                process.wait(10)

    return started


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(600):
        if found := re.search(r"https?://(127\.0\.0\.1|0\.0\.0\.0):\d+", log.read_text()):
            return found[0]
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        break
    raise AssertionError(f"the service did not start:\n{log.read_text()}")
