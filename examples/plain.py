"""Balance CartPole without upright_client: ten lines that any HTTP library can do.

They wait as long as the network lets them.
"""

import json
import sys
import urllib.request

import gymnasium

address = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
environment = gymnasium.make("CartPole-v1")
state, _ = environment.reset(seed=0)
score, terminated, truncated = 0.0, False, False
while not (terminated or truncated):
    body = json.dumps({"state": state.tolist()}).encode()
    with urllib.request.urlopen(f"{address}/act", body, timeout=1) as answer:  # noqa: S310 - the caller's address
        action = json.load(answer)["action"]
    state, reward, terminated, truncated, _ = environment.step(action)
    score += float(reward)
print(f"score {score:.0f}")
