"""What others build on changes only where somebody meant it to."""

from tests.support import public


def test_what_is_public_is_what_the_list_says() -> None:
    assert public.FILE.read_text() == public.document(), (
        "run `make public`, and read docs/upgrade.md: does the version have to rise?"
    )
