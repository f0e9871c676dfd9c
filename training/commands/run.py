"""What the commands of `python -m training` do."""

import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from models import bundle
from models.bundle import BundleWriteError
from models.manifest import Name, Plant
from models.programs import INTERRUPTED
from training import checkpoints as checkpoint_files
from training.checkpoints import CheckpointError, Checkpoints, Identity
from training.commands.command_line import (
    BundleOptions,
    EvaluateCommand,
    ExportCommand,
    ImportCommand,
    RunOptions,
    TrainCommand,
)
from training.commands.cores import usable_cores
from training.commands.interruption import interruptible
from training.commands.output import Output
from training.envs.plant import STANDARD
from training.evaluation import recovery
from training.evaluation.evaluator import evaluate_policy
from training.evaluation.runtimes import PolicyFileError, from_onnx
from training.export.candidates import Candidate, from_import, from_run
from training.export.exporter import GateError
from training.export.exporter import export as export_bundle
from training.export.exporter import update as update_bundle
from training.importing.policy_file import read_policy
from training.loggers import Logger, TensorBoardLogger
from training.network import choose_device
from training.recipes import BaselineRecipe, title
from training.train import run_of, trainer_for
from training.train import train as train_by_recipe
from training.trainer import Progress, Run


class CommandError(Exception):
    """Raised when a command cannot go on; its text is for the person who typed it."""


def train(command: TrainCommand, words: Sequence[str]) -> int:
    """Train by a recipe, and write the bundle. Returns the exit code.

    `words` are those that were typed, of which the command that goes on is made.
    """
    recipe, options = command.recipe, command.run
    name = _check_bundle_options(command.bundle)
    folder = options.run or Path("runs") / f"{recipe.name}-{options.seed}"
    if folder.absolute() == command.bundle.out.absolute():
        raise CommandError(f"{folder}: is asked for both as --run and as --out; choose two folders")

    output = Output(json_output=options.json_output)
    if not isinstance(recipe, BaselineRecipe):
        _prepare(recipe.plant, output)
    try:
        run, is_kept = _train(command, folder, output)
    except KeyboardInterrupt:  # the second: what the last checkpoint holds is left
        if checkpoint_files.numbered(folder):
            output.print_facts(to_go_on=_resuming(words))
        raise
    if not run.steps:
        raise CommandError("interrupted before anything was learned; nothing was kept")

    kept_in = folder if is_kept else None
    with _naming_what_finishes(command.bundle, kept_in, output):
        output.print_run(run, folder)
        if run.stopped == "interrupted" and not is_kept:
            raise CommandError(f"interrupted, and what was learned could not be kept in {folder}")
        if run.stopped == "interrupted":
            output.print_facts(to_go_on=_resuming(words))
            return INTERRUPTED
        return _write_bundle(from_run(run), command.bundle, name, output, kept_in=kept_in)


def evaluate(command: EvaluateCommand) -> int:
    """Evaluate a bundle's ONNX file. Returns the exit code: 1 if it does not pass its gate."""
    evaluated = bundle.read(command.bundle)
    if "onnx" not in evaluated.artifacts:
        raise CommandError(f"{command.bundle}: has no ONNX file to evaluate")

    output = Output(json_output=command.json_output)
    plant = evaluated.manifest.environment.plant
    _prepare(plant, output, is_told=not command.json_output)  # one object is promised
    try:
        q_values = from_onnx(evaluated.artifacts["onnx"])
    except PolicyFileError as error:
        raise CommandError(f"{command.bundle}: {error}") from error
    with output.stages(is_told=not command.json_output) as on_stage:
        result = evaluate_policy(
            q_values,
            evaluated.manifest.gate.name,
            stopped=evaluated.manifest.provenance.stopped,
            plant=plant,
            episodes=command.episodes,
            seed=command.seed,
            on_stage=on_stage,
        )

    if command.update:
        evaluated = update_bundle(evaluated, result)
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
    if command.update and not command.json_output:
        output.print_facts(wrote=str(command.bundle), digest=evaluated.digest)
    return output.exit_code(0 if result.gate.passed else 1)


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
    output = Output(json_output=False)
    if not isinstance(identity.recipe, BaselineRecipe):
        _prepare(identity.recipe.plant, output)
    with _naming_what_finishes(command.bundle, command.run, output):
        return _write_bundle(from_run(run), command.bundle, name, output, kept_in=command.run)


def import_policy(command: ImportCommand) -> int:
    """Import a policy of another program, and write the bundle. Returns the exit code."""
    name = _check_bundle_options(command.bundle)
    try:
        policy = read_policy(command.file)
    except PolicyFileError as error:
        raise CommandError(str(error)) from error

    output = Output(json_output=command.json_output)
    network, origin = policy.network, policy.origin
    output.print_facts(
        imported=str(command.file),
        kind=origin.kind,
        library=origin.library or "unknown",
        hidden=" ".join(map(str, network.hidden)) or "none",
        sha256=origin.sha256,
    )
    _prepare(command.plant, output)
    candidate = from_import(policy, command.gate, command.plant)
    return _write_bundle(candidate, command.bundle, name, output, kept_in=None)


def _prepare(plant: Plant, output: Output, *, is_told: bool = True) -> None:
    """Search for the starts that can be saved on a plant of the user's own, and say so."""
    if plant == STANDARD:
        return
    if not output.json_output:
        output.print_line("searching for the starts of this plant that can be saved …")
    started = time.monotonic()
    try:
        starts = recovery.prepare(plant)
    except recovery.UncontrollableError as error:
        raise CommandError(f"--plant: {error}") from error

    if is_told:
        output.print_facts(
            searched_starts=starts.drawn,
            saved=starts.saved,
            lost=starts.lost,
            seconds=round(time.monotonic() - started, 1),
        )


