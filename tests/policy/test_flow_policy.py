"""The flow policy."""

from __future__ import annotations

import pytest
import torch

from rfo.flow.integrate import SOLVERS, SolverName
from rfo.flow.velocity import VelocityMLP
from rfo.policy.encoders import LOW_DIM, ConcatEncoder
from rfo.policy.flow import FlowPolicy


def _policy(solver: SolverName = "euler", steps: int = 3) -> FlowPolicy:
    torch.manual_seed(0)
    field = VelocityMLP(4, 2, (16, 16), output_std=1.0)
    return FlowPolicy(ConcatEncoder(4), field, steps=steps, solver=SOLVERS[solver]).double()


@pytest.mark.parametrize("solver", ["euler", "midpoint"])
def test_gradient_equals_differences(solver: SolverName) -> None:
    """The action's gradient in observation, noise and parameters is exact through every flow step."""
    policy = _policy(solver)
    inputs = (torch.randn(3, 4).double().requires_grad_(), torch.randn(3, 2).double().requires_grad_())
    names = [name for name, _ in policy.named_parameters()]
    parameters = tuple(policy.parameters())

    def action(observation: torch.Tensor, noise: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        replaced = dict(zip(names, values, strict=True))
        call = {LOW_DIM: observation}
        return torch.func.functional_call(
            _Action(policy), {f"policy.{k}": v for k, v in replaced.items()}, (call, noise)
        )

    assert torch.autograd.gradcheck(action, (*inputs, *parameters), fast_mode=True)


class _Action(torch.nn.Module):
    def __init__(self, policy: FlowPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: dict[str, torch.Tensor], noise: torch.Tensor) -> torch.Tensor:
        return self.policy.sample(observation, noise)[1]


def test_deterministic_action_is_that_of_zero_noise() -> None:
    """The deterministic action starts the flow at the noise's mean, and is the tanh of its latent."""
    policy = _policy()
    observation = {LOW_DIM: torch.randn(5, 4).double()}
    latent, action = policy.deterministic(observation)
    assert torch.equal(action, policy.sample(observation, torch.zeros(5, 2).double())[1])
    assert torch.equal(action, torch.tanh(latent))


def test_source_std_scales_what_the_flow_carries() -> None:
    """Noise e through a source of spread s is noise s e through a source of spread 1."""
    wide = _policy()
    narrow = FlowPolicy(wide.encoder, wide.field, steps=wide.steps, solver=wide.solver, source_std=0.3)
    observation, noise = {LOW_DIM: torch.randn(5, 4).double()}, torch.randn(5, 2).double()
    assert torch.equal(narrow.sample(observation, noise)[0], wide.sample(observation, 0.3 * noise)[0])


def test_rows_do_not_see_each_other() -> None:
    """The action of one environment has no gradient in another's observation."""
    policy = _policy()
    observation = torch.randn(3, 4).double().requires_grad_()
    action = policy.sample({LOW_DIM: observation}, torch.randn(3, 2).double())[1]
    (gradient,) = torch.autograd.grad(action[0].sum(), observation)
    assert torch.equal(gradient[1:], torch.zeros(2, 4).double())
