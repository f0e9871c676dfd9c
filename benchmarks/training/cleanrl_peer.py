"""The peer: CleanRL's published DQN configuration for CartPole-v1.

It is run in a plain loop of our own, since CleanRL is no package to install. Its values: 500,000
steps; one environment; hidden layers of 120 and 84; learning rate 2.5e-4; buffer size 10,000; batch
size 128; an update every 10 steps from step 10,000 on; target network replaced every 500 steps;
γ 0.99; ε from 1 to 0.05 over the first half; squared error. Prints one JSON object.
"""

import argparse
import json
import sys
import time

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from training.dqn.replay_buffer import ReplayBuffer
from training.evaluation.episodes import run_episodes
from training.types import Float32Array

STEPS = 500_000
LEARNING_STARTS, TRAIN_FREQUENCY, TARGET_FREQUENCY = 10_000, 10, 500


def main() -> None:
    """Train and evaluate one seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("episodes", type=int)
    parser.add_argument("held_out", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    started = time.perf_counter()
    network = train(options.seed)
    seconds = time.perf_counter() - started

    def q_values(states: Float32Array) -> Float32Array:
        with torch.no_grad():
            result: Float32Array = network(torch.from_numpy(states)).numpy()
        return result

    lasted = run_episodes(q_values, episodes=options.episodes, seed=options.held_out).steps
    result = {
        "training_seconds": seconds,
        "steps": STEPS,
        "mean": float(lasted.mean()),
        "success_rate": float((lasted >= 500).mean()),
    }
    sys.stdout.write(json.dumps(result) + "\n")


def train(seed: int, steps: int = STEPS) -> nn.Module:
    """Return the final network."""
    rng = np.random.default_rng(seed)
    network, target = (
        nn.Sequential(nn.Linear(4, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 2))
        for _ in range(2)
    )
    target.load_state_dict(network.state_dict())
    optimiser = torch.optim.Adam(network.parameters(), lr=2.5e-4)
    buffer = ReplayBuffer(10_000)
    environment = gym.make("CartPole-v1", disable_env_checker=True)
    state, _ = environment.reset(seed=seed)
    for step in range(steps):
        epsilon = max(0.05, 1 - 0.95 * step / (steps / 2))
        if rng.random() < epsilon:
            action = int(rng.integers(2))
        else:
            with torch.no_grad():
                action = int(network(torch.from_numpy(state)).argmax())
        next_state, reward, terminated, truncated, _ = environment.step(action)
        buffer.add(state, action, float(reward), next_state, terminal=terminated)
        state = environment.reset()[0] if terminated or truncated else next_state
        if step > LEARNING_STARTS and step % TRAIN_FREQUENCY == 0:
            batch = buffer.sample(rng, 128)
            with torch.no_grad():
                best = target(torch.from_numpy(batch.next_states)).max(dim=1).values
                goal = torch.from_numpy(batch.rewards) + 0.99 * best * (
                    1 - torch.from_numpy(batch.terminal)
                )
            taken = (
                network(torch.from_numpy(batch.states))
                .gather(1, torch.from_numpy(batch.actions).unsqueeze(1))
                .squeeze(1)
            )
            optimiser.zero_grad()
            loss = nn.functional.mse_loss(taken, goal)
            loss.backward()  # type: ignore[no-untyped-call] # torch declares no types for it
            optimiser.step()
        if step > LEARNING_STARTS and step % TARGET_FREQUENCY == 0:
            target.load_state_dict(network.state_dict())
    return network


if __name__ == "__main__":
    main()