def _train(command: TrainCommand, folder: Path, output: Output) -> tuple[Run, bool]:
    """Train with everything around it: checkpoints, signals and loggers.

    Returns the run, and whether all of it is kept in its folder.
    """
    recipe, options = command.recipe, command.run
    try:
        device = choose_device(options.device)
    except ValueError as error:
        raise CommandError(str(error)) from error

    identity = Identity.of(recipe, options.seed, device.type)
    try:
        with (
            Checkpoints(folder, identity, every=options.checkpoint_every) as checkpoints,
            interruptible() as interrupted,
            ExitStack() as stack,
        ):
            _choose_start(checkpoints, options, output)
            loggers: list[Logger] = [stack.enter_context(output.logger())]
            if options.tensorboard is not None:
                board = TensorBoardLogger(options.tensorboard, output.warn)
                loggers.append(stack.enter_context(board))
            if not options.json_output:
                output.print_line(f"recipe {title(recipe)}, seed {options.seed}, on {device.type}")
                output.print_legend(recipe)

            def log(progress: Progress) -> None:
                for logger in loggers:
                    logger.log(progress)

            run = train_by_recipe(
                recipe,
                options.seed,
                device,
                checkpoints=checkpoints,
                validate_beside=usable_cores() > 1,
                on_progress=log,
                on_lost_checkpoint=lambda error: output.warn(str(error)),
                interrupted=interrupted,
            )
            return run, checkpoints.holds_last
    except (CheckpointError, OSError) as error:
        raise CommandError(str(error)) from error


def _choose_start(checkpoints: Checkpoints, options: RunOptions, output: Output) -> None:
    """Leave only those checkpoints that training is to go on from.

    A run is never discarded without being asked for.
    """
    folder = checkpoints.folder
    if not checkpoint_files.numbered(folder):
        if options.resume:
            output.warn(f"{folder}: holds no checkpoint to resume from, so training starts afresh")
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
    _time_of_making()
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
    candidate: Candidate,
    options: BundleOptions,
    name: str,
    output: Output,
    *,
    kept_in: Path | None,
) -> int:
    """Write a policy's bundle, and print what it is worth. Returns the exit code."""
    try:
        with output.stages() as on_stage:
            written = export_bundle(
                candidate,
                options.out,
                name=name,
                model_version=options.model_version,
                created=_time_of_making(),
                force=options.force,
                on_stage=on_stage,
            )
    except PolicyFileError as error:
        raise CommandError(f"nothing was written: {error}") from error
    except GateError as error:
        raise CommandError(
            f"nothing was written: {error}. {_after_a_failed_gate(options, kept_in)}"
        ) from error
    except BundleWriteError as error:
        if kept_in is None:
            raise
        raise CommandError(
            f"{error}; the run is kept in {kept_in}:"
            f" python -m training export {shlex.quote(str(kept_in))} --out FOLDER finishes it"
        ) from error

    if not output.json_output:
        manifest = written.manifest
        output.print_worth(manifest)
        output.print_evaluation(manifest.evaluation, manifest.robustness, manifest.gate)
    output.print_facts(wrote=str(options.out), digest=written.digest)
    return output.exit_code()


def _time_of_making() -> datetime:
    """Return when a bundle is made: now, or what SOURCE_DATE_EPOCH says, in seconds since 1970.

    See reproducible-builds.org: where it is set, the same run gives the same bundle, to the byte.
    """
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    if not seconds:
        return datetime.now(UTC).replace(microsecond=0)
    try:
        return datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise CommandError(
            f"SOURCE_DATE_EPOCH: must be whole seconds since 1970, not {seconds[:40]!r}"
        ) from error


@contextmanager
def _naming_what_finishes(
    options: BundleOptions, run: Path | None, output: Output
) -> Iterator[None]:
    """Name the command that writes the bundle of a run that is kept, if Ctrl-C ends the block."""
    try:
        yield
    except KeyboardInterrupt:
        if run is not None:
            output.warn(f"the run is kept in {run}: {_exporting(options, run)} finishes it")
        raise


def _resuming(words: Sequence[str]) -> str:
    """Return the command that goes on with a training that these words began."""
    kept = [word for word in words if word not in ("--restart", "--resume")]
    return shlex.join(["python", "-m", "training", *kept, "--resume"])


def _exporting(options: BundleOptions, run: Path, *, force: bool = False) -> str:
    """Return the command that writes the bundle of a run that is kept."""
    words = ["python", "-m", "training", "export", str(run), "--out", str(options.out)]
    if options.name is not None:
        words += ["--name", options.name]
    if options.model_version != "1":
        words += ["--model-version", options.model_version]
    if force or options.force:
        words.append("--force")
    return shlex.join(words)


def _after_a_failed_gate(options: BundleOptions, run: Path | None) -> str:
    """Say what can be done with a policy that its gate refused."""
    if run is None:
        return "With --force it is written all the same"
    evaluating = shlex.join(["python", "-m", "training", "evaluate", str(options.out)])
    return (
        f"Another --seed may pass; {_exporting(options, run, force=True)} writes this one all the"
        f" same, and {evaluating} then shows all of its figures"
    )
