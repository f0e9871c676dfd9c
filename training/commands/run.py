"""What the commands of `python -m training` do."""

import json
import shlex
import signal
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from models import bundle
from models.bundle import BundleWriteError
from models.manifest import Evaluation, Gate, Manifest, Name, RobustnessEvaluation
from models.text import printable
from training import checkpoints as checkpoint_files
from training.checkpoints import CheckpointError, Checkpoints, Identity
from training.commands.command_line import (
    BundleOptions,
    EvaluateCommand,
    ExportCommand,
    RunOptions,
    TrainCommand,
)
from training.evaluation.evaluator import evaluate_policy
from training.evaluation.runtimes import PolicyFileError, from_onnx
from training.export.exporter import GateError
from training.export.exporter import export as export_run
from training.export.model_card import worth_of_the_tutorial
from training.loggers import ConsoleLogger, JsonLogger, Logger, TensorBoardLogger
from training.network import choose_device
from training.recipes import title
from training.train import run_of, trainer_for
from training.train import train as train_by_recipe
from training.trainer import Progress, Run

INTERRUPTED = 130  # the shell's exit code for Ctrl-C


class CommandError(Exception):
    """Raised when a command cannot go on; its text is for the person who typed it."""


def train(command: TrainCommand) -> int:
    """Train by a recipe, and write the bundle. Returns the exit code."""
    recipe, options = command.recipe, command.run
    name = _check_bundle_options(command.bundle)
    folder = options.run or Path("runs") / f"{recipe.name}-{options.seed}"
    if folder.absolute() == command.bundle.out.absolute():
        raise CommandError(f"{folder}: is asked for both as --run and as --out; choose two folders")

    output = _Output(json_output=options.json_output)
    run = _train(command, folder, output)
    if not run.steps:
        raise CommandError("interrupted before anything was learned; nothing was kept")

    seconds = round(run.seconds, 1)
    output.print_facts(stopped=run.stopped, steps=run.steps, seconds=seconds, run=str(folder))
    if run.stopped == "interrupted":
        output.print_facts(to_go_on="give the same command again, with --resume")
        return INTERRUPTED
    return _write_bundle(run, command.bundle, name, output, kept_in=folder)


def evaluate(command: EvaluateCommand) -> int:
    """Evaluate a bundle's ONNX file. Returns the exit code: 1 if it does not pass its gate."""
    evaluated = bundle.read(command.bundle)
    if "onnx" not in evaluated.artifacts:
        raise CommandError(f"{command.bundle}: has no ONNX file to evaluate")

    try:
        q_values = from_onnx(evaluated.artifacts["onnx"])
    except PolicyFileError as error:
        raise CommandError(f"{command.bundle}: {error}") from error
    result = evaluate_policy(
        q_values,
        evaluated.manifest.gate.name,
        stopped=evaluated.manifest.provenance.stopped,
        episodes=command.episodes,
        seed=command.seed,
    )

    output = _Output(json_output=command.json_output)
    if command.json_output:
        output.print_facts(
            bundle=evaluated.digest,
            evaluation=result.evaluation.model_dump(),
            robustness=result.robustness.model_dump(),
            gate=result.gate.model_dump(),
        )
    else:
        output.print_worth(evaluated.manifest)
        output.print_evaluation(result.evaluation, result.robustness, result.gate)
    return 0 if result.gate.passed else 1


def export(command: ExportCommand) -> int:
    """Export a run from its newest checkpoint. Returns the exit code."""
    name = _check_bundle_options(command.bundle)
    try:
        state, snapshot = checkpoint_files.read(command.run)
    except CheckpointError as error:
        raise CommandError(str(error)) from error

    identity = state.identity
    trainer = trainer_for(identity.recipe, identity.seed, choose_device("cpu"))
    trainer.restore(snapshot)
    run = run_of(trainer, identity, state.seconds)
    output = _Output(json_output=False)
    return _write_bundle(run, command.bundle, name, output, kept_in=command.run)


def _train(command: TrainCommand, folder: Path, output: "_Output") -> Run:
    """Train with everything around it: checkpoints, signals and loggers."""
    recipe, options = command.recipe, command.run
    try:
        device = choose_device(options.device)
    except ValueError as error:
        raise CommandError(str(error)) from error

    identity = Identity.of(recipe, options.seed, device.type)
    try:
        with (
            Checkpoints(folder, identity, every=options.checkpoint_every) as checkpoints,
            _interruptible() as interrupted,
            ExitStack() as stack,
        ):
            _choose_start(checkpoints, options)
            loggers: list[Logger] = [stack.enter_context(output.logger())]
            if options.tensorboard is not None:
                loggers.append(stack.enter_context(TensorBoardLogger(options.tensorboard)))
            if not options.json_output:
                output.print_line(f"recipe {title(recipe)}, seed {options.seed}, on {device.type}")

            def log(progress: Progress) -> None:
                for logger in loggers:
                    logger.log(progress)

            return train_by_recipe(
                recipe,
                options.seed,
                device,
                checkpoints=checkpoints,
                on_progress=log,
                interrupted=interrupted,
            )
    except (CheckpointError, OSError) as error:
        raise CommandError(str(error)) from error


