"""One update of K agents at once: targets, loss, gradient and Adam.

Agent k's loss is the mean over its own minibatch, and Adam is elementwise, so that no agent changes
another; in an ensemble all agents have one minibatch and one target. The gradient is written out by
hand, a few lines a layer: at these sizes the time is the overhead of calls, and autograd doubles
it. A test holds it to autograd's. All work happens in tensors that are allocated once, with fixed
shapes and no branch on data, so on a GPU an update can be captured in one CUDA graph.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from training.population.q_networks import StackedQNetworks, forward
from training.population.replay_buffer import Minibatch
from training.snapshot import Snapshot

ADAM_DECAY = (0.9, 0.999)
ADAM_EPSILON = 1e-8
WARM_UP = 3  # updates before a graph is captured


@dataclass(frozen=True)
class UpdateSettings:
    """The hyperparameters of an update; `PopulationRecipe` says what each means."""

    batch_size: int
    learning_rate: float
    tau: float
    weight_ema: float = 0.0
    huber_delta: float = 1.0
    advantage: float = 0.0
    ensemble: bool = False


class PopulationLearner:
    """Updates stacked Q-networks from `minibatch`, which the caller fills."""

    def __init__(self, networks: StackedQNetworks, settings: UpdateSettings) -> None:
        self.networks, self.settings = networks, settings
        agents, device = networks.agents, networks.device
        self._size = settings.batch_size
        # One minibatch and one target for each agent, or for all of them.
        self._targets = 1 if settings.ensemble else agents
        self.minibatch = Minibatch.empty(self._targets, self._size, networks.widths[0], device)

        self.gradient = networks.new_layers()
        self.learning_rate = torch.tensor(settings.learning_rate, device=device)
        self._step = torch.zeros((), device=device)
        self._first_moment = torch.zeros_like(networks.online.flat)
        self._second_moment = torch.zeros_like(networks.online.flat)

        def rows(count: int) -> list[Tensor]:
            return [torch.zeros(agents, count, width, device=device) for width in networks.widths]

        # State and bootstrap state of each transition are two rows of one batch. In an ensemble the
        # online networks are asked for the states alone: the target networks' mean chooses.
        self._scaled_states = torch.zeros_like(self.minibatch.states)
        scaled_rows = self._scaled_states.view(self._targets, 2 * self._size, -1)
        self._target_inputs = scaled_rows.expand(agents, -1, -1)
        *self._target_hidden, self._target_q = rows(2 * self._size)[1:]
        *self._hidden, self._q = rows(self._size if settings.ensemble else 2 * self._size)[1:]
        *self._hidden_gradients, self._q_gradient = rows(self._size)[1:]

        # What of it the gradient needs, (K, batch, width): the rows of the states.
        self._states = self._of_states(self._scaled_states).expand(agents, -1, -1)
        self._inputs = self._target_inputs
        self._hidden_of_states, self._q_of_states = self._hidden, self._q
        if settings.ensemble:
            self._inputs = self._states
            self._mean_target_q = torch.zeros_like(self._target_q[:1])
        else:
            self._hidden_of_states = [self._of_states(hidden) for hidden in self._hidden]
            self._q_of_states = self._of_states(self._q)

        # One number for each transition: (targets, batch, 1), and (K, batch, 1) below.
        self._best_actions = torch.zeros_like(self.minibatch.actions)
        self._goals, self._target_q_best, self._target_q_taken = (
            torch.zeros_like(self.minibatch.rewards) for _ in range(3)
        )
        self._q_taken, self._td_errors, self._loss_gradient = (
            torch.zeros(agents, self._size, 1, device=device) for _ in range(3)
        )

    def update(self) -> None:
        """Take one step of Adam for every agent, and let target and average follow."""
        settings, networks = self.settings, self.networks
        self._compute_q_values()
        self._compute_goals()
        self._compute_td_errors()
        self._compute_gradient()
        self._adam_step()

        networks.target.flat.lerp_(networks.online.flat, settings.tau)
        if settings.weight_ema:
            networks.average.flat.lerp_(networks.online.flat, settings.weight_ema)

    def metrics(self) -> dict[str, float]:
        """Return loss, Q-value, action gap and gradient norm of the last update.

        Each is the mean over the agents.
        """
        q_values = self._q_of_states
        best = q_values.topk(2, dim=2).values
        squares = [tensor.square().sum(dim=1) for tensor in self.gradient.by_agent()]
        loss = torch.nn.functional.huber_loss(
            self._q_taken, self._goals.expand_as(self._q_taken), delta=self.settings.huber_delta
        )
        return {
            "loss": float(loss),
            "q_value": float(q_values.mean()),
            "action_gap": float((best[..., 0] - best[..., 1]).mean()),
            "gradient_norm": float(torch.stack(squares).sum(dim=0).sqrt().mean()),
        }

    def snapshot(self) -> Snapshot:
        """Return weights and moments: all that the next update depends on but its minibatch."""
        arrays = {name: tensor.numpy(force=True) for name, tensor in self._adam_tensors().items()}
        return Snapshot(arrays, parts={"networks": self.networks.snapshot()})

    def restore(self, snapshot: Snapshot) -> None:
        """Take over the weights and the moments of a snapshot."""
        for name, tensor in self._adam_tensors().items():
            tensor.copy_(torch.from_numpy(snapshot.arrays[name].copy()))
        self.networks.restore(snapshot.parts["networks"])

    def captured(self) -> Callable[[], None]:
        """Return `update` as one CUDA graph, so that it costs one launch. Needs a CUDA device.

        A graph replays addresses, not values: minibatch, weights and learning rate are read anew
        from the tensors that it was captured with.
        """
        tensors = [*self._adam_tensors().values(), *self.networks.tensors().values()]
        before = [tensor.clone() for tensor in tensors]

        # In their first calls the libraries allocate and choose kernels; a graph must not hold it.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call] # torch declares no types
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.update()
        torch.cuda.current_stream().wait_stream(stream)

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.update()

        for tensor, values in zip(tensors, before, strict=True):
            tensor.copy_(values)
        return graph.replay

    def _compute_q_values(self) -> None:
        """Compute the Q-values of both states of each transition, by online and target weights."""
        networks = self.networks
        states = self.minibatch.states
        if networks.limits is not None:
            states = torch.clamp(states, -networks.limits, networks.limits, out=self._scaled_states)
        torch.mul(states, networks.inverse_scale, out=self._scaled_states)

        forward(networks.online, self._inputs, self._hidden, self._q)
        forward(networks.target, self._target_inputs, self._target_hidden, self._target_q)

    def _compute_goals(self) -> None:
        """Compute what each Q(s, a) is moved to.

        The Double DQN target r + γⁿ Q⁻(s′, argmax Q(s′)), van Hasselt et al. 2016, eq. 4; less
        α (max Q⁻(s) - Q⁻(s, a)), advantage learning, Bellemare et al. 2016, "Increasing the Action
        Gap", eq. 7: a step of 20 ms changes a value so little that without it the gap between two
        actions is lost in the error of the network. In an ensemble both are the mean of the target
        networks, Anschel et al. 2017, "Averaged-DQN", algorithm 3: what one network errs by is no
        other's target.
        """
        batch, alpha, target_q = self.minibatch, self.settings.advantage, self._target_q
        chosen_by = self._q
        if self.settings.ensemble:
            target_q = torch.mean(target_q, 0, keepdim=True, out=self._mean_target_q)
            chosen_by = target_q

        next_values = self._of_next_states(target_q)
        torch.argmax(self._of_next_states(chosen_by), dim=2, keepdim=True, out=self._best_actions)
        torch.gather(next_values, 2, self._best_actions, out=self._goals)
        torch.addcmul(batch.rewards, batch.discounts, self._goals, out=self._goals)

        if alpha:
            values = self._of_states(target_q)
            torch.amax(values, 2, keepdim=True, out=self._target_q_best)
            torch.gather(values, 2, batch.actions, out=self._target_q_taken)
            self._goals.sub_(self._target_q_best.sub_(self._target_q_taken), alpha=alpha)

    def _compute_td_errors(self) -> None:
        torch.gather(self._q_of_states, 2, self._actions, out=self._q_taken)
        torch.sub(self._q_taken, self._goals, out=self._td_errors)

    def _compute_gradient(self) -> None:
        """Compute the gradient of each agent's mean Huber loss, Mnih et al. 2015.

        The derivative of the loss by Q(s, a) is the error clipped at ± δ, over the batch size; by
        the other action's Q-value it is 0. From there it goes back through the layers.
        """
        delta = self.settings.huber_delta
        self._loss_gradient.copy_(self._td_errors).clamp_(-delta, delta).div_(self._size)
        gradient = self._q_gradient.zero_()
        gradient.scatter_(2, self._actions, self._loss_gradient)

        online = self.networks.online
        for layer in reversed(range(len(online.weights))):
            inputs = self._hidden_of_states[layer - 1] if layer else self._states
            torch.bmm(inputs.transpose(1, 2), gradient, out=self.gradient.weights[layer])
            torch.sum(gradient, 1, keepdim=True, out=self.gradient.biases[layer])
            if layer:
                weights, below = online.weights[layer], self._hidden_gradients[layer - 1]
                torch.bmm(gradient, weights.transpose(1, 2), out=below)
                # ReLU's derivative: 0 where its output is.
                gradient = torch.ops.aten.threshold_backward.grad_input(
                    below, inputs, 0, grad_input=below
                )

    def _adam_step(self) -> None:
        """Take a step of Adam, Kingma and Ba 2015, for all weights of all agents in one kernel."""
        self._step.add_(1)
        torch._fused_adam_(
            [self.networks.online.flat],
            [self.gradient.flat],
            [self._first_moment],
            [self._second_moment],
            [],
            [self._step],
            lr=self.learning_rate,
            beta1=ADAM_DECAY[0],
            beta2=ADAM_DECAY[1],
            weight_decay=0.0,
            eps=ADAM_EPSILON,
            amsgrad=False,
            maximize=False,
        )

    @property
    def _actions(self) -> Tensor:
        """The actions of each agent's transitions, (K, batch, 1)."""
        return self.minibatch.actions.expand(self.networks.agents, -1, -1)

    def _of_states(self, rows: Tensor) -> Tensor:
        """Return the rows that belong to the states of the transitions, (…, batch, width)."""
        return rows.view(len(rows), self._size, 2, -1)[:, :, 0]

    def _of_next_states(self, rows: Tensor) -> Tensor:
        """Return the rows that belong to the bootstrap states, (…, batch, width)."""
        return rows.view(len(rows), self._size, 2, -1)[:, :, 1]

    def _adam_tensors(self) -> dict[str, Tensor]:
        return {
            "first_moment": self._first_moment,
            "second_moment": self._second_moment,
            "step": self._step,
        }
