"""No spelling of a path gets an answer that the plain path would refuse to the same key.

The paths, the scopes and the spellings come from the table of endpoints.
"""

import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from models.bundle import Bundle
from service.auth.key_file import add_key, load_keys
from service.endpoints import ENDPOINTS, GRPC_LABEL, SCOPES, Endpoint, find_endpoint
from service.inference.loading import load
from service.state import ServiceState
from tests.support.raw_http import BothPaths, ask, both_paths, request
from tests.support.service import settings

OVER_HTTP = [endpoint for endpoint in ENDPOINTS if endpoint.label != GRPC_LABEL]
KEYS = {scope: f"upright_key-for-{scope}" for scope in SCOPES}
BODIES = {
    "/act": b'{"state":[0,0,0.05,0]}',
    "/act/batch": b'{"states":[[0,0,0.05,0]]}',
    "infer": b'{"inputs":[{"name":"state","shape":[1,4],"datatype":"FP32","data":[0,0,0,0]}]}',
}
ENDINGS = ("/", "//", "/.", ".", "%00", "%09", "%0A", "%0D", "%0D%0A", "%20", "%2F", "%3F", "%23")
TAILS = (";a=b", "%2e", "%5C", "?", "?a=/act", "/%2e%2e", "/../act", "%C2%85", "%E2%80%A8")


def plain(endpoint: Endpoint) -> str:
    return endpoint.path.format(name="cartpole-dqn", version="1", digest="sha256:0")


def spellings(path: str) -> list[str]:
    """Return other ways to write a path, most of which some server or proxy takes for the same."""
    slashes = [match.start() for match in re.finditer("/", path)]
    inside = [
        path[:place] + instead + path[place + 1 :]
        for place in slashes
        for instead in ("//", "/./", "/a/../", "/%2F", "/%2e/", "/%0A/", "/%0A")
    ]
    encoded = [path[0] + path[1:].replace("/", "%2F"), path[0] + path[1:].replace("/", "%5C")]
    return [
        *(path + ending for ending in ENDINGS + TAILS),
        *inside,
        *encoded,
        path.upper(),
        path.replace("a", "%61").replace("e", "%65"),
    ]


@pytest.fixture(scope="module")
def both(committed: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BothPaths]:
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    for scope, key in KEYS.items():
        add_key(file, scope, [scope], sha256(key.encode()).hexdigest())
    service_state = ServiceState(load(committed, "onnx"), keys=load_keys(file))
    with both_paths(settings(keys=Path(file)), service_state) as both:
        yield both


@pytest.mark.parametrize("endpoint", OVER_HTTP, ids=lambda endpoint: endpoint.path)
@pytest.mark.parametrize("key", [None, *KEYS.values()])
def test_no_spelling_of_a_path_is_answered_where_the_plain_one_is_refused(
    both: BothPaths, endpoint: Endpoint, key: str | None
) -> None:
    path = plain(endpoint)
    paths = [path, *spellings(path)]
    headers = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
    name = "infer" if path.endswith("/infer") else path

    for port in (both.fast, both.asgi):
        for method in ("GET", "POST"):
            body = BODIES.get(name, b"{}") if method == "POST" else b""
            sent = b"".join(b"".join(request(method, each, headers, [body])) for each in paths)
            statuses = [answer.status for answer in ask(port, [sent], answers=len(paths))]
            if statuses[0] >= 300:
                answered = {
                    each: status
                    for each, status in zip(paths, statuses, strict=True)
                    if status < 300
                }
                assert not answered


@pytest.mark.parametrize("endpoint", OVER_HTTP, ids=lambda endpoint: endpoint.path)
def test_a_key_of_the_scope_that_the_table_names_is_enough_and_no_other_is(
    both: BothPaths, endpoint: Endpoint
) -> None:
    for scope, key in KEYS.items():
        headers = [(b"authorization", f"Bearer {key}".encode())]
        status = ask(both.fast, request("GET", plain(endpoint), headers, []))[0].status
        assert (status in (401, 403)) is (endpoint.scope not in (None, scope))


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_a_path_is_that_of_its_own_row_and_no_other_spelling_is(endpoint: Endpoint) -> None:
    assert find_endpoint(plain(endpoint)) is endpoint
    if "{" not in endpoint.path:
        for other in ("/", "\n", " ", "//"):
            found = find_endpoint(endpoint.path + other)
            # A model's name may begin with "stats"; then the scope is the same.
            assert found is None or (found.path, found.scope) == ("/v2/models/{name}", "act")
