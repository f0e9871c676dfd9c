"""What the chart relies on in a pod: its two programs, and a ConfigMap that is exchanged."""

import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from models import bundle
from tests.deploy.objects import CHART
from tests.support.project import COMMITTED
from tests.support.service import Start, run_program, wait_for

FETCH, TEST = (CHART / "files" / name for name in ("fetch_bundle.py", "ask_service.py"))


def archive(name: str = ".") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as packed:
        packed.add(COMMITTED, name)
    return content.getvalue()


ARCHIVE, ESCAPING = archive(), archive("../escaped")


@pytest.fixture
def address() -> Iterator[str]:
    """Serve an archive of the committed bundle, and one that would write beside its folder."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(ESCAPING if self.path == "/escaping" else ARCHIVE)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def fetch(address: str, digest: str, folder: Path) -> tuple[int, str]:
    folder.mkdir()
    result = run_program(FETCH.read_text(), address, digest, folder, program=("-c",))
    return result.returncode, result.stderr


def test_a_bundle_is_fetched_whole(address: str, tmp_path: Path) -> None:
    digest = hashlib.sha256(ARCHIVE).hexdigest()
    assert fetch(address, digest, tmp_path / "fetched") == (0, "")
    assert bundle.read(tmp_path / "fetched").digest == bundle.read(COMMITTED).digest


def test_another_archive_than_was_asked_for_is_refused(address: str, tmp_path: Path) -> None:
    code, error = fetch(address, "0" * 64, tmp_path / "fetched")
    assert code == 1
    assert "its SHA-256 is" in error
    assert list((tmp_path / "fetched").iterdir()) == []


def test_an_archive_writes_nowhere_else(address: str, tmp_path: Path) -> None:
    digest = hashlib.sha256(ESCAPING).hexdigest()
    code, _ = fetch(f"{address}/escaping", digest, tmp_path / "fetched")
    assert code == 1
    assert not (tmp_path / "escaped").exists()


def ask(address: str, keys: str) -> tuple[int, str]:
    scheme, _, authority = address.partition("://")
    host, _, port = authority.partition(":")
    result = run_program(TEST.read_text(), scheme, host, port, keys, program=("-c",))
    return result.returncode, result.stdout + result.stderr


def test_helm_test_finds_an_open_service_and_one_with_keys_right(
    start: Start, tmp_path: Path
) -> None:
    with start() as address:
        assert ask(address, "no") == (0, address.partition("://")[2] + " answers\n")
        assert ask(address, "yes")[0] == 1, "it should want keys, and does not"
    keys = tmp_path / "keys"
    made = run_program("key", "loop", "--scope", "act", "--keys", keys)
    assert made.returncode == 0, made.stderr
    with start("--keys", str(keys)) as address:
        assert ask(address, "yes")[0] == 0
        assert ask(address, "no")[0] == 1, "it should be open, and wants keys"


def test_a_configmap_that_is_exchanged_is_loaded_without_a_restart(
    start: Start, tmp_path: Path
) -> None:
    # The kubelet puts each version into a folder of its own, and turns one link to it.
    def put(version: str) -> str:
        folder = tmp_path / f"..{version}"
        shutil.copytree(COMMITTED, folder)
        manifest = folder / "manifest.json"
        changed = json.loads(manifest.read_text()) | {"version": version}
        manifest.write_text(json.dumps(changed))
        (tmp_path / "..data_tmp").symlink_to(folder.name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        return bundle.read(folder).digest

    put("1")
    mounted = tmp_path / "bundle"
    mounted.mkdir()
    for file in COMMITTED.iterdir():
        (mounted / file.name).symlink_to(Path("..") / "..data" / file.name)
    with start("--bundle", str(mounted), "--watch", "0.1") as address:
        digest = put("2")
        wait_for(lambda: httpx2.get(f"{address}/model").json()["digest"] == digest)
