"""The schemas of requests and responses."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, FailFast, Field

# From here on a number rounds to infinity as a 32-bit float (IEEE 754):
# (2 - 2⁻²⁴) · 2¹²⁷, half a step above the largest one.
FLOAT32_OVERFLOW = 3.4028235677973366e38

StateNumber = Annotated[
    float, Field(gt=-FLOAT32_OVERFLOW, lt=FLOAT32_OVERFLOW, allow_inf_nan=False)
]
State = tuple[StateNumber, StateNumber, StateNumber, StateNumber]
SequenceNumber = Annotated[int, Field(ge=0, le=2**63 - 1)]


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class ActRequest(_Request):
    """One state to act on."""

    state: State = Field(
        description="cart position (m), cart velocity (m/s), pole angle (rad), "
        "pole angular velocity (rad/s); finite as 32-bit floats",
        examples=[[0.0, 0.0, 0.05, 0.0]],
    )
    seq: SequenceNumber | None = Field(
        None, description="echoed in the answer, so that a late answer is never taken for this one"
    )
    strict: bool = Field(
        False, description="refuse a state outside what training saw, in place of an action"
    )


class BatchRequest(_Request):
    """Several states to act on, each by itself."""

    # Reading ends at the first bad state: a batch can be wrong in more places than there is memory
    # to describe them.
    states: Annotated[list[State], FailFast()] = Field(
        min_length=1,
        description="states as in /act",
        examples=[[[0.0, 0.0, 0.05, 0.0], [0.0, 0.0, -0.05, 0.0]]],
    )
    seq: SequenceNumber | None = Field(None, description="echoed in the answer")
    strict: bool = Field(
        False, description="refuse all, where one state is outside what training saw"
    )


class ActResponse(BaseModel):
    """The greedy action and the Q-values behind it."""

    action: int = Field(description="the greedy action, the first at a tie")
    action_name: str
    q_values: list[float] = Field(description="one for each action")
    out_of_range: list[str] = Field(description="state values outside what training saw")
    model: str = Field(description="name of the bundle that answered")
    digest: str = Field(description="identity of the bundle that answered")
    seq: int | None = Field(
        None,
        description="as in the request; absent if it had none",
        exclude_if=lambda seq: seq is None,
    )


class BatchResponse(BaseModel):
    """Columns, one entry for each state in the request's order.

    Each row is what /act would have answered.
    """

    actions: list[int]
    action_names: list[str]
    q_values: list[list[float]]
    out_of_range: list[list[str]]
    model: str
    digest: str
    seq: int | None = Field(
        None,
        description="as in the request; absent if it had none",
        exclude_if=lambda seq: seq is None,
    )


class FieldError(BaseModel):
    """What is wrong with one part of the request's body."""

    pointer: str = Field(
        description="JSON pointer to the part, as a URI fragment", examples=["#/state/3"]
    )
    detail: str


class Problem(BaseModel):
    """A problem as RFC 9457 defines it."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] = Field(
        [],
        description="the bad fields of the body, the first ten at most",
        exclude_if=lambda errors: not errors,
    )


class Health(BaseModel):
    """How the service is."""

    status: str
