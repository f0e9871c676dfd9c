"""What `benchmarks.operations.capacity` concludes from its measurements, and that it measures."""

import random

import pytest

from benchmarks.operations.capacity import plan
from benchmarks.operations.capacity.loops import Transport, run_loops
from tests.support.service import free_port, service


def test_one_process_more_than_the_load_needs_since_one_may_be_lost() -> None:
    # 100,000 states a second; 20,000 a core, of which 80 % are used: seven, and one more.
    assert plan.processes(100_000, 20_000) == 8
    assert plan.processes(1, 20_000) == 2


def test_light_goes_there_and_back_within_what_the_answer_leaves() -> None:
    assert plan.distance_km(deadline=0.010, answer_seconds=0.004) == pytest.approx(600)
    assert plan.distance_km(deadline=0.010, answer_seconds=0.020) == 0


@pytest.mark.parametrize("utilization", [0.3, 0.5, 0.8, 0.9, 0.95])
def test_the_estimated_wait_is_that_of_a_simulated_queue(utilization: float) -> None:
    rng = random.Random(1)  # noqa: S311 - a simulation
    wait, waits = 0.0, []
    for _ in range(400_000):  # Lindley's recursion, with a service time of 1
        waits.append(wait)
        wait = max(0.0, wait + 1 - rng.expovariate(utilization))
    simulated = sorted(waits)[int(0.99 * len(waits))]
    assert plan.wait_quantile(1.0, utilization, 0.99) == pytest.approx(simulated, rel=0.25)


@pytest.mark.parametrize("transport", ["http", "stream"])
def test_every_step_of_every_loop_is_counted(transport: Transport) -> None:
    port = free_port()
    with service(port):
        seen = run_loops(port, 4, 25.0, 0.4, transport)
    assert seen.steps == 40
    assert len(seen.seconds) + seen.skipped == 40
    assert seen.wrong == 0
