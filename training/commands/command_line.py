"""What can be typed after `python -m training`: tyro makes it of the classes below.

Importing it must stay quick: torch takes seconds to import, and `--help` or a misspelt option must
not wait for it.
"""

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_type_hints

import tyro
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, Suppress, arg, subcommand
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from models.manifest import Name, Plant, Version
from training.commands.usage import UsageError, read_words
from training.recipes import RECIPES, AnyRecipe, BaselineRecipe, PopulationRecipe
from training.seeding import EVALUATION_SEEDS, TRAINING_SEEDS
from training.sweep.trials import SweepError, parse_changes, parse_seeds

PROGRAM = "python -m training"
DEFAULT_RECIPE = "robust"
RECIPE_SUMMARIES = {
    "robust": "What ships in models/cartpole-dqn: withstands noise, delay, pushes, other plants.",
    "quick": "A first look, after a second of learning: balances the nominal plant, but saves a"
    " sixth of what can be saved and falls when its actions come a step late.",
    "baseline": "The tutorial's agent, fact by fact.",
}

Folder = Annotated[Path, arg(metavar="FOLDER")]
File = Annotated[Path, arg(metavar="FILE")]
OptionalFolder = Annotated[Path | None, arg(metavar="FOLDER")]
Switch = FlagCreatePairsOff[bool]  # --json, but no --no-json
JsonSwitch = Annotated[Switch, arg(name="json")]

OptionalFile = Annotated[Path | None, arg(metavar="FILE")]
OptionalText = str | None
OptionalCount = int | None

ONE_KIND = tyro.conf.create_mutex_group(required=False, title="kind of sweep")
ONE_OF_BOTH = tyro.conf.create_mutex_group(required=False, title="start options")


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BundleOptions(_Options):
    """The bundle that is written."""

    out: Folder = Field(description="the bundle's folder; an older bundle there is replaced whole")
    name: Annotated[Name | None, arg(metavar="NAME")] = Field(
        None, description="the model's name; without it, the name of the bundle's folder"
    )
    model_version: Annotated[Version, arg(metavar="VERSION")] = Field(
        "1", description="the model's version"
    )
    force: Switch = Field(
        False,
        description="export a policy that fails its gate, too, with the failure in the manifest",
    )


class RunOptions(_Options):
    """How training is run."""

    seed: Annotated[int, arg(metavar="N")] = Field(
        0,
        ge=TRAINING_SEEDS.start,
        lt=TRAINING_SEEDS.stop,
        description="the same seed gives the same weights on one machine",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where the network learns; auto is CUDA if there is one"
    )
    run: OptionalFolder = Field(
        None, description="where checkpoints are kept; without it, runs/RECIPE-SEED"
    )
    resume: Annotated[Switch, ONE_OF_BOTH] = Field(
        False,
        description="go on from the run's newest checkpoint, bit for bit as if never stopped",
    )
    restart: Annotated[Switch, ONE_OF_BOTH] = Field(
        False, description="discard an unfinished run in the same folder"
    )
    checkpoint_every: Annotated[float, arg(metavar="SECONDS")] = Field(
        30.0, gt=0, description="time between two checkpoints"
    )
    json_output: JsonSwitch = Field(False, description="print JSON, an object a line, for programs")
    tensorboard: OptionalFolder = Field(None, description="write scalars for TensorBoard here")


class TrainCommand(_Options):
    """Train a policy by a recipe, evaluate it, and write it as a bundle.

    `train` alone means `train robust`. Ctrl-C ends training and keeps what was learned.
    """

    bundle: OmitArgPrefixes[BundleOptions]
    run: OmitArgPrefixes[RunOptions] = RunOptions()
    recipe: Annotated[AnyRecipe, arg(name="")]


class EvaluateCommand(_Options):
    """Evaluate a bundle's ONNX file, beside a linear-quadratic regulator in the same episodes.

    Exits with 1 where the policy does not pass its recipe's gate.
    """

    bundle: Positional[Folder] = Field(description="the bundle to evaluate")
    episodes: Annotated[int, arg(metavar="N")] = Field(
        1_000, ge=1, le=100_000, description="number of greedy episodes"
    )
    seed: Annotated[int, arg(metavar="N")] = Field(
        EVALUATION_SEEDS.start,
        ge=EVALUATION_SEEDS.start,
        lt=EVALUATION_SEEDS.stop,
        description="seed of the episodes; none that training may use",
    )
    json_output: JsonSwitch = Field(False, description="print one JSON object, for programs")
    update: Switch = Field(
        False,
        description="write the bundle anew with this evaluation, its card and its pictures; the"
        " policy stays as it is",
    )


