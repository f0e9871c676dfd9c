import errno
import json
import os
import re
import resource
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models import bundle, files
from models.manifest import MANIFEST, Plant
from tests.support.project import COMMITTED, ROOT
from tests.support.service import Start, clean_environment, run_program
from training.__main__ import main
from training.checkpoints import Checkpoints, Identity
from training.commands.command_line import TrainCommand, parse
from training.evaluation import recovery
from training.export import formats
from training.export.model_card import model_card
from training.loggers import TensorBoardLogger
from training.network import DQNetwork
from training.recipes import recipe
from training.seeding import EVALUATION_SEEDS
from training.train import train
from training.trainer import Progress


def test_a_short_training_goes_all_the_way_to_an_answer(tmp_path: Path, start: Start) -> None:
    """Train, evaluate, export, start the service on the result, ask it."""
    out, run = tmp_path / "small", tmp_path / "run"
    short = [
        "baseline",
        "--seed",
        "3",
        "--stop-mean",
        "20",
        "--hidden",
        "16",
        "8",
    ]
    assert main(["train", *short, "--out", str(out), "--run", str(run)]) == 0
    made = bundle.read(out)
    assert made.manifest.network.hidden == (16, 8)
    assert made.manifest.provenance.hyperparameters["stop_mean"] == 20
    with start("--bundle", str(out)) as address:
        answer = httpx2.post(f"{address}/act", json={"state": [0, 0, 0.05, 0]})
    assert answer.status_code == 200
    assert answer.json()["digest"] == made.digest
    assert len(answer.json()["q_values"]) == 2
    assert {entry.name for entry in out.iterdir()} == {
        MANIFEST,
        "policy.onnx",
        "policy.pt",
        *made.manifest.extra_files,
    }
    assert set(made.manifest.extra_files) == {
        "README.md",
        "scores.csv",
        "scores.png",
        "robustness.png",
        "recovery.png",
        "surface.png",
        "policy.gif",
    }
    assert (made.manifest.gate.name, made.manifest.gate.passed) == ("tutorial", True)
    card = (out / "README.md").read_text().splitlines()
    assert "a mean above 20.0 steps" in card[2]  # before anything else it says what it is worth
    assert "that promises no more. 0.0% of 1,000 greedy episodes" in card[2]


def test_a_policy_that_fails_its_gate_is_not_exported_unless_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, run = tmp_path / "small", tmp_path / "run"
    assert (
        main(
            [
                "train",
                "baseline",
                "--episodes",
                "15",
                "--out",
                str(out),
                "--run",
                str(run),
            ]
        )
        == 1
    )
    assert not out.exists()
    text = told(capsys)
    assert (
        "does not pass the gate tutorial: training did not stop by the tutorial's rule, but: limit"
        in text
    )
    # What is said to do next does what it says.
    next_steps = re.search(r"Another --seed may pass; python -m training (export .* --force)", text)
    assert next_steps is not None
    assert f"python -m training evaluate {out}" in text
    assert main(shlex.split(next_steps[1])) == 0
    manifest = bundle.read(out).manifest
    assert manifest.provenance.stopped == "limit"
    assert not manifest.gate.passed
    assert "limit" in manifest.gate.failures[0]
    assert main(["evaluate", str(out), "--episodes", "10"]) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--learning-rate", "-1"], "--learning-rate"),
        (["baseline", "--batch-size", "5000"], "--batch-size"),
        (["baseline", "--tau", "0.1"], "--tau"),
        (["--epsilon-end", "0.9", "--epsilon-start", "0.1"], "above --epsilon-start"),
        (["--domain-randomization.noise", "-1"], "--domain-randomization.noise"),
        (["--checkpoint-every", "0"], "--checkpoint-every"),
        (["--gamma", "2"], "--gamma"),
        (["--hidden", "24", "x"], "--hidden"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(2**31)], "--seed"),
        (["miracle"], "miracle"),
        (["--device", "abacus"], "--device"),
        (["--model-version", "1 2"], "--model-version"),
        (["--name", "My Policy"], "--name"),
        (["--resume", "--restart"], "--restart"),
    ],
)
def test_wrong_words_are_refused_by_name_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", *arguments, "--out", str(tmp_path / "b")])
    assert ended.value.code == 2
    assert named in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--out", "My Policy"], "My Policy"),
        (["--out", "."], "folder that you are in"),
        (["--out", "/etc/hostname/x"], "no folder can be made"),
        (["--out", "p", "--run", "p"], "two folders"),
        (["--out", "p", "--run", "/proc/nope"], "cannot be written"),
    ],
)
def test_a_bundle_that_could_not_be_written_is_refused_before_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "baseline", *arguments]) == 1
    assert named in " ".join(capsys.readouterr().err.split())


