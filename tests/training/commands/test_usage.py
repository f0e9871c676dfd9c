"""What is wrong with a command is told in one line, with what was probably meant."""

import pytest

from training.__main__ import main
from training.commands import usage


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("", "missing: one of train, evaluate, export"),
        ("trian", "there is no 'trian'; did you mean train? (python -m training has train,"),
        ("train robst --out x", "there is no 'robst'; did you mean robust?"),
        ("train", "missing: --out FOLDER (see python -m training train robust --help)"),
        ("train --outt x", "--outt is no flag; did you mean --out?"),
        ("train --out", "--out needs a value: --out FOLDER"),
        ("train quick --out x --seed", "--seed needs a value: --seed N"),
        ("train quick --out x --seed one", "--seed: must be a whole number, not 'one'"),
        ("train quick --out x --gamma x", "--gamma: must be a number, not 'x'"),
        (
            "train quick --out x --batchsize=3",
            "--batchsize is no flag; did you mean --batch-size?",
        ),
        (
            "train quick --out x --domain-randomisation.noise 1",
            "did you mean --domain-randomization.noise?",
        ),
        (
            "train quick --out x --device gpu",
            "--device: must be one of auto, cpu, cuda, not 'gpu'",
        ),
        ("train quick --out x --json true", "--json takes no value: it is on where it is given"),
        ("train quick --out x --no-json", "--no-json is no flag; did you mean --json?"),
        ("train quick more --out x", "'more' is a word too many"),
        ("train --out x --resume --restart", "--resume and --restart do not go together"),
        ("evaluate", "missing: FOLDER (see python -m training evaluate --help)"),
        ("evaluate x --episode 3", "--episode is no flag; did you mean --episodes?"),
        ("export", "missing: FOLDER, --out FOLDER"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    words: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    shown = capsys.readouterr()
    assert ended.value.code == 2
    assert shown.out == ""
    assert shown.err.startswith("python -m training: ")
    assert shown.err.count("\n") == 1
    assert text in shown.err


def test_nothing_is_guessed_that_is_not_alike() -> None:
    assert usage.nearest("--version", ["--drain", "--resume"]) == ""