class ExportCommand(_Options):
    """Export a run that `train` has kept, from its newest checkpoint."""

    run: Positional[Folder] = Field(description="the folder of the run, such as runs/robust-0")
    bundle: OmitArgPrefixes[BundleOptions]


class SweepCommand(_Options):
    """Train a recipe many times at once, by Ray: over seeds, without each ingredient, in a search.

    Ctrl-C keeps all results so far, and --resume goes on. The table, the report and the bundles of
    the policies that pass their gate are in --storage. Needs the extra `ray`.
    """

    recipe: Annotated[str, arg(metavar="NAME")] = Field(
        DEFAULT_RECIPE, description=f"one of {', '.join(RECIPES)}"
    )
    seeds: Annotated[str, arg(metavar="N-N")] = Field(
        "0-4", description="seeds of each variation, as in 0-19 or 0,2,5-9"
    )
    changes: Annotated[tuple[str, ...], arg(name="set", metavar="NAME=VALUE ...")] = Field(
        (), description="hyperparameters of all trials, as in steps=4000 or hidden=[32,32]"
    )
    ablation: Annotated[Switch, ONE_KIND] = Field(
        False, description="the recipe, and the recipe without each of its ingredients"
    )
    search: Annotated[OptionalFile, ONE_KIND] = Field(
        None, description="a search over the hyperparameters' ranges in this file"
    )
    plants: Annotated[OptionalFile, ONE_KIND] = Field(
        None, description="one policy for each plant in this file"
    )
    report: Annotated[OptionalText, ONE_KIND, arg(metavar="FOLDER")] = Field(
        None, description="train nothing: write the report of the sweep in this storage again"
    )
    storage: Annotated[OptionalText, arg(metavar="FOLDER|URL")] = Field(
        None,
        description="where the sweep keeps everything, which all machines must reach; without it,"
        " runs/sweep-RECIPE-KIND",
    )
    resume: Switch = Field(False, description="go on with the sweep in --storage")
    dry_run: Switch = Field(
        False, description="print the trials and what they will take, and train nothing"
    )
    address: Annotated[str, arg(metavar="ADDRESS")] = Field(
        "local", description="a Ray cluster: auto, HOST:PORT or ray://HOST:PORT; local starts one"
    )
    cpus: Annotated[OptionalCount, arg(metavar="N")] = Field(
        None, ge=1, description="CPUs of this machine to use with --address local; all without it"
    )
    cpus_per_trial: Annotated[float, arg(metavar="N")] = Field(
        1.0, ge=0.1, description="CPUs that a trial occupies"
    )
    gpus_per_trial: Annotated[float, arg(metavar="N")] = Field(
        0.0, ge=0, description="GPUs that a trial occupies; 0.25 lets four trials share one"
    )
    attempts: Annotated[int, arg(metavar="N")] = Field(
        10, ge=1, description="how often a trial is started whose process or machine dies"
    )
    any_processor: Switch = Field(
        False,
        description="let a trial go on on another kind of processor, from its checkpoint; its"
        " weights are then no single kind's. Without it, the trial begins anew",
    )
    checkpoint_every: Annotated[float, arg(metavar="SECONDS")] = Field(
        30.0, gt=0, description="time between two checkpoints of a trial"
    )
    episodes: Annotated[OptionalCount, arg(metavar="N")] = Field(
        None, ge=1, le=100_000, description="greedy episodes of each evaluation; 1,000 without it"
    )
    scenario_episodes: Annotated[OptionalCount, arg(metavar="N")] = Field(
        None, ge=1, le=2_000, description="episodes of each scenario, in place of its own number"
    )
    price: Annotated[float, arg(metavar="PRICE")] = Field(
        0.0, ge=0, description="of an hour of one CPU, or of one GPU where trials use any"
    )
    json_output: JsonSwitch = Field(False, description="print JSON, an object a line, for programs")

    @field_validator("recipe")
    @classmethod
    def _check_recipe(cls, name: str) -> str:
        if name not in RECIPES:
            raise ValueError(f"expected one of {', '.join(RECIPES)}")
        return name

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, text: str) -> str:
        try:
            parse_seeds(text)
        except SweepError as error:
            raise ValueError(str(error)) from error
        return text

    @field_validator("changes")
    @classmethod
    def _check_changes(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        try:
            parse_changes(words)
        except SweepError as error:
            raise ValueError(str(error)) from error
        return words


class ImportCommand(_Options):
    """Import a policy that another program has trained, evaluate it, and write it as a bundle.

    FILE is an ONNX file, what `DQN.save` of Stable-Baselines3 wrote, or a state dict of torch. Only
    its weights are read; nothing in it is run or unpickled.
    """

    file: Positional[File] = Field(description="the policy: (n, 4) states to (n, 2) Q-values")
    bundle: OmitArgPrefixes[BundleOptions]
    gate: Literal["robust", "nominal"] = Field(
        "robust",
        description="what it must pass: in each scenario nearly the LQR's success rate, or the"
        " plain plant alone",
    )
    plant: Plant = Field(Plant(), description="the cart-pole that it is evaluated on")
    json_output: JsonSwitch = Field(False, description="print JSON, an object a line, for programs")


Command = TrainCommand | EvaluateCommand | ExportCommand | ImportCommand | SweepCommand


def parse(arguments: Sequence[str]) -> Command:
    """Return the command that was typed.

    Raises `UsageError` where the words are not those of a command, or a value is out of range.
    Exits by itself where help was asked for.
    """
    arguments = list(arguments)
    if arguments[:1] == ["train"]:
        command = _parse_train(arguments[1:])
    else:
        commands: Any = Union[  # noqa: UP007 - tyro reads the annotations
            Annotated[TrainCommand, subcommand("train", default=_with(RECIPES[DEFAULT_RECIPE]))],
            Annotated[EvaluateCommand, subcommand("evaluate")],
            Annotated[ExportCommand, subcommand("export")],
            Annotated[ImportCommand, subcommand("import")],
            Annotated[SweepCommand, subcommand("sweep")],
        ]
        command = read_words(
            commands,
            arguments,
            prog=PROGRAM,
            description="Train a DQN to balance CartPole-v1, evaluate it, and export it as a bundle"
            " that `python -m service` serves.\n\n"
            f"A first run: {PROGRAM} train --out my-policy",
            registry=_registry,
        )

    try:
        return type(command).model_validate(command.model_dump())
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise UsageError("; ".join(_problem(detail) for detail in details)) from error


def _parse_train(arguments: list[str]) -> Command:
    """Return the command of the words after `train`, the first of which is a recipe's name."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments.insert(0, DEFAULT_RECIPE)

    recipes: Any = Union[  # noqa: UP007 - made of as many types as there are recipes
        tuple(
            Annotated[
                TrainCommand,
                subcommand(
                    name,
                    default=_with(recipe),
                    description=RECIPE_SUMMARIES[name],
                ),
            ]
            for name, recipe in RECIPES.items()
        )
    ]
    command: Command = read_words(
        recipes,
        arguments,
        prog=f"{PROGRAM} train",
        description=inspect.getdoc(TrainCommand) or "",
        registry=_registry,
    )
    return command


def _with(recipe: AnyRecipe) -> TrainCommand:
    """Return what `train` does by a recipe where no flag says otherwise."""
    return TrainCommand.model_construct(bundle=tyro.MISSING, recipe=recipe)


_registry = ConstructorRegistry()


@_registry.struct_rule
def _unchecked_model(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Let tyro fill Pydantic models without their checks.

    `parse` checks the whole command afterwards, and can so name every field by its flag.
    """
    model = info.type
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return None

    hints = get_type_hints(model, include_extras=True)
    fields = []
    for name, field in model.model_fields.items():
        default = tyro.MISSING if field.is_required() else field.default
        if isinstance(info.default, model):
            default = getattr(info.default, name, default)
        hint: Any = hints[name]
        if name == "recipe" and model is TrainCommand:  # of one recipe, not of any
            hint = Annotated[type(default), arg(name="")]
        elif issubclass(model, BaselineRecipe | PopulationRecipe) and name in ("name", "gate"):
            hint = Annotated[hint, Suppress]
        fields.append(
            StructFieldSpec(name=name, type=hint, default=default, helptext=field.description)
        )

    def build(**values: Any) -> BaseModel:
        return model.model_construct(None, **values)

    build.__doc__ = model.__doc__
    return StructConstructorSpec(instantiate=build, fields=tuple(fields))


def _problem(detail: ErrorDetails) -> str:
    """Say what is wrong with a flag, as it is typed."""
    message = detail["msg"].removeprefix("Value error, ")
    path = [part for part in detail["loc"] if isinstance(part, str)]
    match path:
        case ["recipe", _, *rest]:  # the second is the recipe's name
            path = rest
        case ["bundle" | "run", *rest]:
            path = rest
        case ["changes"]:
            path = ["set"]

    if not path:  # two hyperparameters do not fit together, and the message names them
        names = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b")
        return names.sub(lambda name: _flag(name[0]), message)
    if isinstance(detail["input"], dict):  # several values do not fit, and the message names them
        return f"{_flag('.'.join(path))}: {message}"
    return f"{_flag('.'.join(path))}: {message}, not {detail['input']!r}"


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"