def test_a_place_that_is_taken_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "note.txt").write_text("mine")
    assert main(["train", "--out", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["note.txt"]


def test_a_bundle_that_cannot_be_replaced_in_one_step_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def not_here(*_: Path) -> None:  # as on NFS
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    out, run = tmp_path / "b", tmp_path / "run"
    shutil.copytree(COMMITTED, out)
    monkeypatch.setattr(files, "exchange_folders", not_here)
    assert main(["train", "baseline", "--out", str(out), "--run", str(run)]) == 1
    assert f"{out}: the bundle there cannot be replaced in one step" in told(capsys)
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]


def test_a_run_whose_bundle_cannot_be_written_is_kept_and_named_with_what_finishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = tmp_path / "a run"
    words = ["baseline", "--stop-mean", "20", "--run", str(run), "--out", str(tmp_path / "b")]
    with monkeypatch.context() as disk:
        disk.setattr(files, "move_folder", full)
        assert main(["train", *words]) == 1
    text = told(capsys)
    assert "No space left on device" in text
    command = re.search(r"python -m training (export .* --out FOLDER) finishes it", text)
    assert command is not None
    assert [entry.name for entry in tmp_path.iterdir()] == ["a run"]
    assert main(shlex.split(command[1].replace("FOLDER", str(tmp_path / "b")))) == 0
    assert bundle.read(tmp_path / "b").manifest.name == "b"


def run(shell: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command below what the shell's line sets up."""
    return run_program(*words, program=("-m", "training"), shell=shell)


def training_words(folder: Path) -> list[str]:
    place = ("--run", str(folder / "run"), "--out", str(folder / "made" / "bundle"))
    return ["train", "baseline", "--stop-mean", "20", *place]


def test_a_checkpoint_that_finds_no_room_loses_no_bundle_that_finds_some(tmp_path: Path) -> None:
    trained = run('ulimit -f 400; exec "$@"', *training_words(tmp_path))
    assert trained.returncode == 0, trained.stderr
    assert trained.stderr == (
        f"{tmp_path / 'run'}: a checkpoint cannot be written (File too large);"
        " there was none before it\n"
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    assert bundle.read(tmp_path / "made" / "bundle").manifest.gate.passed


def test_a_bundle_without_room_whose_run_could_not_be_kept_either_promises_nothing(
    tmp_path: Path,
) -> None:
    trained = run('ulimit -f 20; exec "$@"', *training_words(tmp_path))
    assert trained.returncode == 1
    assert f"{tmp_path / 'run'}: a checkpoint cannot be written (File too large)" in trained.stderr
    assert f"{tmp_path / 'made' / 'bundle'}: cannot be written (File too large)" in trained.stderr
    assert "is kept" not in trained.stderr
    assert "Traceback" not in trained.stderr
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]


@pytest.mark.parametrize(
    ("shell", "reason"),
    [
        ('exec "$@" >/dev/full', "standard output cannot be written (No space left on device)"),
        ('exec "$@" >&-', "standard output is closed"),
    ],
)
def test_a_standard_output_that_takes_no_text_loses_no_work(
    tmp_path: Path, shell: str, reason: str
) -> None:
    trained = run(shell, *training_words(tmp_path))
    assert trained.returncode == 3
    assert trained.stderr == f"{reason}; what would stand there is lost, and nothing else\n"
    assert bundle.read(tmp_path / "made" / "bundle").manifest.gate.passed

    again = ("export", str(tmp_path / "run"), "--out", str(tmp_path / "again"))
    exported = run(shell, *again)
    assert (exported.returncode, exported.stderr) == (trained.returncode, trained.stderr)
    assert bundle.read(tmp_path / "again").manifest.gate.passed

    evaluated = run(shell, "evaluate", str(tmp_path / "again"), "--episodes", "10")
    assert (evaluated.returncode, evaluated.stderr) == (trained.returncode, trained.stderr)


def test_a_standard_error_that_takes_no_text_loses_no_work_either(tmp_path: Path) -> None:
    trained = run('exec "$@" >/dev/full 2>/dev/full', *training_words(tmp_path))
    assert trained.returncode not in (0, 1)  # 3, or Python's own for a stream that it cannot flush
    assert bundle.read(tmp_path / "made" / "bundle").manifest.gate.passed


def test_a_reader_that_leaves_is_no_failure() -> None:
    evaluated = run('"$@" | head -n 1', "evaluate", str(COMMITTED), "--episodes", "10")
    assert evaluated.stdout == "stage 10 greedy episodes\n"
    assert evaluated.stderr == ""


def test_a_help_that_nobody_gets_is_told_in_one_line() -> None:
    helped = run('exec "$@" >/dev/full', "train", "--help")
    assert helped.returncode == 3
    assert helped.stderr == (
        "python -m training: standard output cannot be written (No space left on device)\n"
    )


def test_the_folders_above_a_bundle_can_be_entered_whatever_the_umask(tmp_path: Path) -> None:
    assert run('umask 077; exec "$@"', *training_words(tmp_path)).returncode == 0
    for folder in (tmp_path / "made", tmp_path / "made" / "bundle"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700  # nobody else needs it


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """Return standard error, as it was before the terminal's width broke it into lines."""
    return " ".join(capsys.readouterr().err.split())


def test_an_evaluation_is_written_anew_and_the_policy_stays(tmp_path: Path) -> None:
    folder = shutil.copytree(COMMITTED, tmp_path / "policy")
    before = bundle.read(folder)
    words = ["--episodes", "30", "--seed", str(EVALUATION_SEEDS[5]), "--update"]
    assert main(["evaluate", str(folder), *words]) == 0

    after = bundle.read(folder)
    assert after.artifacts == before.artifacts
    assert after.digest != before.digest
    assert after.manifest.evaluation.episodes == 30
    assert after.manifest.evaluation.seed == EVALUATION_SEEDS[5]
    assert after.manifest.golden_states == before.manifest.golden_states
    assert (folder / "README.md").read_bytes() == model_card(after.manifest)
    assert (folder / "scores.csv").read_bytes() == (COMMITTED / "scores.csv").read_bytes()
    assert set(after.manifest.extra_files) == set(before.manifest.extra_files)


def test_an_evaluation_is_not_written_into_a_folder_that_holds_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(COMMITTED, tmp_path / "policy")
    (folder / "notes.txt").write_text("mine")
    before = (folder / "manifest.json").read_bytes()
    assert main(["evaluate", str(folder), "--episodes", "5", "--update"]) == 1
    assert "notes.txt" in told(capsys)
    assert (folder / "manifest.json").read_bytes() == before


def test_evaluate_measures_the_file_on_episodes_and_seed_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        main(
            [
                "evaluate",
                str(COMMITTED),
                "--episodes",
                "30",
                "--seed",
                str(EVALUATION_SEEDS[5]),
                "--json",
            ]
        )
        == 0
    )
    result = json.loads(capsys.readouterr().out)  # one object, without the stages
    assert result["evaluation"]["episodes"] == 30
    assert result["evaluation"]["seed"] == result["robustness"]["seed"] == EVALUATION_SEEDS[5]
    assert result["gate"]["passed"]
    assert result["bundle"] == bundle.read(COMMITTED).digest


def test_evaluate_and_export_name_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(tmp_path / "nothing")]) == 1
    assert "nothing" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "norun"), "--out", str(tmp_path / "b")]) == 1
    assert "norun" in capsys.readouterr().err


