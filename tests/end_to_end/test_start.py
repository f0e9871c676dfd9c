"""The service as a program: how it starts, and how it refuses to."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from models.bundle import Bundle
from tests.support.project import COMMITTED, ROOT
from tests.support.service import Start, clean_environment, refused, run_program, wait_for

WITHOUT_TORCH = """
import runpy, sys
for absent in ("torch", "gymnasium", "onnx", "training"):
    sys.modules[absent] = None  # importing it now raises ImportError
runpy.run_module("service", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("backend", ["onnx", "torchscript"])
def test_the_real_server_answers_on_a_socket(start: Start, backend: str) -> None:
    with start("--backend", backend) as address:
        assert httpx2.get(f"{address}/health/ready").status_code == 200
        answer = httpx2.post(f"{address}/act", content='{"state":[0,0,0.05,0]}')
        assert answer.json()["action_name"] == "right"
        assert httpx2.get(f"{address}/model").json()["backend"] == backend
        too_large = httpx2.post(f"{address}/act", content=b"x" * 10_000_000)
        assert too_large.status_code == 413


def test_the_service_answers_where_torch_and_training_are_absent(start: Start) -> None:
    with start(program=("-c", WITHOUT_TORCH)) as address:
        assert (
            httpx2.post(f"{address}/act", json={"state": [0, 0, -0.05, 0]}).json()["action_name"]
            == "left"
        )


@pytest.mark.parametrize("module", ["service.inference.policy", "training.export.formats"])
def test_the_runtime_leaves_nothing_in_the_home_folder_and_reports_to_nobody(
    tmp_path: Path, module: str
) -> None:
    environment = clean_environment() | {"HOME": str(tmp_path)}
    for name in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    result = subprocess.run(
        [sys.executable, "-c", f"import {module}, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True, env=environment,
    )  # fmt: skip
    assert result.stdout == "1\n"
    assert not list(tmp_path.rglob("*onnxruntime*"))


def test_the_address_of_the_page_is_the_last_line_of_a_start(start: Start, tmp_path: Path) -> None:
    with start() as address:
        log = tmp_path / "service.log"
        wait_for(lambda: "startup complete" in log.read_text())
        wait_for(lambda: log.read_text().splitlines()[-1].endswith(" in a browser"))
        page = log.read_text().splitlines()[-1].split()[-4]
        assert page.startswith(address)
        assert httpx2.get(page).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_service_that_is_told_to_stop_exits_with_0_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals, workers: str
) -> None:
    command = [
        sys.executable,
        "-m",
        "service",
        "--port",
        "0",
        "--drain",
        "0",
        "--workers",
        workers,
        "--uds",
        str(tmp_path / "act.sock"),
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=clean_environment()
    ) as process:
        assert process.stderr is not None
        shown = ""
        while shown.count("Application startup complete") < int(workers):
            shown += (line := process.stderr.readline())
            assert line, shown
        process.send_signal(number)
        shown += process.stderr.read()
    assert process.returncode == 0
    assert "Traceback" not in shown
    assert not (tmp_path / "act.sock").exists()


def test_torchscript_without_torch_is_refused_in_one_line() -> None:
    arguments = ("--port", "0", "--backend", "torchscript")
    result = run_program(*arguments, program=("-c", WITHOUT_TORCH))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "torch, which is not installed" in result.stderr


def test_a_setting_comes_from_the_environment_and_a_flag_wins() -> None:
    assert "elsewhere" in refused(environment={"UPRIGHT_BUNDLE": "elsewhere"})[1]
    assert "nearer" in refused("--bundle", "nearer", environment={"UPRIGHT_BUNDLE": "elsewhere"})[1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--backend", "abacus"], "--backend"),
        (["--max-batch", "0"], "--max-batch"),
        (["--surprise", "1"], "surprise"),
        (["--port", "99999"], "--port"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(arguments: list[str], named: str) -> None:
    code, error_text = refused(*arguments)
    assert code == 2
    assert named in error_text
    assert "Traceback" not in error_text


@pytest.mark.parametrize(
    "damage", ["missing", "torn", "changed", "no-manifest", "wrong-manifest", "other-model"]
)
def test_a_broken_bundle_stops_the_start_with_one_clear_line(
    tmp_path: Path, committed: Bundle, exported: Bundle, damage: str
) -> None:
    folder = tmp_path / "bundle"
    if damage != "missing":
        shutil.copytree(COMMITTED, folder)
    model, manifest = folder / "policy.onnx", folder / "manifest.json"
    expected = ["bundle"]
    match damage:
        case "torn":
            model.write_bytes(model.read_bytes()[:-10])
            expected = ["policy.onnx", f"expected {len(model.read_bytes()) + 10} bytes", "found"]
        case "changed":
            content = bytearray(model.read_bytes())
            content[len(content) // 2] ^= 1
            model.write_bytes(content)
            expected = ["policy.onnx", "SHA-256", "expected", "found"]
        case "no-manifest":
            manifest.unlink()
            expected = ["manifest.json"]
        case "wrong-manifest":
            manifest.write_text('{"schema_version": 9}')
            expected = ["manifest.json", "schema"]
        case "other-model":
            # Both hashes are right, but the model is another's: only the golden states can tell.
            text = manifest.read_text()
            before, after = exported.manifest.artifacts["onnx"], exported.artifacts["onnx"]
            model.write_bytes(after)
            ours = committed.manifest.artifacts["onnx"]
            manifest.write_text(
                text.replace(ours.sha256, before.sha256).replace(
                    f'"size": {ours.size}', f'"size": {before.size}'
                )
            )
            expected = ["policy.onnx", "golden state"]
    code, error_text = refused("--bundle", str(folder))
    assert code == 1
    assert error_text.count("\n") == 1
    assert "Traceback" not in error_text
    for part in expected:
        assert part in error_text
