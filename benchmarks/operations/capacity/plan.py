"""From what a core was measured to hold to what a number of loops needs."""

import math

LOSS_MARGIN = 0.8  # of what a core holds, that it is asked for while one process is lost
FIBRE_KM_PER_SECOND = 200_000.0  # light in glass, two thirds of its speed in a vacuum
MEMORY_GB = 0.25  # the chart's limit for a pod

# AWS Fargate, Linux on x86, us-east-1, as published in June 2026
# (https://aws.amazon.com/fargate/pricing/): dollars an hour.
DOLLARS_PER_CORE = 0.04048
DOLLARS_PER_GB = 0.004445
HOURS_A_MONTH = 730


def wait_quantile(service_seconds: float, utilization: float, share: float) -> float:
    """Return the seconds of waiting that a share of the requests does not exceed.

    An estimate for a queue with one server, requests at moments of chance and a service time that
    is always the same (M/D/1). The probability of a wait above t service times falls off as
    C·exp(-θt), where θ is the positive root of ρ(exp(θ) - 1) = θ and C is (1 - ρ) / (ρ·exp(θ) - 1)
    (Cramér-Lundberg; ρ is the utilization).
    """
    if utilization <= 1 - share:
        return 0.0
    if utilization >= 1:
        return math.inf
    below, above = 1e-9, 50.0
    for _ in range(100):
        middle = (below + above) / 2
        if utilization * math.expm1(middle) < middle:
            below = middle
        else:
            above = middle
    factor = (1 - utilization) / (utilization * math.exp(below) - 1)
    return max(0.0, service_seconds * math.log(factor / (1 - share)) / below)


def processes(states_per_second: float, per_core: float) -> int:
    """Return how many processes answer a load, also while one of them is lost."""
    return max(2, math.ceil(states_per_second / (LOSS_MARGIN * per_core)) + 1)


def distance_km(deadline: float, answer_seconds: float) -> float:
    """Return how far a service can be at most, by light in glass there and back, in km."""
    return max(0.0, deadline - answer_seconds) / 2 * FIBRE_KM_PER_SECOND


def dollars_a_month(count: int) -> float:
    """Return what so many pods of one core cost."""
    return count * HOURS_A_MONTH * (DOLLARS_PER_CORE + MEMORY_GB * DOLLARS_PER_GB)
