"""The tutorial's DQN: one agent in one environment."""
