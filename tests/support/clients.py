"""Both clients behind one interface, so that one test covers both."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, Self, TypeVar

import uvloop
from upright_client import AsyncPolicyClient, Counters, Decision, Model

STATE = (0.0, 0.0, 0.05, 0.0)


PATIENT = 2.0  # seconds: a deadline that a loaded machine meets


SHORT = 0.1  # seconds: a deadline that is meant to pass


T = TypeVar("T")


class Client(Protocol):
    def act(self, state: Any) -> Decision: ...
    def act_batch(
        self, states: Sequence[Any], *, deadline: float | None = None
    ) -> list[Decision]: ...
    def model(self) -> Model: ...
    def ready(self) -> bool: ...
    def counters(self) -> Counters: ...
    @property
    def last_error(self) -> str: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: Any) -> None: ...


class InLoop:
    """An `AsyncPolicyClient` in an event loop of its own, called as if it were the other one."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._loop = self._new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        try:
            self._client = AsyncPolicyClient(*arguments, **options)
        except BaseException:
            self._end()
            raise

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    def act(self, state: Any) -> Decision:
        return self._run(self._client.act(state))

    def act_batch(self, states: Sequence[Any], *, deadline: float | None = None) -> list[Decision]:
        return self._run(self._client.act_batch(states, deadline=deadline))

    def model(self) -> Model:
        return self._run(self._client.model())

    def ready(self) -> bool:
        return self._run(self._client.ready())

    def counters(self) -> Counters:
        return self._client.counters()

    @property
    def last_error(self) -> str:
        return self._client.last_error

    def close(self) -> None:
        self._run(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._end()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


class InUvloop(InLoop):
    """The same in an event loop of uvloop, whose transports are of no class of asyncio."""

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop()


Make = Callable[..., Client]