def _choose_start(checkpoints: Checkpoints, options: RunOptions) -> None:
    """Leave only those checkpoints that training is to go on from.

    A run is never discarded without being asked for.
    """
    folder = checkpoints.folder
    if not checkpoint_files.numbered(folder):
        if options.resume:
            notice = f"{folder}: holds no checkpoint to resume from, so training starts afresh"
            Console(stderr=True, soft_wrap=True).print(printable(notice), markup=False)
        return

    if options.restart:
        checkpoints.clear()
    elif not options.resume:
        raise CommandError(
            f"{folder}: holds a run already; --resume goes on with it, --restart discards it,"
            " --run takes another folder"
        )


def _check_bundle_options(options: BundleOptions) -> str:
    """Refuse a place or a name that the bundle cannot have, before anything is done for it.

    Returns the model's name.
    """
    bundle.check_place(options.out)
    if options.name is not None:
        return options.name

    name = options.out.absolute().name
    try:
        return TypeAdapter[str](Name).validate_python(name)
    except ValidationError as error:
        raise CommandError(
            f"--out: {name!r} cannot be the model's name ({error.errors()[0]['msg']});"
            " give another with --name"
        ) from error


def _write_bundle(
    run: Run, options: BundleOptions, name: str, output: "_Output", *, kept_in: Path
) -> int:
    try:
        written = export_run(
            run,
            options.out,
            name=name,
            model_version=options.model_version,
            created=datetime.now(UTC).replace(microsecond=0),
            force=options.force,
        )
    except (PolicyFileError, GateError) as error:
        raise CommandError(f"nothing was written: {error}") from error
    except BundleWriteError as error:
        raise CommandError(
            f"{error}; the run is kept in {kept_in}:"
            f" python -m training export {shlex.quote(str(kept_in))} --out FOLDER finishes it"
        ) from error

    if not output.json_output:
        manifest = written.manifest
        output.print_worth(manifest)
        output.print_evaluation(manifest.evaluation, manifest.robustness, manifest.gate)
    output.print_facts(wrote=str(options.out), digest=written.digest)
    return 0


class _Output:
    """Standard output, in words for people or as JSON for programs."""

    def __init__(self, *, json_output: bool) -> None:
        self.json_output = json_output
        self._console = Console(highlight=False)

    def logger(self) -> Logger:
        """Return what shows the progress of training."""
        return JsonLogger(self._console) if self.json_output else ConsoleLogger(self._console)

    def print_line(self, line: str) -> None:
        """Print a line that a terminal may wrap, but nothing else changes."""
        self._console.print(printable(line), soft_wrap=True, markup=False)

    def print_facts(self, **facts: object) -> None:
        """Print names and values: as words, or as one JSON object."""
        if self.json_output:
            self.print_line(json.dumps(facts))
        else:
            self.print_line(", ".join(f"{name} {value}" for name, value in facts.items()))

    def print_worth(self, manifest: Manifest) -> None:
        """Say of a policy whose gate promises little that it does, before its figures."""
        if manifest.gate.name == "tutorial" and manifest.gate.passed:
            self.print_line(f"{worth_of_the_tutorial(manifest)} What it is worth:")

    def print_evaluation(
        self, evaluation: Evaluation, robustness: RobustnessEvaluation, gate: Gate
    ) -> None:
        """Print what was measured of a policy, for people."""
        self.print_line(
            f"{evaluation.episodes:,} greedy episodes of policy.onnx: mean {evaluation.mean:.2f}"
            f" steps, worst {evaluation.minimum}, {evaluation.success_rate:.1%} to the time limit"
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
        self._console.print(table)
        result = "passed" if gate.passed else "failed: " + "; ".join(gate.failures)
        self.print_line(f"gate {gate.name}: {result}")


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a request that training asks for.

    The second ends the program at once. A stopped container or a closed terminal must not lose what
    was learned either.
    """
    received: list[int] = []

    def handle(number: int, _: types.FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    handlers = {
        number: signal.signal(number, handle)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
