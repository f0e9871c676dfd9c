"""The command line of training: train, evaluate, export. Turns words into calls and errors into one clear line."""

import argparse
import dataclasses
import functools
import json
import math
import signal
import sys
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models import bundle
from models.manifest import Evaluation, Gate, Name, RobustnessEvaluation, Version
from training import seeding as seeds
from training.recipes import RECIPES, BaselineRecipe, PopulationRecipe, RecipeError, recipe, title

if TYPE_CHECKING:
    from training.checkpoints import Checkpoints
    from training.trainer import Progress, Run

# torch takes seconds to import, so `--help` and a misspelt option must not: each command imports what it needs.

INTERRUPTED = 130  # the shell's exit code for Ctrl-C


class CommandError(Exception):
    """Raised when a command cannot go on; its text is for the person who typed it."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 asked wrongly, 130 interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        code: int = options.command(options)
        return code
    except RecipeError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except (CommandError, bundle.BundleError) as error:
        errors.print(f"{parser.prog}: {escape(str(error))}")
        return 1
    except KeyboardInterrupt:
        errors.print(f"{parser.prog}: interrupted")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Train a DQN to balance CartPole-v1, judge it, and export it as a bundle that `python -m service` serves.",
        epilog="A first run: python -m training train --recipe default --seed 0 --out my-policy",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a policy and export it as a bundle",
        description="Train a policy by a recipe, prove it, and write it as a bundle. Ctrl-C ends training and keeps what was learned.",
    )
    train.set_defaults(command=_train)
    train.add_argument(
        "--recipe",
        default="default",
        choices=sorted(RECIPES),
        help="the set of hyperparameters to start from (default: default)",
    )
    train.add_argument(
        "--seed",
        type=_whole(seeds.TRAINING),
        default=0,
        help="the same seed gives the same weights on one machine (default: 0)",
    )
    train.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="where the network learns (default: auto, CUDA if there is one)",
    )
    train.add_argument(
        "--run",
        type=Path,
        metavar="FOLDER",
        help="where the run's checkpoints are kept (default: runs/RECIPE-SEED)",
    )
    start = train.add_mutually_exclusive_group()
    start.add_argument(
        "--resume",
        action="store_true",
        help="go on from the run's newest checkpoint, bit for bit as if never stopped",
    )
    start.add_argument(
        "--restart", action="store_true", help="give up an unfinished run in the same folder"
    )
    train.add_argument(
        "--checkpoint-every",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="time between two checkpoints (default: 30)",
    )
    train.add_argument(
        "--json", action="store_true", help="print JSON, an object a line, for programs"
    )
    train.add_argument(
        "--tensorboard", type=Path, metavar="FOLDER", help="write scalars for TensorBoard here"
    )
    _add_bundle_options(train)
    settings = train.add_argument_group(
        "hyperparameters",
        "each changes one value of the recipe; the values shown are the recipes' own",
    )
    for name, (annotation, text) in _hyperparameters().items():
        flag = f"--{name.replace('_', '-')}"
        settings.add_argument(
            flag, dest=name, default=argparse.SUPPRESS, help=text, **_argument_of(annotation)
        )

    evaluate = commands.add_parser(
        "evaluate",
        help="judge a bundle by greedy episodes and the exam",
        description="Judge a bundle's ONNX file: greedy episodes, and the exam beside a linear-quadratic regulator on the same runs."
        " Exits with 1 where the policy does not pass its recipe's gate.",
    )
    evaluate.set_defaults(command=_evaluate)
    evaluate.add_argument("bundle", type=Path, metavar="FOLDER", help="the bundle to judge")
    evaluate.add_argument(
        "--episodes",
        type=_whole(range(1, 100_001)),
        default=1_000,
        help="number of greedy episodes (default: 1000)",
    )
    evaluate.add_argument(
        "--seed",
        type=_whole(seeds.EXAM),
        default=seeds.EXAM.start,
        help="seed of starts and exam; none that training may use (default: %(default)s)",
    )
    evaluate.add_argument("--json", action="store_true", help="print one JSON object, for programs")

    export = commands.add_parser(
        "export",
        help="export a finished or interrupted run as a bundle",
        description="Export a run that `train` has kept, from its newest checkpoint.",
    )
    export.set_defaults(command=_export)
    export.add_argument(
        "run", type=Path, metavar="RUN", help="the folder of the run, such as runs/default-0"
    )
    _add_bundle_options(export)
    return parser


def _add_bundle_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="the bundle's folder; an older bundle there is replaced whole",
    )
    parser.add_argument(
        "--name", help="the model's name (default: the name of the bundle's folder)"
    )
    parser.add_argument("--model-version", default="1", help="the model's version (default: 1)")
    parser.add_argument(
        "--force",
        action="store_true",
        help="export a policy that fails its gate too, with the failure in the manifest",
    )


def _train(options: argparse.Namespace) -> int:
    changes = {name: value for name, value in vars(options).items() if name in _hyperparameters()}
    chosen = recipe(options.recipe, changes)
    _check_bundle_options(options)

    from training.checkpoints import CheckpointError, Checkpoints, Identity
    from training.loggers import Display, JsonDisplay, Scalars
    from training.network import device
    from training.train import train

    console = Console(highlight=False)
    try:
        where = device(options.device)
    except ValueError as error:
        raise CommandError(str(error)) from error
    folder = options.run or Path("runs") / f"{chosen.name}-{options.seed}"
    if folder.absolute() == options.out.absolute():
        raise CommandError(f"{folder}: is asked for both as --run and as --out; choose two folders")
    show = JsonDisplay(console) if options.json else Display(console)
    try:
        with (
            Checkpoints(
                folder,
                Identity.of(chosen, options.seed, where.type),
                every=options.checkpoint_every,
            ) as checkpoints,
            _interruptible() as interrupted,
            show,
            Scalars(options.tensorboard) as scalars,
        ):
            _choose_start(checkpoints, options)
            if not options.json:
                console.print(f"recipe {title(chosen)}, seed {options.seed}, on {where.type}")

            def report(progress: "Progress") -> None:
                show(progress)
                scalars(progress)

            run = train(
                chosen,
                options.seed,
                where,
                checkpoints=checkpoints,
                report=report,
                interrupted=interrupted,
            )
    except (CheckpointError, OSError) as error:
        raise CommandError(str(error)) from error
    if not run.steps:
        raise CommandError("interrupted before anything was learned; nothing was kept")
    _say(
        console,
        options,
        stopped=run.stopped,
        steps=run.steps,
        seconds=round(run.seconds, 1),
        run=str(folder),
    )
    if run.stopped == "interrupted":
        _say(console, options, to_go_on="give the same command again, with --resume")
        return INTERRUPTED
    return _write_bundle(run, options, console)


def _choose_start(checkpoints: "Checkpoints", options: argparse.Namespace) -> None:
    """Leave only those checkpoints that training is to go on from. A run is never given up without being told so."""
    from training.checkpoints import numbered

    if not numbered(checkpoints.folder):
        if options.resume:
            Console(stderr=True).print(
                f"{checkpoints.folder}: holds no checkpoint to resume from, so training starts from the beginning"
            )
        return
    if options.resume:
        return
    if not options.restart:
        raise CommandError(
            f"{checkpoints.folder}: holds a run already; --resume goes on with it, --restart gives it up, --run takes another"
        )
    checkpoints.clear()


def _export(options: argparse.Namespace) -> int:
    _check_bundle_options(options)
    from training.checkpoints import CheckpointError, read
    from training.network import device
    from training.train import run_of, trainer_for

    try:
        state, snapshot = read(options.run)
    except CheckpointError as error:
        raise CommandError(str(error)) from error
    identity = state.identity
    trainer = trainer_for(identity.recipe, identity.seed, device("cpu"))
    trainer.restore(snapshot)
    run = run_of(trainer, identity.recipe, identity.seed, identity.device, state.seconds)
    return _write_bundle(run, options, Console(highlight=False))


def _write_bundle(run: "Run", options: argparse.Namespace, console: Console) -> int:
    from training.export.exporter import GateError, export
    from training.export.formats import ExportError

    name = _model_name(options)
    created = datetime.now(UTC).replace(microsecond=0)
    try:
        written = export(
            run,
            options.out,
            name=name,
            model_version=options.model_version,
            created=created,
            force=options.force,
        )
    except (ExportError, GateError) as error:
        raise CommandError(f"nothing was written: {error}") from error
    if not vars(options).get("json"):
        _print_judgement(
            console, written.manifest.evaluation, written.manifest.robustness, written.manifest.gate
        )
    _say(console, options, wrote=str(options.out), digest=written.digest)
    return 0


def _model_name(options: argparse.Namespace) -> str:
    name: str = options.name or options.out.absolute().name
    return name


def _check_bundle_options(options: argparse.Namespace) -> None:
    """Refuse a place, a name or a version that the bundle could not have, before anything is done for it."""
    bundle.check_place(options.out)
    for flag, kind, value in (
        ("--name", Name, _model_name(options)),
        ("--model-version", Version, options.model_version),
    ):
        try:
            TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            hint = (
                " (the folder's name, unless --name gives another)"
                if flag == "--name" and not options.name
                else ""
            )
            raise CommandError(f"{flag}: {value!r}{hint}: {error.errors()[0]['msg']}") from error


def _evaluate(options: argparse.Namespace) -> int:
    judged = bundle.read(options.bundle)
    if "onnx" not in judged.artifacts:
        raise CommandError(f"{options.bundle}: has no ONNX file to judge")
    from training.export.exporter import judge
    from training.export.formats import ExportError

    try:
        evaluation, robustness, gate = judge(
            judged.artifacts["onnx"],
            judged.manifest.gate.name,
            episodes=options.episodes,
            seed=options.seed,
        )
    except ExportError as error:
        raise CommandError(f"{options.bundle}: {error}") from error
    console = Console(highlight=False)
    if options.json:
        result = {
            "bundle": judged.digest,
            "evaluation": evaluation,
            "robustness": robustness,
            "gate": gate,
        }
        console.print(
            json.dumps(result, default=lambda part: part.model_dump()), soft_wrap=True, markup=False
        )
    else:
        _print_judgement(console, evaluation, robustness, gate)
    return 0 if gate.passed else 1


def _say(console: Console, options: argparse.Namespace, **facts: object) -> None:
    """Print facts: as words, or as JSON where that was asked for."""
    if vars(options).get("json"):
        console.print(json.dumps(facts), soft_wrap=True, markup=False)
    else:
        console.print(
            ", ".join(f"{name} {value}" for name, value in facts.items()),
            soft_wrap=True,
            markup=False,
        )


def _print_judgement(
    console: Console, evaluation: Evaluation, robustness: RobustnessEvaluation, gate: Gate
) -> None:
    console.print(
        f"{evaluation.episodes:,} greedy episodes of policy.onnx: mean {evaluation.mean:.2f} steps, worst {evaluation.minimum},"
        f" {evaluation.success_rate:.1%} to the time limit",
        soft_wrap=True,
    )
    table = Table("scenario", "episodes", "steps", "policy", "LQR")
    for scenario in robustness.scenarios:
        table.add_row(
            scenario.name,
            f"{scenario.episodes}",
            f"{scenario.steps:,}",
            f"{scenario.success_rate:.4f}",
            f"{scenario.lqr_success_rate:.4f}",
        )
    console.print(table)
    console.print(
        f"gate {gate.name}: {'passed' if gate.passed else 'failed: ' + '; '.join(gate.failures)}",
        soft_wrap=True,
        markup=False,
    )


@contextmanager
def _interruptible() -> Iterator[Any]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a wish that training asks for; the second ends the program at once."""
    wishes: list[int] = []

    def note(number: int, _: types.FrameType | None) -> None:
        if wishes:
            raise KeyboardInterrupt
        wishes.append(number)

    # A stopped container or a closed terminal must not lose what was learned either.
    before = {
        number: signal.signal(number, note)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield lambda: bool(wishes)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@functools.cache
def _hyperparameters() -> dict[str, tuple[Any, str]]:
    """Return every hyperparameter's type and help, by name; one with several parts has a name for each, with a dot."""
    texts: dict[str, str] = {}
    types_of: dict[str, Any] = {}
    defaults: dict[str, list[str]] = {}
    for kind in (BaselineRecipe, PopulationRecipe):
        recipes = {name: each for name, each in RECIPES.items() if isinstance(each, kind)}
        for name, field in kind.model_fields.items():
            if name in ("name", "gate"):
                continue
            parts = (
                dataclasses.fields(field.annotation)
                if dataclasses.is_dataclass(field.annotation)
                else None
            )
            for part in [None] if parts is None else parts:
                key = name if part is None else f"{name}.{part.name}"
                types_of[key] = field.annotation if part is None else part.type
                texts.setdefault(
                    key,
                    f"{field.description}"
                    if part is None
                    else f"{field.description}: {part.name.replace('_', ' ')}",
                )
                for of, each in recipes.items():
                    value = getattr(each, name)
                    defaults.setdefault(key, []).append(
                        f"{of} {_shown(value if part is None else getattr(value, part.name))}"
                    )
    return {key: (types_of[key], f"{texts[key]} ({', '.join(defaults[key])})") for key in texts}


def _argument_of(annotation: Any) -> dict[str, Any]:
    """How a hyperparameter is written on the command line; its range is checked by the recipe, which names it."""
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(annotation) is Literal:
        return {"choices": typing.get_args(annotation)}
    if typing.get_origin(annotation) is tuple:
        whole = typing.get_args(annotation)[0] is not float
        return {"type": _integers if whole else _numbers, "metavar": "N,N" if whole else "X,X"}
    whole = annotation is int
    return {"type": int if whole else float, "metavar": "N" if whole else "X"}


def _shown(default: object) -> str:
    return ",".join(str(part) for part in default) if isinstance(default, tuple) else str(default)


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not whole numbers with commas between them"
        ) from None


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not numbers with commas between them"
        ) from None


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _whole(allowed: range) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) not in allowed:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number in {allowed.start} … {allowed.stop - 1}"
            )
        return int(text)

    return number


if __name__ == "__main__":
    sys.exit(main())
