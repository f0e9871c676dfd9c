"""The command line of training: train, evaluate, export. Turns words into calls and errors into one clear line."""

import argparse
import json
import signal
import sys
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from models import bundle
from training.recipe import RECIPES, SEED_LIMIT, Recipe, RecipeError, recipe

if TYPE_CHECKING:
    from training.train import Run

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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Train a DQN to balance CartPole-v1, judge it, and export it as a bundle that `python -m service` serves.",
        epilog="A first run: python -m training train --recipe baseline --seed 0 --out my-policy",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a policy and export it as a bundle",
        description="Train a policy by a recipe, prove it, and write it as a bundle. Ctrl-C ends training and keeps what was learned.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    train.set_defaults(command=_train)
    train.add_argument("--recipe", default="baseline", choices=sorted(RECIPES), help="the set of hyperparameters to start from")
    train.add_argument("--seed", type=_seed, default=0, help=f"0 … {SEED_LIMIT - 1}; the same seed gives the same weights on one machine")
    train.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="where the network learns; auto: CUDA if there is one"
    )
    train.add_argument("--run", type=Path, metavar="FOLDER", help="where the run itself is kept (default: runs/RECIPE-SEED)")
    _add_bundle_options(train)
    settings = train.add_argument_group("hyperparameters", "each changes one value of the recipe")
    for name, field in Recipe.model_fields.items():
        if name != "name":
            settings.add_argument(
                f"--{name.replace('_', '-')}",
                default=argparse.SUPPRESS,
                **_argument_of(field.annotation),
                help=f"{field.description} (baseline: {_shown(field.default)})",
            )

    evaluate = commands.add_parser(
        "evaluate",
        help="judge a bundle by greedy episodes",
        description="Play greedy episodes with a bundle's ONNX file, on starts that training never used, and report their scores.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    evaluate.set_defaults(command=_evaluate)
    evaluate.add_argument("bundle", type=Path, metavar="FOLDER", help="the bundle to judge")
    evaluate.add_argument("--episodes", type=_positive, default=1_000, help="number of episodes")
    evaluate.add_argument("--seed", type=_evaluation_seed, default=SEED_LIMIT, help=f"seed of the starts, {SEED_LIMIT} or above")
    evaluate.add_argument("--json", action="store_true", help="print one JSON object, for programs")

    export = commands.add_parser(
        "export",
        help="export a finished or interrupted run as a bundle",
        description="Export a run that `train` has kept, whether it was solved or not.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    export.set_defaults(command=_export)
    export.add_argument("run", type=Path, metavar="RUN", help="the folder of the run, such as runs/baseline-0")
    _add_bundle_options(export)
    return parser


def _add_bundle_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="the bundle's folder; an older bundle there is replaced whole"
    )
    parser.add_argument("--name", help="the model's name (default: the name of the bundle's folder)")
    parser.add_argument("--model-version", default="1", help="the model's version")


def _train(options: argparse.Namespace) -> int:
    changes = {name: value for name, value in vars(options).items() if name in Recipe.model_fields and name != "name"}
    chosen = recipe(options.recipe, changes)
    bundle.check_place(options.out)

    from training import checkpoint
    from training.display import Display
    from training.network import device
    from training.train import train

    console = Console(highlight=False)
    try:
        where = device(options.device)
    except ValueError as error:
        raise CommandError(str(error)) from error
    folder = options.run or Path("runs") / f"{chosen.name}-{options.seed}"
    console.print(f"recipe {chosen.name}, seed {options.seed}, on {where.type}")
    with _interruptible() as interrupted, Display(console, chosen) as display:
        run = train(chosen, options.seed, where, report=display, interrupted=interrupted)
    checkpoint.write(folder, run)
    console.print(
        f"{run.stopped} after {len(run.episodes)} episodes, {run.steps:,} steps, {run.seconds:.1f} s; the run is kept in {folder}"
    )
    if run.stopped == "solved":
        return _write_bundle(run, options, console)
    ways = f"python -m training export {folder} --out {options.out}"
    console.print(f"Not solved, so no bundle was written. To export it all the same: {ways}", soft_wrap=True)
    return INTERRUPTED if run.stopped == "interrupted" else 1


def _export(options: argparse.Namespace) -> int:
    bundle.check_place(options.out)
    from training import checkpoint

    try:
        run = checkpoint.read(options.run)
    except checkpoint.CheckpointError as error:
        raise CommandError(str(error)) from error
    return _write_bundle(run, options, Console(highlight=False))


def _write_bundle(run: "Run", options: argparse.Namespace, console: Console) -> int:
    from training.export import export
    from training.formats import ExportError

    name = options.name or options.out.absolute().name
    try:
        written = export(run, options.out, name=name, model_version=options.model_version, created=datetime.now(UTC).replace(microsecond=0))
    except ExportError as error:
        raise CommandError(f"nothing was written: {error}") from error
    _print_evaluation(console, written.manifest.evaluation)
    console.print(f"wrote {options.out}, {written.digest}", soft_wrap=True)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    judged = bundle.read(options.bundle)
    from training.evaluate import evaluation, play
    from training.formats import from_onnx

    result = evaluation(play(from_onnx(judged.artifacts["onnx"]), episodes=options.episodes, seed=options.seed), options.seed)
    console = Console(highlight=False)
    if options.json:
        console.print(json.dumps({"bundle": judged.digest, **result.model_dump()}), soft_wrap=True)
    else:
        _print_evaluation(console, result)
    return 0


def _print_evaluation(console: Console, result: bundle.Evaluation) -> None:
    console.print(
        f"{result.episodes:,} greedy episodes of policy.onnx: mean {result.mean:.2f} steps, worst {result.minimum},"
        f" {result.share_at_limit:.1%} to the time limit",
        soft_wrap=True,
    )


@contextmanager
def _interruptible() -> Iterator[Any]:
    """Turn the first Ctrl-C into a wish that training asks for between episodes; the second ends the program at once."""
    wishes: list[int] = []

    def note(number: int, _: types.FrameType | None) -> None:
        if wishes:
            raise KeyboardInterrupt
        wishes.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(wishes)
    finally:
        signal.signal(signal.SIGINT, before)


def _argument_of(annotation: Any) -> dict[str, Any]:
    """How a hyperparameter is written on the command line; its range is checked by the recipe, which names it."""
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(annotation) is tuple:
        return {"type": _layers, "metavar": "N,N"}
    return {"type": annotation, "metavar": "N" if annotation is int else "X"}


def _shown(default: object) -> str:
    return ",".join(str(part) for part in default) if isinstance(default, tuple) else str(default)


def _layers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _positive(text: str) -> int:
    if (number := int(text)) <= 0:
        raise argparse.ArgumentTypeError(f"{number} is not above 0")
    return number


def _seed(text: str) -> int:
    if not 0 <= (number := int(text)) < SEED_LIMIT:
        raise argparse.ArgumentTypeError(f"{number} is outside 0 … {SEED_LIMIT - 1}")
    return number


def _evaluation_seed(text: str) -> int:
    if (number := int(text)) < SEED_LIMIT:
        raise argparse.ArgumentTypeError(f"{number} is a seed that training may use; take {SEED_LIMIT} or above")
    return number


if __name__ == "__main__":
    sys.exit(main())