def test_ctrl_c_ends_cleanly_and_keeps_what_was_learned(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "training",
        "train",
        "baseline",
        "--out",
        str(tmp_path / "b"),
        "--run",
        str(run),
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        while not lines[-1].startswith("episode "):
            lines.append(process.stdout.readline())
            assert lines[-1], "".join(lines)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        code = process.wait(20)
    assert code == 130
    assert "Traceback" not in rest
    assert "stopped interrupted" in rest
    resumed = re.search(r"to_go_on python -m (.*)", rest)
    assert resumed is not None
    assert shlex.split(resumed[1]) == [*command[2:], "--resume"]
    assert main(["export", str(run), "--out", str(tmp_path / "b"), "--force"]) == 0
    assert bundle.read(tmp_path / "b").manifest.provenance.stopped == "interrupted"


def test_a_terminal_sees_a_live_line_and_a_file_only_the_logged_ones(tmp_path: Path) -> None:
    words = [
        "train",
        "baseline",
        "--episodes",
        "200",
        "--restart",
        "--out",
        str(tmp_path / "b"),
        "--run",
        str(tmp_path / "run"),
    ]
    command = [sys.executable, "-m", "training", *words]
    quiet = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert "\x1b" not in quiet
    assert "\r" not in quiet
    assert [line.split()[1] for line in quiet.splitlines() if line.startswith("episode  ")] == [
        "100/200",
        "200/200",
    ]

    main_end, program_end = os.openpty()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=program_end, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    ) as process:
        os.close(program_end)
        shown = b""
        started = time.monotonic()
        while time.monotonic() - started < 60:
            try:
                part = os.read(main_end, 65_536)
            except OSError:  # the terminal is gone: the program has ended
                break
            shown += part
    os.close(main_end)
    assert process.returncode == 1
    assert shown.count(b"episode ") > 3
    assert b"\x1b[2K" in shown  # a line was overwritten


