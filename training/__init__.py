"""The school: learns a DQN for CartPole-v1, proves it and exports it as a bundle. Knows nothing of the service."""
