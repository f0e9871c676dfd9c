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
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, Suppress, arg, subcommand
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from models.manifest import Name, Version
from training.recipes import RECIPES, AnyRecipe, BaselineRecipe, PopulationRecipe
from training.seeding import EVALUATION_SEEDS, TRAINING_SEEDS

PROGRAM = "python -m training"
DEFAULT_RECIPE = "robust"
RECIPE_SUMMARIES = {
    "robust": "What ships in models/cartpole-dqn: withstands noise, delay, pushes, other plants.",
    "quick": "Balances the nominal plant after a second of learning, and little more: of the states"
    " that can be saved it saves a fifth.",
    "baseline": "The tutorial's agent, fact by fact.",
}

Folder = Annotated[Path, arg(metavar="FOLDER")]
OptionalFolder = Annotated[Path | None, arg(metavar="FOLDER")]
Switch = FlagCreatePairsOff[bool]  # --json, but no --no-json
JsonSwitch = Annotated[Switch, arg(name="json")]

ONE_OF_BOTH = tyro.conf.create_mutex_group(required=False, title="start options")


class UsageError(Exception):
    """Raised when what was typed cannot be done; its text names the flags as they are typed."""


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


Command = TrainCommand | EvaluateCommand | ExportCommand


def parse(arguments: Sequence[str]) -> Command:
    """Return the command that was typed.

    Raises `UsageError` for a value that is out of range. Exits by itself where help was asked for
    (0) or the words are not those of a command (2).
    """
    arguments = list(arguments)
    if arguments[:1] == ["train"]:
        command = _parse_train(arguments[1:])
    else:
        commands: Any = Union[  # noqa: UP007 - tyro reads the annotations
            Annotated[TrainCommand, subcommand("train")],
            Annotated[EvaluateCommand, subcommand("evaluate")],
            Annotated[ExportCommand, subcommand("export")],
        ]
        command = tyro.cli(
            commands,
            prog=PROGRAM,
            description="Train a DQN to balance CartPole-v1, evaluate it, and export it as a bundle"
            " that `python -m service` serves.\n\n"
            f"A first run: {PROGRAM} train --out my-policy",
            args=arguments,
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
                    default=TrainCommand.model_construct(bundle=tyro.MISSING, recipe=recipe),
                    description=RECIPE_SUMMARIES[name],
                ),
            ]
            for name, recipe in RECIPES.items()
        )
    ]
    command: Command = tyro.cli(
        recipes,
        prog=f"{PROGRAM} train",
        description=inspect.getdoc(TrainCommand),
        args=arguments,
        registry=_registry,
    )
    return command


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
        if name == "recipe":  # of one recipe, not of any
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

    if not path:  # two hyperparameters do not fit together, and the message names them
        names = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b")
        return names.sub(lambda name: _flag(name[0]), message)
    return f"{_flag('.'.join(path))}: {message}, not {detail['input']!r}"


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"