def test_help_is_quick_and_shows_a_first_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "train" in shown
    assert "evaluate" in shown
    assert "export" in shown
    assert "A first run:" in shown


def test_help_does_not_wait_for_torch() -> None:
    program = "import sys, training.__main__; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize(("name", "agents"), [("robust", "4"), ("quick", "16")])
def test_each_recipe_has_a_help_with_its_own_defaults(
    name: str, agents: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", name, "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"K, agents trained at once (default: {agents})" in shown
    assert "--domain-randomization.noise" in shown


def test_train_alone_means_the_robust_recipe_and_nested_flags_reach_it() -> None:
    words = ["--out", "p", "--domain-randomization.noise", "0.1", "--reward.fall", "None"]
    command = parse(["train", *words])
    assert isinstance(command, TrainCommand)
    assert command.recipe == recipe(
        "robust", {"domain_randomization.noise": 0.1, "reward.fall": None}
    )
    assert command == parse(["train", "robust", *words])


def test_a_gate_that_fails_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exporter is made to write another network's weights: it cannot be had otherwise."""
    short = recipe("baseline", {"episodes": 5})
    with Checkpoints(tmp_path / "run", Identity.of(short, 0, "cpu")) as checkpoints:
        train(short, 0, torch.device("cpu"), checkpoints=checkpoints)
    honest = formats.to_onnx
    monkeypatch.setattr(formats, "to_onnx", lambda network: honest(DQNetwork(network.hidden)))
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "b")]) == 1
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_run_is_neither_continued_nor_discarded_without_being_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short, run = recipe("baseline", {"episodes": 15}), tmp_path / "run"
    reports: list[Progress] = []
    with Checkpoints(run, Identity.of(short, 0, "cpu")) as checkpoints:
        train(
            short,
            0,
            torch.device("cpu"),
            checkpoints=checkpoints,
            on_progress=reports.append,
            interrupted=lambda: len(reports) == 5,
        )
    words = [
        "train",
        "baseline",
        "--episodes",
        "15",
        "--out",
        str(tmp_path / "b"),
        "--run",
        str(run),
        "--force",
    ]
    assert main(words) == 1
    assert "--resume" in capsys.readouterr().err
    assert main([*words, "--resume", "--learning-rate", "0.1"]) == 1
    assert "learning_rate was 0.0025, and is 0.1 now" in " ".join(capsys.readouterr().err.split())
    assert main([*words, "--resume"]) == 0
    resumed = (tmp_path / "b" / "policy.onnx").read_bytes()
    assert main([*words, "--restart"]) == 0
    assert (tmp_path / "b" / "policy.onnx").read_bytes() == resumed


def test_json_is_an_object_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "baseline",
        "--episodes",
        "100",
        "--force",
        "--json",
        "--out",
        str(tmp_path / "b"),
        "--run",
        str(tmp_path / "run"),
    ]
    assert main(["train", *words]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["episode"] == 100
    assert lines[-1]["digest"] == bundle.read(tmp_path / "b").digest


def test_a_tensorboard_without_room_is_told_once_and_ends_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    warnings: list[str] = []
    none, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    with TensorBoardLogger(tmp_path / "board", warnings.append) as logger:
        logger.log(Progress(line="", metrics={"steps": 1, "loss": 0.5}, is_logged=True))
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, most))
        try:
            for steps in range(2, 50):
                logger.log(Progress(line="", metrics={"steps": steps, "loss": 0.5}, is_logged=True))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (none, most))
    assert warnings == [
        f"{tmp_path / 'board'}: no scalars are written any more (File too large); training goes on"
    ]
    assert capfd.readouterr() == ("", "")


def test_tensorboard_gets_the_metrics(tmp_path: Path) -> None:
    words = [
        "baseline",
        "--episodes",
        "100",
        "--out",
        str(tmp_path / "b"),
        "--run",
        str(tmp_path / "run"),
    ]
    assert main(["train", *words, "--tensorboard", str(tmp_path / "board")]) == 1
    (events,) = (tmp_path / "board").iterdir()
    for name in (b"mean_score", b"epsilon", b"steps"):
        assert name in events.read_bytes()


