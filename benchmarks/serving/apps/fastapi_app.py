"""Plain FastAPI: async def, Pydantic models in and out, as its tutorial has it."""

from fastapi import FastAPI
from onnx_policy import Model
from pydantic import BaseModel

app = FastAPI()
model = Model()


class State(BaseModel):
    """One state."""

    state: tuple[float, float, float, float]


class Answer(BaseModel):
    """The greedy action and the Q-values behind it."""

    action: int
    action_name: str
    q_values: list[float]


class States(BaseModel):
    """Several states."""

    states: list[tuple[float, float, float, float]]


class Answers(BaseModel):
    """The greedy actions and the Q-values behind them."""

    actions: list[int]
    action_names: list[str]
    q_values: list[list[float]]


@app.post("/act/batch")
async def act_batch(request: States) -> Answers:
    """Answer several states."""
    return Answers(**model.answers(request.states))


@app.post("/act")
async def act(request: State) -> Answer:
    """Answer one state."""
    return Answer(**model.answer(request.state))
