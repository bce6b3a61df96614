"""Gated and decoded velocities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rfo.core.errors import UsageError
from rfo.flow.decoded import VelocityDecoded
from rfo.flow.fields import VelocityName, make_field
from rfo.flow.gated import VelocityGated
from rfo.flow.integrate import SOLVERS, integrate
from rfo.flow.matching import conditional_flow_matching
from rfo.flow.velocity import VelocityField

NAMES: tuple[VelocityName, ...] = ("mlp", "gated", "decoded")


def _field(name: VelocityName, seed: int = 0, loosen: float = 0.3) -> VelocityField:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        field = make_field(name, 5, 3, (16, 16)).double()
        with torch.no_grad():
            for parameter in field.parameters():
                parameter.add_(loosen * torch.randn_like(parameter))
    return field


@pytest.mark.parametrize("name", NAMES)
def test_a_number_and_a_column_of_flow_times_agree(name: VelocityName) -> None:
    """A number as u holds for every row, and a row depends on itself only."""
    field = _field(name)
    s, x = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    velocity = field.bind(s)
    column = velocity(x, torch.full((7, 1), 0.3, dtype=torch.float64))
    torch.testing.assert_close(velocity(x, 0.3), column)
    alone = torch.cat([field.bind(s[i : i + 1])(x[i : i + 1], 0.3) for i in range(7)])
    torch.testing.assert_close(velocity(x, 0.3), alone)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_differences(name: VelocityName) -> None:
    """Through a whole flow, to the observation and to the noise."""
    field = _field(name)

    def flow(s: Tensor, x: Tensor) -> Tensor:
        return integrate(field.bind(s), x, steps=3, solver=SOLVERS["euler"])

    s = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(flow, (s, x))


def test_the_gate_starts_open_everywhere() -> None:
    """With weight 0 and bias 5 the first velocity is 0.9933 (c - x), and the candidate keeps its bound."""
    field = VelocityGated(5, 3, (16,), candidate_bound=2.0).double()
    x = torch.randn(9, 3, dtype=torch.float64)
    velocity = field.bind(torch.randn(9, 5, dtype=torch.float64))(x, 0.5).detach()
    candidate = velocity / torch.sigmoid(torch.tensor(5.0, dtype=torch.float64)) + x
    assert float(candidate.abs().max()) <= 2.0
    plain = VelocityGated(5, 3, (16,), candidate_bound=None, output_std=0.0).double()
    expected = -torch.sigmoid(torch.tensor(5.0, dtype=torch.float64)) * x
    torch.testing.assert_close(plain.bind(torch.randn(9, 5, dtype=torch.float64))(x, 0.5), expected)


def test_one_token_attention_is_the_linear_map_it_is_computed_as() -> None:
    """A decoder block with torch's multi-head attention gives the same, for its value and output projections joined."""
    dim, heads = 16, 4
    field = VelocityDecoded(5, 3, dim, 1).double()
    attention = nn.MultiheadAttention(dim, heads, batch_first=True).double()
    with torch.no_grad():
        value, value_bias = attention.in_proj_weight[2 * dim :], attention.in_proj_bias[2 * dim :]
        field.cross.weight.copy_(attention.out_proj.weight @ value)
        field.cross.bias.copy_(attention.out_proj.weight @ value_bias + attention.out_proj.bias)
        field.output.weight.normal_()
    s, x = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    time = torch.full((4, 1), 0.4, dtype=torch.float64)
    token = field.latent_token(x) + field.time_token(time)
    memory = field.state_token(s)
    query = nn.functional.layer_norm(token, (dim,))
    token = token + attention(query[:, None], memory[:, None], memory[:, None], need_weights=False)[0][:, 0]
    token = token + field.contract[0](nn.functional.gelu(field.expand[0](field.norms[0](token))))
    expected = field.output(field.norms[1](token))
    torch.testing.assert_close(field.bind(s)(x, 0.4), expected)


@pytest.mark.parametrize("name", NAMES)
def test_flow_matching_learns_two_modes(name: VelocityName) -> None:
    """A flow fitted to +-1 puts its samples near both."""
    torch.manual_seed(0)
    field = make_field(name, 1, 1, (32, 32))
    optimizer = torch.optim.Adam(field.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    s = torch.zeros(256, 1)
    for _ in range(300):
        target = torch.where(torch.rand(256, 1, generator=generator) < 0.5, -1.0, 1.0)
        loss = conditional_flow_matching(field.bind(s), target, generator=generator)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        drawn = integrate(field.bind(s), torch.randn(256, 1, generator=generator), steps=20, solver=SOLVERS["euler"])
    assert 0.3 < float((drawn > 0).double().mean()) < 0.7
    assert float(((drawn.abs() - 1.0).abs() < 0.35).double().mean()) > 0.8


def _growth(name: VelocityName) -> float:
    """Returns the largest over the smallest gradient norm to the noise, K = 4, 10, 20, after fitting far targets."""
    torch.manual_seed(0)
    field = make_field(name, 1, 2, (32, 32))
    optimizer = torch.optim.Adam(field.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    s, norms = torch.zeros(128, 1), []
    for _ in range(200):
        target = 3.0 * torch.sign(torch.randn(128, 2, generator=generator))
        loss = conditional_flow_matching(field.bind(s), target, generator=generator)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for steps in (4, 10, 20):
        x = torch.randn(128, 2, generator=generator).requires_grad_()
        latent = integrate(field.bind(s), x, steps=steps, solver=SOLVERS["euler"])
        norms.append(float(torch.autograd.grad(latent.sum(), x)[0].norm()))
    return max(norms) / min(norms)


def test_gated_gradients_do_not_grow_with_the_steps() -> None:
    """Fitted to modes that noise must be torn apart for, Flow-G stays within a factor 3, below the plain network."""
    growth = {name: _growth(name) for name in NAMES}
    assert growth["gated"] < 3.0 and growth["gated"] < growth["mlp"], growth


def test_a_decoder_repeats_one_width() -> None:
    """Unequal widths are refused in words."""
    with pytest.raises(UsageError, match="once per layer"):
        make_field("decoded", 5, 3, (16, 32))
