import asyncio
import threading
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.rest.beside import run_beside
from service.rest.docs import DescribedApp
from service.state import ServiceState


def test_the_event_loop_goes_on_and_one_thread_does_one_after_the_other() -> None:
    released = threading.Event()
    done: list[str] = []

    def first() -> bool:
        was_released = released.wait(10)  # by the event loop
        done.append("first")
        return was_released

    async def run() -> bool:
        one = asyncio.create_task(run_beside(first))
        other = asyncio.create_task(run_beside(lambda: done.append("second")))
        await asyncio.sleep(0)
        released.set()
        await other
        return await one

    assert asyncio.run(run())
    assert done == ["first", "second"]


@pytest.mark.parametrize(
    ("path", "owner", "method"),
    [("/metrics", ServiceState, "exposition"), ("/openapi.json", DescribedApp, "document")],
)
def test_what_takes_long_is_made_beside_the_event_loop(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str, owner: type, method: str
) -> None:
    make, threads = getattr(owner, method), []

    def noting(self: Any) -> Any:
        threads.append(threading.current_thread().name)
        return make(self)

    monkeypatch.setattr(owner, method, noting)
    assert client.get(path).status_code == 200
    assert [name.startswith("beside") for name in threads] == [True]
