"""Find the starts of the scenario `recovery`, certify each, and write the file that holds them.

python -m benchmarks.training.recovery (a few seconds on one core)
"""

import numpy as np

from training.envs.plant import STANDARD
from training.evaluation.recovery import FILE, SEEDS, find_starts, judge_map, replay, saves
from training.types import Array


def main() -> None:
    """Write the file, and print what share of the box can be saved and is lost."""
    arrays: dict[str, Array] = {}
    for purpose, seed in SEEDS.items():
        found = find_starts(STANDARD, seed)
        if not saves(replay(STANDARD, found), found.starts).all():
            raise SystemExit("a plan of the search does not save its start in Gymnasium's plant")

        arrays[f"{purpose}_starts"] = found.starts.astype(np.float32)
        arrays[f"{purpose}_plans"] = found.plans.astype(np.uint8)
        arrays[f"{purpose}_counts"] = np.array((found.drawn, found.saved, found.lost))
        print(
            f"{purpose}: of {found.drawn:,} starts {found.saved / found.drawn:.1%} can be saved,"
            f" {found.lost / found.drawn:.1%} are proven to be lost"
        )

    verdicts = judge_map(STANDARD)
    np.savez_compressed(FILE, **arrays, map=verdicts.astype(np.uint8))  # type: ignore[arg-type] # NumPy's stub takes the names for its own flag
    print(f"wrote {FILE.name}, {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
