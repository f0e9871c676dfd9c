"""Recipes that train in a second."""

from training.recipes import AnyRecipe, recipe


def small_robust(*, eval_frequency: int) -> AnyRecipe:
    """Return `robust` cut to 200 steps of three agents, with a check each `eval_frequency`."""
    return recipe(
        "robust",
        {
            "agents": 3,
            "num_envs": 8,
            "steps": 1_600,
            "eval_frequency": eval_frequency,
            "buffer_size": 5_000,
            "learning_starts": 200,
        },
    )
