"""The peer: Stable-Baselines3's DQN in an environment of its own.

Trains once, runs greedy episodes, prints one JSON object. The configuration is that of RL
Baselines3 Zoo for CartPole-v1.
"""

import argparse
import json
import sys
import time
from typing import Any

STEPS = 50_000
ZOO: dict[str, Any] = {
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1_000,
    "gamma": 0.99,
    "target_update_interval": 10,
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
    "policy_kwargs": {"net_arch": [256, 256]},
}
EPISODES = 1_000
HELD_OUT = 2**31 + 2**30 + 1  # a seed that no training here uses


def main() -> None:
    """Train and evaluate one seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int)
    options = parser.parse_args()

    import gymnasium as gym
    import numpy as np
    import torch
    from stable_baselines3 import DQN

    torch.set_num_threads(1)
    started = time.perf_counter()
    model = DQN("MlpPolicy", "CartPole-v1", seed=options.seed, device="cpu", **ZOO).learn(STEPS)
    seconds = time.perf_counter() - started

    environment = gym.make_vec(
        "CartPole-v1", num_envs=EPISODES, vectorization_mode="vector_entry_point"
    )
    states, _ = environment.reset(seed=HELD_OUT)
    lasted, running = np.zeros(EPISODES), np.ones(EPISODES, np.bool_)
    while running.any():
        with torch.no_grad():
            actions = model.q_net(torch.from_numpy(states)).argmax(dim=1).numpy()
        states, _, terminated, truncated, _ = environment.step(actions)
        lasted += running
        running &= ~(terminated | truncated)
    result = {
        "training_seconds": seconds,
        "steps": STEPS,
        "mean": float(lasted.mean()),
        "success_rate": float((lasted >= 500).mean()),
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
