"""The confidence interval that stands with every success rate."""

import math

Z = 1.959963984540054  # of 95 %


def wilson(rate: float, episodes: int) -> tuple[float, float]:
    """Return the 95 % interval of a success rate: Wilson 1927, "Probable Inference"."""
    scale = 1 + Z**2 / episodes
    centre = rate + Z**2 / (2 * episodes)
    spread = Z * math.sqrt(rate * (1 - rate) / episodes + Z**2 / (4 * episodes**2))
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def with_interval(rate: float, episodes: int) -> str:
    """Return a success rate as tables show it, such as `0.985 [0.968, 0.993]`."""
    low, high = wilson(rate, episodes)
    return f"{rate:.4g} [{low:.3f}, {high:.3f}]"
