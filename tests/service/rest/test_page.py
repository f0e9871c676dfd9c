"""The page over HTTP: what is open, what is sent with it, and the bundle's files that it shows."""

import gzip
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from models import bundle
from models.bundle import Bundle
from service.auth.key_file import load_keys
from service.endpoints import endpoint_of
from service.inference.loading import load
from service.rest.page.routes import STATIC
from service.server.application import create_application
from service.state import ServiceState
from tests.support.project import COMMITTED, ROOT
from tests.support.service import settings

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FILES = sorted(file.name for file in STATIC.iterdir() if file.name != "index.html")


@pytest.fixture
def page(committed: Bundle) -> Iterator[TestClient]:
    with TestClient(
        create_application(settings(), ServiceState(load(committed, "onnx")))
    ) as client:
        yield client


def policy_of(headers: object) -> dict[str, str]:
    text = str(dict(headers)["content-security-policy"])  # type: ignore[call-overload] # httpx's headers are a mapping
    return {part.split(" ", 1)[0]: part.partition(" ")[2] for part in text.split("; ")}


def test_a_browser_gets_the_page_and_a_program_the_endpoints(page: TestClient) -> None:
    shown = page.get("/", headers=HTML)
    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1>Upright</h1>" in shown.text
    for accept in ("application/json", "*/*", "application/json, text/html"):
        answer = page.get("/", headers={"accept": accept})
        assert answer.headers["content-type"] == "application/json"
        listed = {each["path"]: each for each in answer.json()["endpoints"]}
        assert listed["/act"]["address"] == "http://testserver/act"
        assert listed["/act/stream"]["address"] == "ws://testserver/act/stream"
        assert answer.headers["vary"] == "Accept"


def test_each_endpoint_that_is_listed_is_there(page: TestClient) -> None:
    for each in page.get("/").json()["endpoints"]:
        method = "GET" if each["method"] == "WS" else each["method"]
        status = page.request(method, each["path"]).status_code
        assert status == (426 if each["method"] == "WS" else status)
        assert status not in (404, 405), each


def test_the_page_names_only_files_that_are_there(page: TestClient) -> None:
    text = page.get("/", headers=HTML).text
    named = re.findall(r'(?:src|href)="(page/[^"]+)"', text)
    assert named
    for module in STATIC.glob("*.js"):
        imported = re.findall(r'(?:from|URL\(|import) ?"\./?([^"]+)"', module.read_text())
        named += [f"page/{name}" for name in imported if name.endswith(".js")]
    for path in named:
        assert page.get(f"/{path}").status_code == 200, path


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in FILES)])
def test_a_browser_may_load_and_call_nothing_but_this_service(page: TestClient, path: str) -> None:
    answer = page.get(path, headers=HTML)
    policy = policy_of(answer.headers)
    assert policy["default-src"] == "'none'"
    for directive in ("script-src", "style-src", "connect-src", "worker-src"):
        assert policy[directive] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"


def test_the_page_and_its_modules_name_no_other_host() -> None:
    for file in STATIC.iterdir():
        addresses = set(re.findall(r"https?://[^\s\"'`/<]+", file.read_text()))
        # a namespace, the source of the equations, and an example in an empty field
        assert addresses <= {"http://www.w3.org", "https://coneural.org", "http://127.0.0.1:8001"}


def test_the_page_holds_no_script_and_no_style_of_its_own() -> None:
    text = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", text)


def test_the_whole_page_is_less_than_100_kilobytes_compressed(page: TestClient) -> None:
    total = 0
    for path in ("/", *(f"/page/{name}" for name in FILES)):
        answer = page.get(path, headers=HTML | {"accept-encoding": "gzip"})
        assert answer.headers["content-encoding"] == "gzip"
        total += int(answer.headers["content-length"])
    assert total < 100_000


def test_who_takes_no_gzip_gets_the_same_bytes(page: TestClient) -> None:
    plain = page.get("/page/main.js", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == (STATIC / "main.js").read_bytes()
    assert page.get("/page/main.js", headers={"accept-encoding": "gzip"}).content == plain.content


def test_a_file_that_is_known_is_not_sent_again(page: TestClient) -> None:
    first = page.get("/page/style.css")
    again = page.get("/page/style.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "name",
    ["index.html", "..%2froutes.py", "routes.py", "main.js%00", ".hidden", "MAIN.JS", "absent.js"],
)
def test_no_other_file_is_served(page: TestClient, name: str) -> None:
    assert page.get(f"/page/{name}").status_code == 404


@pytest.mark.parametrize(
    ("second", "allowed"),
    [
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000 ws://127.0.0.1:9000"),
        ("https://policy.example", "https://policy.example wss://policy.example"),
        ("http://[::1]:9000", "http://[::1]:9000 ws://[::1]:9000"),
        ("https://a.example/policy/", "https://a.example/policy/ wss://a.example/policy/"),
        ("http://a:1/teams/policy", "http://a:1/teams/policy/ ws://a:1/teams/policy/"),
    ],
)
def test_a_second_service_in_the_address_may_be_called(
    page: TestClient, second: str, allowed: str
) -> None:
    for path in ("/", "/page/worker.js"):
        answer = page.get(path, params={"compare": second}, headers=HTML)
        assert policy_of(answer.headers)["connect-src"] == f"'self' {allowed}"
        assert policy_of(answer.headers)["script-src"] == "'self'"


@pytest.mark.parametrize(
    "second",
    [
        "*",
        "http://a; script-src *",
        "http://a//b",
        "http://a/b;c",
        "http://a b",
        "//a",
        "http://a\r\nX: y",
        "",
    ],
)
def test_what_is_no_address_of_a_service_is_refused(page: TestClient, second: str) -> None:
    answer = page.get("/", params={"compare": second}, headers=HTML)
    assert answer.status_code == 400
    assert answer.json()["type"] == "urn:upright:problem:not-an-origin"


def test_the_files_of_the_bundle_are_served_by_its_digest_and_for_ever(
    page: TestClient, committed: Bundle
) -> None:
    assert committed.manifest.extra_files
    for name in committed.manifest.extra_files:
        answer = page.get(f"/model/files/{committed.digest}/{name}")
        assert answer.content == (COMMITTED / name).read_bytes()
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/model/files/sha256:0000/scores.csv",
        "/model/files/DIGEST/policy.onnx",
        "/model/files/DIGEST/manifest.json",
        "/model/files/DIGEST/..%2fmanifest.json",
        "/model/files/DIGEST/absent.png",
    ],
)
def test_nothing_else_of_the_bundle_is_served(
    page: TestClient, committed: Bundle, path: str
) -> None:
    assert page.get(path.replace("DIGEST", committed.digest)).status_code == 404


