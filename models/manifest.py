"""The manifest of a bundle: its schema, version 2, as Pydantic models.

Training writes a manifest and the service reads it. Both rely on the meaning of every field, so a
change of names or meanings needs a new `schema_version`.
"""

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)

MANIFEST = "manifest.json"  # the file's name in the bundle's folder

TOLERANCE_RATIO = 0.01  # of the largest Q-value: the most that a golden state may tolerate
MOST_BRAKED = 0.2  # of the cart's velocity, by friction in one step
FLOAT32_MAX = 3.4028234663852886e38
Finite = Annotated[float, Field(allow_inf_nan=False)]
Float32 = Annotated[float, Field(allow_inf_nan=False, ge=-FLOAT32_MAX, le=FLOAT32_MAX)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=50)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Format = Literal["onnx", "torchscript"]


def _check_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"must be one line of characters that can be printed, not {text[:60]!r}")
    return text


# People read these on terminals, in logs and on pages.
Line = Annotated[str, Field(max_length=500), AfterValidator(_check_line)]
ActionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$", max_length=50)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Artifact(_Part):
    """One file of the bundle that a program loads."""

    file: FileName
    size: int = Field(ge=0, le=1 << 26, description="bytes; a policy has some ten thousand")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Plant(_Part):
    """The physical constants of a cart with a pole. The defaults are those of CartPole-v1."""

    cart_mass: Finite = Field(1.0, ge=0.05, le=100, description="kg")
    pole_mass: Finite = Field(0.1, ge=0.005, le=50, description="kg")
    half_length: Finite = Field(0.5, ge=0.05, le=5, description="m, half of the pole's length")
    force: Finite = Field(10.0, ge=0.1, le=1_000, description="N, of the motor in either direction")
    gravity: Finite = Field(9.8, ge=0.5, le=50, description="m/s²")
    step_seconds: Finite = Field(0.02, ge=0.002, le=0.1, description="s, between two states")
    friction: Finite = Field(
        0.0, ge=0, le=50, description="N·s/m, what brakes the cart by its velocity"
    )

    @model_validator(mode="after")
    def _stable(self) -> Self:
        braked = self.friction * self.step_seconds / (self.cart_mass + self.pole_mass)
        if braked > MOST_BRAKED:
            raise ValueError(
                f"friction: {self.friction:g} N·s/m takes {braked:.0%} of the cart's velocity in a"
                f" step; at most {MOST_BRAKED:.0%} can be simulated: less friction, a shorter step"
                " or more mass"
            )
        return self


class Environment(_Part):
    """What the policy was trained in, or evaluated in, where it was imported."""

    id: Line
    step_seconds: float = Field(gt=0, description="time between two states")
    max_episode_steps: int = Field(gt=0)
    plant: Plant = Plant()

    @model_validator(mode="after")
    def _one_step(self) -> Self:
        if self.step_seconds != self.plant.step_seconds:
            raise ValueError(
                f"step_seconds is {self.step_seconds}, but the plant's {self.plant.step_seconds}"
            )
        return self


