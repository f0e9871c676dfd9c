"""Behind a proxy that shows the service below a path, all that it is asked for is found there."""

import re
from collections.abc import Iterator
from urllib.parse import urljoin, urlsplit

import httpx2
import pytest
from upright_client import PolicyClient

from tests.support.clients import PATIENT, STATE, InLoop, Make
from tests.support.service import Start, refused
from tests.support.stripping_proxy import stripping_proxy

PREFIX = "/teams/policy"


@pytest.fixture
def address(start: Start) -> Iterator[str]:
    """The service's address as callers of a gateway know it."""
    with start("--root-path", f"{PREFIX}/") as direct:
        port = urlsplit(direct).port
        assert port is not None
        with stripping_proxy(port, PREFIX) as address:
            yield address


def test_the_list_of_endpoints_has_addresses_that_are_answered(address: str) -> None:
    endpoints = httpx2.get(f"{address}/").json()["endpoints"]
    listed = {each["path"]: each["address"] for each in endpoints}
    assert listed["/act"] == f"{address}/act"
    assert listed["/act/stream"] == f"{address}/act/stream".replace("http", "ws")
    for each in endpoints:
        if each["method"] == "GET":
            assert httpx2.get(each["address"]).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_what_a_page_loads_is_below_the_path_too(address: str, path: str) -> None:
    text = httpx2.get(address + path, headers={"accept": "text/html"}).text
    loaded = re.findall(r'(?:src|href|url)(?:=|: ?)["\']([^"\'#]+)["\']', text)
    assert len(loaded) >= 4
    for name in loaded:
        assert httpx2.get(urljoin(address + path, name)).status_code == 200


def test_clients_of_the_openapi_document_ask_below_the_path(address: str) -> None:
    document = httpx2.get(f"{address}/openapi.json").json()
    assert document["servers"] == [{"url": PREFIX}]


@pytest.mark.parametrize("make", [PolicyClient, InLoop])
@pytest.mark.parametrize("transport", ["http", "stream"])
@pytest.mark.parametrize("end", ["", "/"])
def test_a_client_is_given_the_whole_address(
    address: str, make: Make, transport: str, end: str
) -> None:
    with make(address + end, transport=transport, deadline=PATIENT, fallback=0) as client:
        assert client.act(STATE).source == "policy"
        assert client.act_batch([STATE, STATE])[1].source == "policy"
        assert client.ready()
        assert client.model().digest.startswith("sha256:")


@pytest.mark.parametrize("path", ["policy", "/a b", "/a?b", "/a//b", "http://h/a"])
def test_what_is_no_path_is_refused_in_one_line(path: str) -> None:
    code, complaint = refused("--root-path", path)
    assert code == 2
    assert complaint.count("\n") == 1
