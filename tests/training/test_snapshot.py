import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.snapshot import Snapshot

NAMES = st.text("abc_.0123", min_size=1, max_size=5)
LEAVES = st.dictionaries(NAMES, st.integers())


def trees() -> st.SearchStrategy[Snapshot]:
    """Snapshots of which every part, at some depth, has a value."""
    leaf = st.builds(
        lambda numbers, count: Snapshot(
            {name: np.array([number]) for name, number in numbers.items()}, {"count": count}
        ),
        LEAVES,
        st.integers(),
    )
    return st.recursive(
        leaf,
        lambda parts: st.builds(
            lambda snapshot, children: Snapshot(snapshot.arrays, snapshot.values, children),
            leaf,
            st.dictionaries(NAMES, parts, max_size=3),
        ),
        max_leaves=8,
    )


@given(trees())
def test_a_snapshot_that_was_flattened_is_unflattened_to_the_same_tree(snapshot: Snapshot) -> None:
    flat = snapshot.flatten()
    assert flat.parts == {}
    assert flat.unflatten() == snapshot


def test_the_path_of_an_array_names_the_parts_on_the_way_to_it() -> None:
    inner = Snapshot({"states": np.zeros(2)}, {"size": 1})
    flat = Snapshot({"history": np.ones(1)}, {}, {"buffer": Snapshot(parts={"window": inner})})
    assert set(flat.flatten().arrays) == {"history", "buffer/window/states"}
    assert flat.flatten().values == {"buffer/window/size": 1}
