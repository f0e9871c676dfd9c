"""Balance CartPole through upright_client: a loop at 50 Hz that keeps its deadline.

pip install ./client gymnasium; python examples/balance.py [address] [steps]
"""

import sys
import time

import gymnasium
from upright_client import Decision, PolicyClient

STEP = 0.02  # seconds: the environment's own


def by_hand(state: tuple[float, ...]) -> int:
    """Return an action where the service gives none: push to where the pole leans."""
    _, _, angle, angular_velocity = state
    return int(angle + 0.3 * angular_velocity > 0)


def main(address: str, steps: int) -> int:
    """Balance for some steps; return how many of them the policy decided."""
    environment = gymnasium.make("CartPole-v1")
    state, _ = environment.reset(seed=0)
    with PolicyClient(address, deadline=STEP / 2, fallback=by_hand) as client:
        tick = time.monotonic()
        for _ in range(steps):
            decision: Decision = client.act(state)
            if decision.source == "fallback":
                print(f"the fallback decides: {decision.reason} {client.last_error}")
            state, _, terminated, truncated, _ = environment.step(decision.action)
            if terminated or truncated:
                print("the pole fell" if terminated else "500 steps: the pole stood")
                state, _ = environment.reset()
            tick += STEP
            time.sleep(max(0.0, tick - time.monotonic()))
        counters = client.counters()
    print(
        f"{counters.answers} of {steps} steps by the policy, "
        f"{counters.deadline_misses} deadlines missed"
    )
    return counters.answers


if __name__ == "__main__":
    main(
        sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000",
        int(sys.argv[2]) if len(sys.argv) > 2 else 500,
    )
