"""The pages: /docs loads nothing from elsewhere and runs nothing else; and which pages elsewhere may call the service."""

import base64
import re
from collections.abc import Iterator
from hashlib import sha256

import pytest
from starlette.testclient import TestClient

from models import bundle
from service.endpoints import endpoint_of
from service.inference.loading import load
from service.server.application import create_application
from service.state import ServiceState
from tests.support.project import COMMITTED
from tests.support.raw_http import BothPaths, Headers, ask, both_paths, request
from tests.support.service import refused, settings

POLICY = load(bundle.read(COMMITTED), "onnx")
BODY = b'{"state":[0,0,0.05,0]}'
ORIGIN, ANOTHER = "https://board.example", "http://localhost:5173"
ALLOWED: Headers = [(b"origin", ORIGIN.encode())]
STRANGER: Headers = [(b"origin", b"https://stranger.example")]


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(create_application(settings(), ServiceState(POLICY))) as client:
        yield client


def test_docs_is_a_page_that_loads_all_it_needs_from_here(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "://" not in page.text
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert len(loaded) == 3
    for path in loaded:
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        kind = {"js": "text/javascript", "css": "text/css", "png": "image/png"}[
            path.rpartition(".")[2]
        ]
        assert answer.headers["content-type"].partition(";")[0] == kind
        assert len(answer.content) == int(answer.headers["content-length"]) > 500
    assert "SwaggerUIBundle" in client.get(loaded[2]).text


def test_a_browser_may_run_nothing_on_the_page_but_what_is_here(client: TestClient) -> None:
    page = client.get("/docs")
    policy = dict(
        part.split(" ", 1) for part in page.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert (
        policy["script-src"]
        == f"'self' 'sha256-{base64.b64encode(sha256(script.encode()).digest()).decode()}'"
    )
    assert policy["frame-ancestors"] == "'none'"
    assert "http" not in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"


def test_the_description_says_what_each_door_asks_of_a_key(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            scope = endpoint_of(path).scope
            assert operation.get("security") == (None if scope is None else [{}, {"key": [scope]}])
            assert ("401" in operation["responses"]) is (scope is not None)


@pytest.fixture(scope="module")
def both() -> Iterator[BothPaths]:
    with both_paths(
        settings(cors_origin=[ORIGIN, ANOTHER], max_batch=2), ServiceState(POLICY)
    ) as both:
        yield both


@pytest.mark.parametrize("path", ["/act", "/act/batch"])
@pytest.mark.parametrize("headers", [[], ALLOWED, STRANGER, [(b"Origin", ANOTHER.encode())]])
@pytest.mark.parametrize("body", [BODY, b'{"states":[[0,0,0.05,0]]}', b"{"])
def test_no_byte_differs_between_the_lanes_when_pages_may_call(
    both: BothPaths, path: str, headers: Headers, body: bytes
) -> None:
    sent = request("POST", path, headers, [body])
    fast, general = ask(both.fast, sent), ask(both.asgi, sent)
    assert fast == general
    assert b"Origin" in fast[0]["vary"]
    named = dict(fast[0].headers).get(b"access-control-allow-origin")
    assert named == (None if headers in ([], STRANGER) else headers[0][1])


def test_a_page_that_is_named_may_ask_before_it_calls_and_another_may_not(both: BothPaths) -> None:
    question: Headers = [
        (b"access-control-request-method", b"POST"),
        (b"access-control-request-headers", b"authorization, if-match"),
    ]
    answer = ask(both.fast, request("OPTIONS", "/act", ALLOWED + question, []))[0]
    assert (answer.status, answer["access-control-allow-origin"]) == (200, ORIGIN.encode())
    assert b"Authorization" in answer["access-control-allow-headers"]
    answer = ask(both.fast, request("OPTIONS", "/act", STRANGER + question, []))[0]
    assert answer.status == 400
    assert b"access-control-allow-origin" not in dict(answer.headers)


def test_no_page_may_call_unless_it_is_named() -> None:
    with both_paths(settings(), ServiceState(POLICY)) as both:
        for sent in (
            request("POST", "/act", ALLOWED, [BODY]),
            request("OPTIONS", "/act", ALLOWED, []),
        ):
            answer = ask(both.fast, sent)[0]
            assert not [
                name
                for name, _ in answer.headers
                if name.startswith(b"access-control") or name == b"vary"
            ]


@pytest.mark.parametrize(
    "origin",
    ["*", "board.example", "https://board.example/", "https://user@board.example", "null", ""],
)
def test_an_origin_that_no_browser_sends_is_refused_by_name(origin: str) -> None:
    code, complaint = refused("--cors-origin", origin)
    assert (code, complaint.count("\n")) == (2, 1)
    assert "--cors-origin" in complaint


def test_origins_come_from_the_environment_too() -> None:
    code, complaint = refused(environment={"UPRIGHT_CORS_ORIGIN": f"{ORIGIN},*"})
    assert code == 2
    assert "cors-origin" in complaint