@pytest.mark.parametrize("change", ["another bundle", "link", "gone"])
def test_a_file_that_is_not_the_served_bundles_any_more_is_not_served(
    tmp_path: Path, exported: Bundle, change: str
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(COMMITTED, folder)
    served = bundle.read(folder)
    app = create_application(settings(bundle=folder), ServiceState(load(served, "onnx")))
    with TestClient(app) as client:
        path = f"/model/files/{served.digest}/scores.csv"
        assert client.get(path).status_code == 200
        (folder / "scores.csv").unlink()
        if change == "another bundle":
            shutil.copytree(exported.folder, folder, dirs_exist_ok=True)
        elif change == "link":
            (folder / "scores.csv").symlink_to(COMMITTED / "scores.csv")
        assert client.get(path).status_code == 404


def test_keys_leave_the_page_open_and_close_what_it_shows(
    tmp_path: Path, committed: Bundle
) -> None:
    file = tmp_path / "keys.toml"
    key = subprocess.run(
        [sys.executable, "-m", "service", "key", "--keys", str(file), "--scope", "act", "page"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    ).stdout.strip()  # fmt: skip
    state = ServiceState(load(committed, "onnx"), keys=load_keys(file))
    with TestClient(create_application(settings(), state)) as client:
        for path in ("/", *(f"/page/{name}" for name in FILES)):
            answer = client.get(path, headers=HTML)
            assert answer.status_code == 200
            assert committed.digest not in answer.text
        assert committed.manifest.name not in client.get("/").text

        path = f"/model/files/{committed.digest}/scores.csv"
        assert client.get(path).status_code == 401
        answer = client.get(path, headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 200
        assert answer.headers["cache-control"].startswith("private, ")
        assert client.post("/shadow/act", json={"state": [0, 0, 0, 0]}).status_code == 401


def test_paths_of_the_page_are_open_and_the_bundles_files_need_the_scope_act() -> None:
    assert endpoint_of("/").scope is None
    assert endpoint_of("/page/main.js").scope is None
    assert endpoint_of("/page/main.js/more").scope == "admin"
    assert endpoint_of("/model/files/sha256:0/scores.csv").scope == "act"
    assert endpoint_of("/shadow/act").scope == "admin"


def test_the_shadow_answers_a_state_and_counts_no_inference(
    committed: Bundle, exported: Bundle
) -> None:
    state = ServiceState(load(committed, "onnx"))
    app = create_application(settings(), state, shadow=load(exported, "onnx"))
    with TestClient(app) as client:
        before = client.get("/metrics").text
        answer = client.post("/shadow/act", json={"state": [0, 0, 0.05, 0], "seq": 3})
        assert (answer.json()["digest"], answer.json()["seq"]) == (exported.digest, 3)
        assert answer.headers["etag"] == f'"{exported.digest}"'
        assert client.post("/shadow/act", json={"state": [0]}).status_code == 422
        actions = re.compile(r"^upright_actions_total.*", re.MULTILINE)
        assert actions.findall(client.get("/metrics").text) == actions.findall(before)
        assert {"/shadow", "/shadow/act"} <= {
            each["path"] for each in client.get("/").json()["endpoints"]
        }


def test_without_a_shadow_nothing_answers_for_it(page: TestClient) -> None:
    answer = page.post("/shadow/act", json={"state": [0, 0, 0, 0]})
    assert answer.json()["type"] == "urn:upright:problem:no-shadow"
    assert "/shadow/act" not in {each["path"] for each in page.get("/").json()["endpoints"]}


def test_a_start_reads_nothing_of_the_page() -> None:
    code = (
        "from service.rest import app; from service.rest.page import routes;"
        "assert routes._read_static.cache_info().currsize == 0; print('unread')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout == "unread\n"


def test_what_is_compressed_is_the_file() -> None:
    from service.rest.page.routes import _read_static

    for name in ("index.html", *FILES):
        assert gzip.decompress(_read_static(name).compressed) == (STATIC / name).read_bytes()
