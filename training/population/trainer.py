"""Training of K DQN agents side by side.

The story of one vector step: every agent acts ε-greedily in its environments, stores the
transitions in its replay buffer (in an ensemble there is one for all) and learns from minibatches
of it. Every `eval_frequency` steps all agents are evaluated greedily, `validation` says how, and
the best one so far is kept. What learns goes on meanwhile where another process does that.
"""

from collections.abc import Callable

import numpy as np
import torch

from training.envs.cartpole import RandomizedCartPole
from training.envs.plant import time_ratio
from training.envs.state_statistics import StateStatistics, StateSummary
from training.network import DQNetwork
from training.population.learner import PopulationLearner, UpdateSettings
from training.population.q_networks import StackedLayers, StackedQNetworks
from training.population.replay_buffer import ReplayBuffer
from training.population.selection import Checked, ModelSelection
from training.population.validators import Validator
from training.recipes import PopulationRecipe
from training.seeding import generator_state, set_generator_state
from training.snapshot import Snapshot, Stateful
from training.trainer import History, Progress, Stopped, stopped_in
from training.types import BoolArray, Float32Array, Float64Array

REPORT_FREQUENCY = 100  # steps of the vector environment between two reports, at most
RETURN_SMOOTHING = 0.05  # weight of the newest episode in an agent's smoothed return
HISTORY_COLUMNS = (
    "steps",
    "seconds",
    "epsilon",
    "best_score",
    "median_score",
    "best_return",
    "median_return",
)