def test_tensorboard_shows_a_step_once_though_a_run_was_begun_anew(tmp_path: Path) -> None:
    """So it is after a kill, too: what follows the last checkpoint is repeated then."""
    places = ["--out", str(tmp_path / "b"), "--run", str(tmp_path / "run")]
    for episodes in ("200", "100"):
        words = ["train", "baseline", "--episodes", episodes, *places, "--restart"]
        assert main([*words, "--tensorboard", str(tmp_path / "board")]) == 1
    shown = EventAccumulator(str(tmp_path / "board"))
    shown.Reload()
    steps = [event.step for event in shown.Scalars("mean_score")]
    assert steps
    assert steps == sorted(set(steps))


def test_a_home_that_cannot_be_written_brings_no_noise(tmp_path: Path) -> None:
    home = "/proc/nothing"  # where not even root can make a folder
    places = ["--out", str(tmp_path / "b"), "--run", str(tmp_path / "run")]
    trained = subprocess.run(
        [sys.executable, "-m", "training", "train", "baseline", "--stop-mean", "20", *places],
        cwd=ROOT,
        env=clean_environment() | {"HOME": home, "XDG_CACHE_HOME": home, "XDG_CONFIG_HOME": home},
        capture_output=True,
        text=True,
        check=True,
    )
    assert trained.stderr == ""


@pytest.mark.parametrize(
    ("flag", "value", "named"),
    [
        ("--plant.cart-mass", "0", "--plant.cart-mass: Input should be greater than"),
        ("--plant.pole-mass", "-1", "--plant.pole-mass: Input should be greater than"),
        ("--plant.force", "nan", "--plant.force: Input should be a finite number"),
        ("--plant.step-seconds", "2", "--plant.step-seconds: Input should be less than"),
        ("--plant.friction", "40", "--plant: friction: 40 N·s/m takes 73%"),
        ("--plant.mass", "1", "--plant.mass"),
    ],
)
def test_a_plant_that_cannot_be_is_refused_by_its_flag(
    flag: str, value: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["train"], ["import", "policy.onnx"]):
        with pytest.raises(SystemExit) as ended:
            main([*command, flag, value, "--out", str(tmp_path / "b")])
        assert ended.value.code == 2
        assert named in told(capsys)


def test_the_baseline_has_the_standard_plant_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "baseline", "--plant.force", "5", "--out", str(tmp_path / "b")])
    assert ended.value.code == 2
    assert "--plant.force" in told(capsys)


def test_a_plant_that_nothing_keeps_up_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recovery, "DRAWN", 20)
    weak = ["--plant.force", "0.1", "--plant.cart-mass", "100"]
    assert main(["train", *weak, "--out", str(tmp_path / "b"), "--run", str(tmp_path / "r")]) == 1
    assert "--plant: of 20 starts none can be kept up" in told(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_of_the_plant_it_was_trained_for_and_is_evaluated_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recovery, "DRAWN", 60)  # a search of thousands takes longer
    monkeypatch.setattr(recovery, "MAP_SIZE", 5)
    out = tmp_path / "heavy"
    heavy = ["--plant.pole-mass", "0.3", "--plant.step-seconds", "0.04"]
    short = ["quick", "--steps", "200", "--agents", "2", "--force"]
    places = ["--out", str(out), "--run", str(tmp_path / "run")]
    assert main(["train", *short, *heavy, *places]) == 0
    shown = capsys.readouterr().out
    assert "searched_starts 60, saved " in shown

    plant = Plant(pole_mass=0.3, step_seconds=0.04)
    manifest = bundle.read(out).manifest
    assert manifest.environment.plant == plant
    assert manifest.environment.max_episode_steps == 250
    assert manifest.provenance.hyperparameters["plant"] == plant.model_dump()
    scenarios = {each.name: each for each in manifest.robustness.scenarios}
    assert scenarios["nominal"].steps == 250
    assert scenarios["recovery"].episodes < 60  # no more than there are starts
    card = (out / "README.md").read_text()
    assert "It is for another plant than `CartPole-v1` has" in card
    assert "| `pole_mass` | kg | 0.3 | 0.1 |" in card

    assert main(["evaluate", str(out), "--json"]) == 1
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["evaluation"] == manifest.evaluation.model_dump()
    assert evaluated["robustness"] == json.loads(manifest.robustness.model_dump_json())