class StateValue(_Part):
    """One of the four numbers of a state: its meaning, its bounds and its range in training."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    unit: Line
    low: Finite | None = Field(
        description="least value the environment can observe; none if unbounded"
    )
    high: Finite | None = Field(
        description="largest value the environment can observe; none if unbounded"
    )
    training_min: Float32 = Field(description="least value in training")
    training_max: Float32 = Field(description="largest value in training")
    quantiles: dict[Line, Finite] = Field(
        description="quantiles of the values in training, by their fraction"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.training_min > self.training_max:
            raise ValueError(
                f"{self.name}: training_min {self.training_min} is above"
                f" training_max {self.training_max}"
            )
        return self


class Network(_Part):
    """The shape of the network: states in, hidden layers with ReLU, Q-values out."""

    inputs: int = Field(gt=0)
    hidden: tuple[Annotated[int, Field(gt=0)], ...]
    outputs: int = Field(gt=0)
    activation: Literal["relu"] = "relu"


class Origin(_Part):
    """The file of another program that a policy was imported from."""

    file: Line = Field(description="its name")
    size: int = Field(ge=0, description="bytes")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    kind: Literal["onnx", "stable-baselines3", "state-dict"]
    library: Line | None = Field(
        description="the program that wrote it, with its version; none where the file tells none"
    )


class Provenance(_Part):
    """How the policy came to be."""

    recipe: Line
    hyperparameters: dict[str, JsonValue]
    seed: int = Field(ge=0)
    device: Line
    processor: Line = Field(
        description="model of the processor that trained: weights differ between models"
    )
    versions: dict[Line, Line] = Field(
        description="releases of Python and the libraries that trained and exported"
    )
    commit: Line | None = Field(
        description="commit of the project, with +changes where the checkout had any; none outside"
        " of git"
    )
    steps: int = Field(ge=0, description="environment steps, of all agents together")
    stopped: Line = Field(description="why training ended")
    seconds: float = Field(ge=0, description="wall time of training")
    origin: Origin | None = Field(
        None,
        description="the file that the policy was imported from: the ranges of its state values are"
        " then those of its evaluation, and nothing is known of its training; none where it was"
        " trained here",
    )


class Evaluation(_Part):
    """Greedy episodes of the exported ONNX file, on seeds that training never uses."""

    seed: int
    episodes: int = Field(gt=0)
    mean: Finite = Field(description="mean score, in steps")
    minimum: int = Field(ge=0, description="worst score, in steps")
    success_rate: float = Field(
        ge=0, le=1, description="share of the episodes that lasted to the time limit"
    )


class ScenarioResult(_Part):
    """How often the pole stayed up in one scenario: episodes under one kind of difficulty."""

    name: Line
    steps: int = Field(gt=0, description="length of an episode")
    episodes: int = Field(gt=0)
    success_rate: float = Field(
        ge=0, le=1, description="share of the episodes in which the pole stayed up"
    )
    lqr_success_rate: float = Field(
        ge=0, le=1, description="the same of a linear-quadratic regulator, in the same episodes"
    )
    is_required: bool = Field(
        True, description="whether the gate `robust` asks for it; else it is told alone"
    )


class RecoveryMap(_Part):
    """Where the policy saves the pole, over two state values; the other two are 0."""

    state: tuple[Line, Line] = Field(description="names of the state values: columns, rows")
    half_widths: tuple[Finite, Finite] = Field(
        description="the columns go from - this to this, the rows from this down to - this"
    )
    rows: tuple[Line, ...] = Field(
        min_length=1,
        description="a character a start: `+` the policy saves it, `-` it does not though some"
        " sequence of actions does, `?` it does not and nobody knows whether one does,"
        " `.` no sequence does, by proof",
    )

    @model_validator(mode="after")
    def _rectangular(self) -> Self:
        if len({len(row) for row in self.rows}) != 1 or set("".join(self.rows)) - set("+-?."):
            raise ValueError("the rows of a map must be equally long, and hold +, -, ? and .")
        return self


class Recovery(_Part):
    """What the scenario `recovery` is a part of: starts drawn uniformly from a box."""

    half_widths: tuple[Finite, ...] = Field(description="of the box, in the order of the state")
    drawn: int = Field(gt=0, description="starts that were drawn from the box")
    recoverable: float = Field(
        ge=0, le=1, description="share of them that a sequence of actions is known to save"
    )
    lost: float = Field(ge=0, le=1, description="share that no sequence saves, by proof")
    map: RecoveryMap


class RobustnessEvaluation(_Part):
    """How the exported ONNX file does beyond the nominal plant, beside an LQR."""

    seed: int
    scenarios: tuple[ScenarioResult, ...] = Field(min_length=1)
    recovery: Recovery | None = None


class Gate(_Part):
    """What the recipe asks of a policy before it is exported, and whether this one passed."""

    name: Literal["tutorial", "nominal", "robust"]
    passed: bool
    failures: tuple[Line, ...] = Field(
        description="what the policy failed, in words; empty if it passed"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.passed == bool(self.failures):
            raise ValueError(
                f"passed is {self.passed}, but there are {len(self.failures)} failures"
            )
        return self


class Parity(_Part):
    """How closely torch, ONNX and TorchScript come to the network in 64-bit arithmetic."""

    states: int = Field(gt=0)
    largest_error: dict[Line, Finite] = Field(
        description="largest distance from the 64-bit Q-values, by runtime"
    )
    largest_bound: Finite = Field(
        gt=0, description="largest error in any of the states that 32-bit rounding explains"
    )
    near_ties: int = Field(
        ge=0,
        description="states whose two best Q-values lie within their bounds of each other, where"
        " actions may differ",
    )


class GoldenState(_Part):
    """A state with the Q-values that every backend must reproduce before it serves."""

    state: tuple[Float32, ...]
    q_values: tuple[Float32, ...] = Field(description="by 64-bit arithmetic, rounded to 32 bits")
    tolerance: float = Field(
        gt=0, allow_inf_nan=False, description="error that 32-bit rounding explains in these"
    )


class Manifest(_Part):
    """All that is known of a bundle. The SHA-256 of its file is the bundle's digest."""

    schema_version: Literal[2] = 2
    name: Name
    version: Version
    created: AwareDatetime
    provenance: Provenance
    environment: Environment
    state: tuple[StateValue, ...] = Field(min_length=1)
    actions: tuple[ActionName, ...] = Field(min_length=1)
    network: Network
    evaluation: Evaluation
    robustness: RobustnessEvaluation
    gate: Gate
    parity: Parity
    golden_states: tuple[GoldenState, ...] = Field(min_length=1)
    artifacts: dict[Format, Artifact] = Field(min_length=1)
    extra_files: tuple[FileName, ...] = Field(
        default=(), description="files beside the artifacts, for people"
    )

    @property
    def files(self) -> frozenset[str]:
        """The names of all files in the bundle's folder but the manifest's own."""
        return frozenset(artifact.file for artifact in self.artifacts.values()) | frozenset(
            self.extra_files
        )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self._check_shapes()
        self._check_names()
        return self

    def _check_shapes(self) -> None:
        shape = (self.network.inputs, self.network.outputs)
        if shape != (len(self.state), len(self.actions)):
            raise ValueError(
                f"network is {shape[0]} → {shape[1]}, but there are {len(self.state)} state values"
                f" and {len(self.actions)} actions"
            )

        for index, golden in enumerate(self.golden_states):
            if (len(golden.state), len(golden.q_values)) != shape:
                raise ValueError(
                    f"golden_states[{index}] does not have {shape[0]} state values"
                    f" and {shape[1]} Q-values"
                )

        # A tolerance that lets anything pass would test nothing.
        scale = max(abs(value) for golden in self.golden_states for value in golden.q_values)
        for index, golden in enumerate(self.golden_states):
            if golden.tolerance > TOLERANCE_RATIO * max(scale, 1.0):
                raise ValueError(
                    f"golden_states[{index}] has a tolerance of {golden.tolerance:g}, above"
                    f" {TOLERANCE_RATIO:g} of the largest Q-value of all, {scale:g}"
                )

    def _check_names(self) -> None:
        for field, names in (
            ("state", [value.name for value in self.state]),
            ("actions", self.actions),
        ):
            if len(set(names)) != len(names) or not all(names):
                raise ValueError(
                    f"{field} has a name that is empty or there twice: {', '.join(names)}"
                )

        artifacts = (artifact.file for artifact in self.artifacts.values())
        file_names = [MANIFEST, *artifacts, *self.extra_files]
        if len(set(file_names)) != len(file_names):
            raise ValueError(
                f"two files of the bundle have the same name: {', '.join(sorted(file_names))}"
            )