class PopulationTrainer:
    """A population in training; it can be stopped between two greedy checks."""

    def __init__(
        self,
        recipe: PopulationRecipe,
        seed: int,
        device: torch.device,
        validator: Validator | None = None,
    ) -> None:
        """Begin to train; without a `validator` the trainer validates by itself."""
        self.recipe = recipe
        self.history: History = []
        self.stopped: Stopped | None = None
        self.vector_steps = 0

        weights, exploration, sampling, environment = np.random.SeedSequence(seed).spawn(4)
        self._networks = StackedQNetworks(
            recipe.agents,
            recipe.hidden,
            np.random.default_rng(weights),
            scale=recipe.scale,
            limits=recipe.limits,
            device=device.type,
        )
        self._learner = PopulationLearner(self._networks, _update_settings(recipe))
        self._update = self._learner.update if device.type == "cpu" else self._learner.captured()
        buffers = 1 if recipe.ensemble else recipe.agents
        self._replay_buffer = ReplayBuffer(
            buffers,
            recipe.buffer_size,
            recipe.agents * recipe.num_envs // buffers,
            n_step=recipe.n_step,
            gamma=recipe.gamma ** time_ratio(recipe.plant),
            device=device.type,
        )
        self._environment = RandomizedCartPole(
            recipe.agents * recipe.num_envs,
            recipe.domain_randomization,
            recipe.reward,
            recipe.max_episode_steps,
            recipe.plant,
        )
        self._environment.reset(seed=int(environment.generate_state(1)[0]))

        self._exploration = np.random.default_rng(exploration)
        self._sampling = np.random.default_rng(sampling)
        self._selection = ModelSelection(
            recipe.model_selection, self._networks.exported_hidden, recipe.plant, validator
        )
        self._returns = _EpisodeReturns(recipe.agents, recipe.num_envs)
        # A random stream of its own, so that the statistics do not change what is learned.
        self._statistics = StateStatistics(np.random.default_rng((seed, 1)))

    @property
    def agent_steps(self) -> int:
        """Environment steps of each agent so far."""
        return self.vector_steps * self.recipe.num_envs

    @property
    def steps(self) -> int:
        """Environment steps so far, of all agents together."""
        return self.agent_steps * self.recipe.agents

    @property
    def epsilon(self) -> float:
        """Share of random actions: linear in the environment steps of an agent, then constant."""
        recipe = self.recipe
        progress = min(1.0, self.agent_steps / recipe.epsilon_steps)
        return recipe.epsilon_start + (recipe.epsilon_end - recipe.epsilon_start) * progress

    @property
    def learning_rate(self) -> float:
        """Adam's step size: linear over the whole training."""
        recipe = self.recipe
        progress = min(1.0, self.agent_steps / recipe.steps)
        return recipe.learning_rate + (recipe.learning_rate_end - recipe.learning_rate) * progress

    @property
    def network(self) -> DQNetwork:
        """The best agent; while there is none, the first."""
        best = self._selection.best
        return self._networks.agent(0, self._evaluated_layers) if best is None else best.network

    def advance(self, elapsed: Callable[[], float]) -> Progress:
        """Train for a while, and at every `eval_frequency` and at the end check greedily.

        A check is spread over several calls.
        """
        with torch.no_grad():  # the gradient is written by hand
            if not (self._is_at_end or self._selection.is_waited_for):
                self._learn()
                if self._is_at_check:
                    self._begin_check(elapsed())

        is_waiting = self._is_at_end or self._selection.is_waited_for
        checked = self._selection.poll(wait=is_waiting)
        if checked is None:
            return self._glimpse(elapsed())
        if self._selection.is_final or (self._is_at_end and not self._selection.is_pending):
            self.stopped = "limit" if self._selection.best is None else "solved"
        return self._progress(checked)

    def state_summary(self) -> StateSummary | None:
        """Return range and quantiles of the states so far; none while there was no state."""
        return self._statistics.summary()

    def snapshot(self) -> Snapshot:
        """Return all that the next step depends on."""
        rows = [[row[name] for name in HISTORY_COLUMNS] for row in self.history]
        return Snapshot(
            {"history": np.array(rows, np.float64).reshape(-1, len(HISTORY_COLUMNS))},
            {
                "vector_steps": self.vector_steps,
                "stopped": self.stopped,
                "exploration": generator_state(self._exploration),
                "sampling": generator_state(self._sampling),
            },
            {name: part.snapshot() for name, part in self._parts().items()},
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Take over the state of the trainer that gave the snapshot."""
        for name, part in self._parts().items():
            part.restore(snapshot.parts[name])

        self.vector_steps = snapshot.integer("vector_steps")
        self.stopped = stopped_in(snapshot)
        set_generator_state(self._exploration, snapshot.values["exploration"])
        set_generator_state(self._sampling, snapshot.values["sampling"])
        self.history = [
            dict(zip(HISTORY_COLUMNS, row, strict=True))
            for row in snapshot.arrays["history"].tolist()
        ]

    def _parts(self) -> dict[str, Stateful]:
        """Return everything with a state of its own, by its name in a snapshot."""
        return {
            "learner": self._learner,
            "replay_buffer": self._replay_buffer,
            "environment": self._environment,
            "returns": self._returns,
            "selection": self._selection,
            "statistics": self._statistics,
        }

    @property
    def _evaluated_layers(self) -> StackedLayers:
        """The weights that are evaluated and exported."""
        networks = self._networks
        return networks.average if self.recipe.weight_ema else networks.online

    @property
    def _is_at_end(self) -> bool:
        return self.agent_steps >= self.recipe.steps

    @property
    def _is_at_check(self) -> bool:
        return self._is_at_end or self.vector_steps % self.recipe.eval_frequency == 0

    def _learn(self) -> None:
        """Take steps up to the next check or report."""
        observed_states = []
        while True:
            observed_states.append(self._environment.observed_states)
            self._step()
            if self._is_at_check or self.vector_steps % REPORT_FREQUENCY == 0:
                break
        self._statistics.update(np.concatenate(observed_states))

    def _step(self) -> None:
        """Take one step of the vector environment, store it, and learn."""
        recipe, states = self.recipe, self._environment.observed_states
        actions = self._networks.act(states, self.epsilon, self._exploration)
        _, rewards, terminated, truncated, info = self._environment.step(actions)

        buffer = self._replay_buffer
        buffer.add(states, actions, rewards, info["final_obs"], terminated, truncated)
        self._returns.add(rewards, terminated | truncated)

        if buffer.size >= recipe.learning_starts:
            self._learner.learning_rate.fill_(self.learning_rate)
            for _ in range(recipe.updates):
                buffer.sample(self._sampling, self._learner.minibatch, recipe.mirror)
                self._update()
        self.vector_steps += 1

    def _begin_check(self, seconds: float) -> None:
        """Begin to check all agents, and note what is to be reported with it."""
        recipe, returns = self.recipe, self._returns.smoothed
        metrics = {
            "steps": self.steps,
            "agent_steps": self.agent_steps,
            "seconds": seconds,
            "epsilon": self.epsilon,
            "best_return": float(returns.max()),
            "median_return": float(np.median(returns)),
            "finite_agents": self._networks.count_finite(),
            "learning_rate": self.learning_rate,
            "terminal_share": float(self._replay_buffer.terminal_share().mean()),
            **self._learner.metrics(),
        }
        layers = self._networks.to_numpy(self._evaluated_layers)
        progress = self.agent_steps / recipe.steps
        self._selection.begin_check(layers, self.vector_steps, metrics, progress=progress)

    def _glimpse(self, seconds: float) -> Progress:
        """Report how far training is, between two checks."""
        position = self._position(self.agent_steps, self.epsilon, seconds)
        if self._is_at_end:
            line = f"{position}  validating the last agents"
        else:
            returns = self._returns.smoothed
            line = (
                f"{position}  return of an episode: best {returns.max():.2f}"
                f"  median {np.median(returns):.2f}"
            )
        return Progress(line, {"steps": self.steps, "seconds": seconds}, is_logged=False)

    def _position(self, agent_steps: int, epsilon: float, seconds: float) -> str:
        """Return where training stands; the time left is known where it goes on to its end."""
        recipe = self.recipe
        speed = agent_steps * recipe.agents / seconds if seconds > 0 else 0.0
        text = f"step {agent_steps:>7,}/{recipe.steps:,}  ε {epsilon:.3f}  {speed:>7,.0f} steps/s"
        if recipe.model_selection == "first":
            return text
        return f"{text}  {seconds * (recipe.steps / agent_steps - 1):>4.0f} s left"

    def _progress(self, checked: Checked) -> Progress:
        """Note a check that has ended in the history, and report it."""
        scores, best = checked.scores, self._selection.best
        metrics = {
            **checked.metrics,
            "best_score": float(scores.max()),
            "median_score": float(np.median(scores)),
            "selected_score": 0.0 if best is None else best.score,
        }
        agent_steps = metrics.pop("agent_steps")
        row = {name: metrics[name] for name in HISTORY_COLUMNS}
        self.history.append(row | {"steps": agent_steps})

        selected = "none" if best is None else f"{best.score:.3f}"
        line = (
            f"{self._position(int(agent_steps), metrics['epsilon'], metrics['seconds'])}"
            f"  finite {metrics['finite_agents']:.0f}/{self.recipe.agents}"
            f"  best {metrics['best_score']:.3f}  median {metrics['median_score']:.3f}"
            f"  selected {selected:>5}"
        )
        return Progress(line, metrics, is_logged=True)


class _EpisodeReturns:
    """The smoothed return of each agent's training episodes."""

    def __init__(self, agents: int, num_envs: int) -> None:
        self.smoothed: Float64Array = np.zeros(agents)
        self._so_far: Float64Array = np.zeros(agents * num_envs)  # of the running episodes
        self._num_envs = num_envs

    def add(self, rewards: Float32Array, ended: BoolArray) -> None:
        """Add a step of every environment: arrays (K · num_envs,), agent by agent."""
        self._so_far += rewards
        for environment in np.flatnonzero(ended):
            agent = environment // self._num_envs
            difference = self._so_far[environment] - self.smoothed[agent]
            self.smoothed[agent] += RETURN_SMOOTHING * difference
            self._so_far[environment] = 0

    def snapshot(self) -> Snapshot:
        return Snapshot({"smoothed": self.smoothed, "so_far": self._so_far})

    def restore(self, snapshot: Snapshot) -> None:
        self.smoothed = snapshot.arrays["smoothed"].copy()
        self._so_far = snapshot.arrays["so_far"].copy()


def _update_settings(recipe: PopulationRecipe) -> UpdateSettings:
    return UpdateSettings(
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        tau=recipe.tau,
        weight_ema=recipe.weight_ema,
        huber_delta=recipe.huber_delta,
        advantage=recipe.advantage,
        ensemble=recipe.ensemble,
    )
