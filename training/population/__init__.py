"""K DQN agents that learn side by side in stacked tensors."""
