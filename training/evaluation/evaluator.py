"""The whole evaluation of a policy: greedy episodes, robustness and the gate."""

from dataclasses import dataclass

from models.manifest import Evaluation, Gate, Plant, RobustnessEvaluation
from training.envs.plant import STANDARD
from training.evaluation.episodes import EPISODES, SEED, run_episodes, summarize
from training.evaluation.gate import GateName, check_gate
from training.evaluation.robustness import evaluate_robustness
from training.types import Float32Array, OnStage, QFunction, no_stage


@dataclass(frozen=True)
class PolicyEvaluation:
    """What was measured of a policy."""

    evaluation: Evaluation
    robustness: RobustnessEvaluation
    gate: Gate
    states: Float32Array  # (n, 4), those that the greedy episodes went through


def evaluate_policy(
    q_values: QFunction,
    gate: GateName,
    *,
    stopped: str,
    plant: Plant = STANDARD,
    seed: int = SEED,
    episodes: int = EPISODES,
    scenario_episodes: int | None = None,
    on_stage: OnStage = no_stage,
) -> PolicyEvaluation:
    """Evaluate a policy on its plant; its training `stopped` for some reason.

    `scenario_episodes` replaces each scenario's own number of episodes.

    Raises `ValueError` for a seed that training may use, or select an agent by.
    """
    results = run_episodes(q_values, episodes=episodes, seed=seed, on_stage=on_stage, plant=plant)
    evaluation = summarize(results, seed)
    robustness = evaluate_robustness(
        q_values, seed=seed, episodes=scenario_episodes, on_stage=on_stage, plant=plant
    )
    return PolicyEvaluation(
        evaluation,
        robustness,
        check_gate(gate, evaluation, robustness, stopped=stopped),
        results.states,
    )
