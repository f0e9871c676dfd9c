"""Writes files with Stable-Baselines3, in an environment of its own, for `imports` to import.

    python sb3_files.py FOLDER

Beside the archive of a DQN lie the Q-values of its network in some states; the other files are what
an import must refuse.
"""

import argparse
from pathlib import Path

from sb3_peer import STEPS, ZOO  # type: ignore[import-not-found] # it lies beside this script


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    import gymnasium as gym
    import numpy as np
    import torch
    from stable_baselines3 import DQN, PPO
    from stable_baselines3.common.envs import FakeImageEnv

    torch.set_num_threads(1)
    folder: Path = options.folder
    model = DQN("MlpPolicy", "CartPole-v1", seed=options.seed, device="cpu", **ZOO).learn(STEPS)
    model.save(folder / "sb3-dqn.zip")
    torch.save(model.policy.state_dict(), folder / "sb3-dqn-state-dict.pth")
    states = np.random.default_rng(0).normal(size=(1_000, 4)).astype(np.float32)
    with torch.no_grad():
        q_values = model.q_net(torch.from_numpy(states)).numpy()
    np.savez(folder / "sb3-dqn.npz", states=states, q_values=q_values)

    torch.save(model.policy, folder / "refused-whole-policy.pth")
    model.save_replay_buffer(folder / "refused-replay-buffer.pkl")
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(folder / "refused-ppo.zip")
    DQN("MlpPolicy", "Acrobot-v1", device="cpu").save(folder / "refused-six-values.zip")
    tanh = {"activation_fn": torch.nn.Tanh}
    DQN("MlpPolicy", "CartPole-v1", device="cpu", policy_kwargs=tanh).save(
        folder / "refused-tanh.zip"
    )
    images: gym.Env[object, object] = FakeImageEnv(2, 64, 64, n_channels=3)
    DQN("CnnPolicy", images, device="cpu", buffer_size=100).save(folder / "refused-images.zip")


if __name__ == "__main__":
    main()
