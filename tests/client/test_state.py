"""Whatever is no state is refused with words that say what was expected."""

import array
import decimal
import fractions
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from upright_client import PolicyClient
from upright_client.state import check_action, check_state, check_states

from tests.support.clients import InLoop, Make
from tests.support.service import free_port


class Raises:
    """Every method that a state could be asked for raises something of its own."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __len__(self) -> int:
        raise RuntimeError("length")

    def __iter__(self) -> Any:
        raise RuntimeError("iterate")

    def __float__(self) -> float:
        raise RuntimeError("float")

    def __repr__(self) -> str:
        raise RuntimeError("repr")


class LyingList(list[float]):
    """A list that says that it has four numbers, and has none."""

    def __len__(self) -> int:
        return 4


class Unprintable(list[float]):
    """A list whose own repr raises."""

    def __repr__(self) -> str:
        raise RuntimeError("repr")


NO_STATES: list[Any] = [
    None, True, 1, 1.5, 4j, "four", "1234", b"1234", bytearray(4), {}, {1: 2}, {1, 2, 3, 4},
    object(), iter([1, 2, 3, 4]), (number for number in range(4)), int, len, Raises(), LyingList(),
    Unprintable(), ..., NotImplemented, math, ["1"] * 4, [None] * 4, [[1.0]] * 4, [1j] * 4,
    [True] * 4, [np.True_] * 4, [np.complex64(1)] * 4, [Raises()] * 4, [10**5_000] * 4,
    [np.array([1.0])] * 4, [np.datetime64("2020")] * 4, [decimal.Decimal("nan")] * 4,
    [decimal.Decimal("1e400")] * 4, [fractions.Fraction(10**400)] * 4, [math.nan] * 4,
    [float("inf")] * 4, [1e39] * 4, np.zeros(3), np.zeros((2, 4)), np.float64(1), np.array("abcd"),
    np.array(["a"] * 4), np.array([None] * 4), np.zeros(4, complex), np.zeros(4, bool), (),
    [0.0] * 5, [0.0] * 1_000_000, memoryview(b"1234").cast("c"),
]  # fmt: skip


@pytest.fixture(params=["threads", "asyncio"])
def make(request: pytest.FixtureRequest) -> Make:
    return PolicyClient if request.param == "threads" else InLoop


@pytest.mark.parametrize("number", range(len(NO_STATES)))  # pytest would ask the values themselves
def test_what_is_no_state_is_refused_by_name(number: int) -> None:
    value = NO_STATES[number]
    with pytest.raises((TypeError, ValueError), match="state") as caught:
        check_state(value)
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("value", [None, 1, object(), "abcd", [None], {}, [1.0] * 4])
def test_what_are_no_states_is_refused_by_name(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="state"):
        check_states(value)


def test_a_call_raises_for_what_is_no_state(make: Make) -> None:
    with make(f"http://127.0.0.1:{free_port()}", fallback=0) as client:
        with pytest.raises(TypeError, match="4 numbers, not None"):
            client.act(None)
        with pytest.raises(TypeError, match="sequence of states"):
            client.act_batch(None)  # type: ignore[arg-type] # that is the mistake
        for deadline in (math.nan, 0, -1, "soon", True):
            with pytest.raises((TypeError, ValueError), match="deadline"):
                client.act_batch([(0.0,) * 4], deadline=deadline)  # type: ignore[arg-type] # as above
        assert client.counters().fallbacks == {}


@pytest.mark.parametrize(
    "state",
    [
        (1, 2, 3, 4),
        [1.0, 2.0, 3.0, 4.0],
        range(1, 5),
        np.array([1, 2, 3, 4]),
        np.array([1, 2, 3, 4], np.float16),
        np.arange(1, 9)[:4],
        array.array("d", [1, 2, 3, 4]),
        memoryview(array.array("f", [1, 2, 3, 4])),
        [np.int8(1), np.float32(2), np.array(3.0), decimal.Decimal(4)],
    ],
    ids=lambda state: type(state).__name__,
)
def test_any_sequence_or_array_of_four_numbers_is_a_state(state: Any) -> None:
    assert check_state(state) == (1.0, 2.0, 3.0, 4.0)
    assert check_states([state, state]) == [(1.0, 2.0, 3.0, 4.0)] * 2


def test_an_array_of_states_is_several_states() -> None:
    assert check_states(np.ones((3, 4))) == [(1.0,) * 4] * 3


@pytest.mark.parametrize("action", [None, "left", 1.0, True, np.zeros(2)])
def test_what_is_no_action_is_refused(action: Any) -> None:
    with pytest.raises(TypeError, match="whole number"):
        check_action(action)


ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.binary(),
        st.complex_numbers(),
    ),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner, inner, inner) | st.dictionaries(st.text(), inner)
    ),
)


@given(ANYTHING)
def test_any_value_is_a_state_or_is_refused(value: Any) -> None:
    try:
        numbers = check_state(value)
    except (TypeError, ValueError):
        return
    assert len(numbers) == 4
    assert all(type(number) is float and math.isfinite(number) for number in numbers)
