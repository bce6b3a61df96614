"""Compares a task's gradients with central differences, environment by environment.

The function that is differentiated is, for every environment i of the batch,

    L_i = sum over outputs of <w, output_i>,

where the outputs are the state after a few control steps, what is observed of it (images excepted) and the rewards on
the way, and the weights w are random and scaled to each output's size. Environments are isolated, so one pair of
evaluations gives a difference for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rfo.core.check import Check, random_actions, seeded
from rfo.core.task import CheckSituation, State, Task

__all__ = ["check_gradients"]

STEP_SIZES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
"""Step sizes of the central differences, relative to the size of what is perturbed."""

SMOOTH_LIMIT = 1e-3
"""Two neighbouring step sizes whose differences disagree by more than this, relatively, speak of a kink."""

SINGLE_LIMIT = 1e-2
"""Largest relative difference of the float32 gradient from the float64 gradient."""


def check_gradients(task_class: type[Task], task: Task, threads: int | None, n: int, seed: int) -> Iterator[Check]:
    """Yields the gradient checks of every situation the task names.

    Args:
        task_class: The task, to build it once more in float32.
        task: The task in float64.
        threads: Cores the engine may use.
        n: Number of environments in a situation.
        seed: Seed of states, actions, directions and weights.
    """
    single = task_class(device=task.device, dtype=torch.float32, threads=threads)
    for name, situation in task.check_situations(seeded(task, seed), n).items():
        probe = _Probe(task, situation, seed)
        problem = probe.disconnected()
        if problem:
            yield Check(f"gradient, {name}", False, float("inf"), situation.limit, problem)
            continue
        yield _check_reaches(name, probe)
        yield _check_direction(name, "action", probe)
        yield _check_direction(name, "state", probe)
        yield _check_single(name, probe, single)


@dataclass(frozen=True)
class _Difference:
    """Agreement of gradients with differences, each the worst over environments.

    Attributes:
        error: Relative error at the best step size of each environment.
        roughness: Smallest relative disagreement of two neighbouring step sizes.
        step_size: Best step size of the worst environment.
        environment: The worst environment.
    """

    error: float
    roughness: float
    step_size: float
    environment: int


class _Probe:
    """One situation: the outputs L is made of, their gradients and their differences."""

    def __init__(self, task: Task, situation: CheckSituation, seed: int) -> None:
        self.task = task
        self.situation = situation
        self.state: State = {name: tensor.detach() for name, tensor in situation.state.items()}
        self.n = next(iter(self.state.values())).shape[0]
        self.generator = seeded(task, seed + 1)
        self.actions = random_actions(task, self.n, situation.steps, self.generator)
        self.floating = [name for name, tensor in self.state.items() if tensor.is_floating_point()]
        with torch.no_grad():
            reference = self.outputs(task, self.state, self.actions)
        self.weights = {
            name: self._normal(value) / (_size(value) * value[0].numel() ** 0.5) for name, value in reference.items()
        }
        leaves, actions = self._leaves(task)
        produced = self.outputs(task, leaves, actions)
        self.connected = {name: value.requires_grad for name, value in produced.items()}
        self.action_gradient, self.state_gradient = self._gradients(produced, leaves, actions)

    def outputs(self, task: Task, state: State, actions: Tensor) -> State:
        """Returns everything that enters L, each of shape [N, ...]."""
        rewards = []
        for action in actions:
            next_state = task.dynamics(state, action)
            rewards.append(task.reward(state, action, next_state))
            state = next_state
        produced = {f"state {key}": value for key, value in state.items() if value.is_floating_point()}
        shapes = task.spec.observation_shapes
        produced |= {f"observation {key}": v for key, v in task.observe(state).items() if len(shapes[key]) < 3}
        return {**produced, "reward": torch.stack(rewards, dim=1)}

    def disconnected(self) -> str:
        """Says which outputs carry no gradient at all, or nothing."""
        names = [name for name, connected in self.connected.items() if not connected]
        if not names:
            return ""
        return (
            f"no gradient reaches {', '.join(map(repr, names))}; look for detach(), no_grad(), numpy or item() "
            "on the way, or set spec.differentiable=False"
        )

    def direction(self, kind: str) -> tuple[State, Tensor]:
        """Draws a direction in state or action space, in the size of what it perturbs."""
        if kind == "action":
            return {}, self._normal(self.actions)
        return {
            name: self._normal(self.state[name]) * _size(self.state[name]) for name in self.floating
        }, self.actions * 0

    def compare(self, kind: str) -> _Difference:
        """Compares the gradient along one random direction with central differences at every step size."""
        along_state, along_action = self.direction(kind)
        exact = (self.action_gradient * along_action).sum(dim=(0, 2))
        for name, along in along_state.items():
            exact = exact + (self.state_gradient[name] * along).reshape(self.n, -1).sum(dim=1)
        differences = torch.stack([self._difference(along_state, along_action, h) for h in STEP_SIZES])
        # An environment whose derivative happens to be almost zero is measured by the others' size.
        scale = torch.maximum(exact.abs(), exact.square().mean().sqrt()).clamp(min=1e-12)
        errors = ((differences - exact) / scale).abs().nan_to_num(nan=float("inf"))
        roughness = ((differences[1:] - differences[:-1]) / scale).abs().nan_to_num(nan=float("inf")).min(dim=0).values
        best, where = errors.min(dim=0)
        worst = int(best.argmax())
        return _Difference(float(best[worst]), float(roughness.max()), STEP_SIZES[int(where[worst])], worst)

    def single_gradient(self, task: Task) -> Tensor:
        """Returns the gradient with respect to the actions as another task (in float32) computes it."""
        leaves, actions = self._leaves(task)
        return self._gradients(self.outputs(task, leaves, actions), leaves, actions)[0]

    def _difference(self, along_state: State, along_action: Tensor, h: float) -> Tensor:
        ends = []
        with torch.no_grad():
            for sign in (1.0, -1.0):
                state = {
                    name: t + sign * h * along_state[name] if name in along_state else t
                    for name, t in self.state.items()
                }
                ends.append(self.outputs(self.task, state, self.actions + sign * h * along_action))
        # Outputs are subtracted before they are summed: the difference of two sums would lose digits.
        terms = [self.weights[name] * (ends[0][name] - ends[1][name]) for name in self.weights]
        return torch.stack([term.reshape(self.n, -1).sum(dim=1) for term in terms]).sum(dim=0) / (2 * h)

    def _leaves(self, task: Task) -> tuple[State, Tensor]:
        state = {name: t.to(task.dtype) if t.is_floating_point() else t for name, t in self.state.items()}
        leaves = {name: t.detach().clone().requires_grad_(t.is_floating_point()) for name, t in state.items()}
        return leaves, self.actions.to(task.dtype).clone().requires_grad_()

    def _gradients(self, produced: State, leaves: State, actions: Tensor) -> tuple[Tensor, State]:
        terms = [(self.weights[name].to(t.dtype) * t).sum() for name, t in produced.items() if t.requires_grad]
        inputs = [actions, *(leaves[name] for name in self.floating)]
        if not terms:
            return torch.zeros_like(actions), {name: torch.zeros_like(leaves[name]) for name in self.floating}
        found = torch.autograd.grad(torch.stack(terms).sum(), inputs, allow_unused=True)
        filled = [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]
        return filled[0], dict(zip(self.floating, filled[1:], strict=True))

    def _normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, device=like.device, dtype=self.task.dtype)


def _size(tensor: Tensor) -> float:
    """Returns the root mean square, or 1 for a tensor of zeros."""
    size = float(tensor.double().square().mean().sqrt())
    return size if size > 1e-8 else 1.0


def _check_reaches(name: str, probe: _Probe) -> Check:
    flat = probe.action_gradient.transpose(0, 1).reshape(probe.n, -1)
    bad = int(((flat == 0).all(dim=1) | ~flat.isfinite().all(dim=1)).sum())
    message = "every environment has a finite, non-zero gradient to its actions"
    if bad:
        message = (
            f"{bad} of {probe.n} environments have a gradient to their actions that is exactly zero or not finite; "
            "look for detach(), item() or a saturated clamp between action and state"
        )
    return Check(f"gradient reaches the action, {name}", bad == 0, float(bad), 0.0, message)


def _check_direction(name: str, kind: str, probe: _Probe) -> Check:
    found = max((probe.compare(kind) for _ in range(2)), key=lambda difference: difference.error)
    limit = probe.situation.limit
    passed = found.error <= limit
    message = (
        f"relative error of a directional derivative through {probe.situation.steps} steps (h={found.step_size:g})"
    )
    if found.roughness > SMOOTH_LIMIT:
        message += f"; the map is not smooth here: neighbouring step sizes disagree by {found.roughness:.1e}"
    if not passed and found.roughness > limit:
        message = (
            f"environment {found.environment}: gradient and differences disagree, but so do differences of "
            f"neighbouring step sizes ({found.roughness:.1e}): a kink or a stiff contact; smooth it"
        )
    elif not passed:
        message = (
            f"environment {found.environment}: differences agree with each other ({found.roughness:.1e}) but not with "
            f"the gradient: the derivative with respect to the {kind} is wrong; check the backward pass"
        )
    return Check(f"gradient to the {kind}, {name}", passed, found.error, limit, message)


def _check_single(name: str, probe: _Probe, single: Task) -> Check:
    exact = probe.action_gradient
    rounded = probe.single_gradient(single).double()
    figure = float((rounded - exact).norm() / exact.norm().clamp(min=1e-300))
    passed = figure <= SINGLE_LIMIT
    message = "relative difference of the float32 gradient from the float64 gradient"
    if not passed:
        message += "; too large to train in float32: look for differences of nearly equal numbers, or stiff terms"
    return Check(f"float32 gradient, {name}", passed, figure, SINGLE_LIMIT, message)
