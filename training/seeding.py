"""Seeds: which numbers may seed what, so that no policy is ever judged on what it has seen or was chosen by."""

TRAINING = range(2**31)
VALIDATION = range(2**31, 2**31 + 2**30)  # what training itself selects by
EXAM = range(2**31 + 2**30, 2**32)  # what an exported file is judged by


def check(seed: int, allowed: range, purpose: str) -> int:
    """Return the seed. Raises `ValueError` when it is kept for something else."""
    if seed not in allowed:
        raise ValueError(
            f"seed: {seed} is not one for {purpose}; those lie in {allowed.start} … {allowed.stop - 1}"
        )
    return seed
