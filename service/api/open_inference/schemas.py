"""The JSON documents of the Open Inference Protocol v2 over REST."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, WithJsonSchema

Parameters = dict[str, JsonValue]
# Of a request, null is as if the field had been left out, as in other servers of the protocol.
OptionalParameters = Annotated[
    Parameters,
    BeforeValidator(lambda value: {} if value is None else value),
    WithJsonSchema({"type": ["object", "null"], "default": {}}),
]
OptionalFlag = Annotated[
    bool,
    BeforeValidator(lambda value: False if value is None else value),
    WithJsonSchema({"type": ["boolean", "null"]}),
]
Dimension = Annotated[int, Field(ge=-(2**63), le=2**63 - 1, strict=True)]


# Defaults come from factories: pydantic copies a mutable default deeply for each request.


class _Part(BaseModel):
    # Unlike on /act, an unknown field is no error: the protocol lets its extensions add some.
    model_config = ConfigDict(frozen=True)

    name: str
    parameters: OptionalParameters = Field(default_factory=dict)


# What the OpenAPI document says of a request is narrower than what is validated by these classes:
# `protocol` beside it refuses the rest, in words that name the model's own tensors.
_SHAPE: dict[str, JsonValue] = {
    "prefixItems": [{"type": "integer", "minimum": 1}, {"type": "integer", "const": 4}],
    "minItems": 2,
    "maxItems": 2,
}


class InputTensor(_Part):
    """An input: `data` has its numbers, flat or in rows, unless they follow the JSON as bytes."""

    name: str = Field(json_schema_extra={"const": "state"})
    shape: list[Dimension] = Field(max_length=16, json_schema_extra=_SHAPE)
    datatype: str = Field(
        json_schema_extra={"enum": ["FP32", "FP64", "FP16", "INT32", "INT64"]},
        description="numbers of another type than FP32 must be in its range, whole ones exact",
    )
    data: list[JsonValue] | None = None


class RequestedOutput(_Part):
    """An output that is asked for."""


class InferRequest(BaseModel):
    """What to infer. The one input is `state`, FP32 of shape [n, 4]."""

    model_config = ConfigDict(
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "id": "a",
                    "inputs": [
                        {
                            "name": "state",
                            "shape": [1, 4],
                            "datatype": "FP32",
                            "data": [0.0, 0.0, 0.05, 0.0],
                        }
                    ],
                }
            ]
        },
    )

    id: str | None = None
    parameters: OptionalParameters = Field(default_factory=dict)
    inputs: list[InputTensor] = Field(
        max_length=16, json_schema_extra={"minItems": 1, "maxItems": 1}
    )
    outputs: Annotated[
        list[RequestedOutput], BeforeValidator(lambda value: [] if value is None else value)
    ] = Field(
        default_factory=list,
        max_length=16,
        description="all, if none is named",
        json_schema_extra={"type": ["array", "null"], "default": []},
    )


class _Document(BaseModel):
    # Most of these are read for the OpenAPI document alone: their validators cost a start 4 ms.
    model_config = ConfigDict(defer_build=True)


class RepositoryRequest(_Document):
    """Options of a repository request, none of which changes anything here."""

    ready: OptionalFlag = Field(False, strict=True)
    parameters: OptionalParameters = Field(default_factory=dict)


class LoadRequest(RepositoryRequest):
    """As any repository request, but without parameters."""

    parameters: OptionalParameters = Field({}, json_schema_extra={"maxProperties": 0})


class ServerMetadata(_Document):
    """The server and the extensions of the protocol that it knows."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(_Document):
    """Whether the process is alive."""

    live: bool


class ServerReady(_Document):
    """Whether the server takes requests."""

    ready: bool


class ModelReady(_Document):
    """Whether a model takes requests."""

    name: str
    ready: bool


class TensorMetadata(_Document):
    """A tensor; -1 in its shape is any number."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(_Document):
    """The model's inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    properties: dict[str, str]
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class TensorConfig(_Document):
    """A tensor, whose shape is without the batch."""

    name: str
    data_type: str
    dims: list[int]


class ModelConfig(_Document):
    """The model as Triton's own configuration would describe it."""

    name: str
    platform: str
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]


class Duration(_Document):
    """How often something was done, and how long it took in all."""

    count: int
    ns: int


class InferStatistics(_Document):
    """Inferences that were answered and those that failed, and where the time went."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class ModelStatistics(_Document):
    """What was inferred since the service began."""

    name: str
    version: str
    last_inference: int = Field(description="milliseconds since 1970; 0 where there was none")
    inference_count: int = Field(description="states")
    execution_count: int = Field(description="runs of the policy, each over one or more states")
    inference_stats: InferStatistics
    response_stats: dict[str, JsonValue]
    batch_stats: list[JsonValue]
    memory_usage: list[JsonValue]


class Statistics(_Document):
    """The statistics of the one model, as Triton's extension has them."""

    model_stats: list[ModelStatistics]


class OutputTensor(_Document):
    """An output: `data` has its numbers, unless they follow the JSON as bytes."""

    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters = {}
    data: list[float] | None = None


class InferResponse(_Document):
    """The outputs that were asked for. The parameter `digest` names the bundle that answered."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: Parameters = {}
    outputs: list[OutputTensor]


class ModelIndexEntry(_Document):
    """A model of the repository."""

    name: str
    version: str
    state: Literal["READY"]
    reason: str


class ModelList(_Document):
    """The models that are served."""

    models: list[ModelIndexEntry]


class Empty(_Document):
    """Nothing more than that it was done."""


class OpenInferenceErrorResponse(_Document):
    """Why a request cannot be answered."""

    error: str
