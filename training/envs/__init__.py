"""CartPole as many environments side by side, each episode under plant parameters of its own."""
