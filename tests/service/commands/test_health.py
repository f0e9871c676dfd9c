"""The health command finds the service by what it tells of itself, whatever its flags are."""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from service.observability import run_file
from service.observability.run_file import NoFolderError, RunFile, running_processes
from tests.support.project import ROOT
from tests.support.service import clean_environment, free_port, wait_for


def health(folder: Path, **environment: str) -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, "-m", "service", "health"],
        cwd=ROOT,
        env=clean_environment() | {"XDG_RUNTIME_DIR": str(folder)} | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "Traceback" not in result.stderr
    return result.returncode, result.stdout + result.stderr


@contextmanager
def service(folder: Path, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    with (
        (folder / "log").open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "service", "--port", str(free_port()), *arguments],
            cwd=ROOT,
            env=clean_environment() | {"XDG_RUNTIME_DIR": str(folder)},
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            wait_for(lambda: health(folder)[0] == 0, 2)
            yield process
        finally:
            process.kill()


def tls_flags(folder: Path) -> list[str]:
    ca = trustme.CA()
    made = ca.issue_cert("gateway.example")
    files = {name: folder / f"{name}.pem" for name in ("cert", "key", "ca")}
    files["cert"].write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    files["key"].write_bytes(made.private_key_pem.bytes())
    ca.cert_pem.write_to_path(files["ca"])
    return [
        *("--tls-cert", str(files["cert"])),
        *("--tls-key", str(files["key"])),
        *("--tls-client-ca", str(files["ca"])),
    ]


@pytest.mark.parametrize("kind", ["a port", "a socket", "tls", "all addresses", "processes"])
def test_a_service_that_is_ready_is_found_and_no_proxy_is_asked(tmp_path: Path, kind: str) -> None:
    arguments = {
        "a port": [],
        "a socket": ["--uds", str(tmp_path / "s"), "--uds-only"],
        "tls": tls_flags(tmp_path),
        "all addresses": ["--host", "0.0.0.0"],  # noqa: S104 - what is tried
        "processes": ["--workers", "2"],
    }[kind]
    with service(tmp_path, *arguments):
        code, text = health(
            tmp_path, HTTP_PROXY="http://127.0.0.1:1", ALL_PROXY="http://127.0.0.1:1"
        )
    assert code == 0
    assert text.startswith("ready: ")


def test_nothing_that_runs_is_told_from_a_service_that_is_not_ready(tmp_path: Path) -> None:
    assert health(tmp_path) == (2, "upright: no service of this user runs here\n")
    with service(tmp_path, "--drain", "20") as process:
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: health(tmp_path)[0] == 1)


def test_a_service_that_hangs_is_not_healthy(tmp_path: Path) -> None:
    with service(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        assert health(tmp_path)[0] == 1
        process.send_signal(signal.SIGCONT)
        wait_for(lambda: health(tmp_path)[0] == 0)


@pytest.mark.parametrize("step", [-3_600.0, 3_600.0])
def test_a_clock_that_is_set_makes_no_service_healthy_or_sick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    RunFile("http://127.0.0.1:8000").write(is_ready=True)
    date = time.time
    monkeypatch.setattr(run_file, "time", lambda: date() + step, raising=False)
    [process] = running_processes()
    assert 0 <= process.seconds_since_touch < 5
    assert not process.is_stuck

    elapsed = time.monotonic
    monkeypatch.setattr(run_file, "monotonic", lambda: elapsed() + 6)
    [process] = running_processes()
    assert process.is_stuck


def test_a_service_that_was_killed_is_not_taken_for_one_that_runs(tmp_path: Path) -> None:
    with service(tmp_path) as process:
        process.kill()
        process.wait(10)
        assert health(tmp_path)[0] == 2


def test_a_folder_of_somebody_else_is_not_trusted(tmp_path: Path) -> None:
    with service(tmp_path, "--drain", "0") as process:
        [folder] = tmp_path.glob("upright-*")
        folder.chmod(0o777)
        port = process.args[4]  # type: ignore[index] # a list, as it was given
        assert health(tmp_path, UPRIGHT_PORT=str(port))[0] == 0  # by the environment
        assert health(tmp_path, UPRIGHT_PORT="1")[0] == 1
        folder.chmod(0o700)
        time.sleep(1.2)
        process.terminate()
        assert process.wait(10) == 0
        assert [*folder.iterdir()] == []


def test_another_process_with_the_number_of_a_killed_service_is_not_taken_for_it(
    tmp_path: Path,
) -> None:
    with service(tmp_path) as process:
        process.kill()
        process.wait(10)
        [file] = tmp_path.glob("upright-*/*.json")
        with subprocess.Popen(["/bin/sleep", "60"]) as other:
            try:
                content = json.loads(file.read_text()) | {"pid": other.pid}
                file.write_text(json.dumps(content))
                assert health(tmp_path)[0] == 2
            finally:
                other.kill()


def test_without_a_folder_for_temporary_files_a_service_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As `tempfile` finds it where nothing can be written, which root of this machine always can.
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "absent")])
    monkeypatch.setattr(tempfile, "tempdir", None)
    file = RunFile("http://127.0.0.1:8000")
    file.write(is_ready=True)
    file.remove()
    with pytest.raises(NoFolderError):
        next(running_processes())
