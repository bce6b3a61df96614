"""How gradients fare through the steps of a flow: plain, gated (Flow-G) and decoded (Flow-T) velocities, one picture.

    python docs/toys/gradient_growth.py --output docs/images/gradient_growth.png

"naive" is a network of linear layers and ReLU, as in the paper; "plain" is rfo's, with LayerNorm and a small last
layer.

Each velocity is trained on one batch of states after another by SAC Flow's loss, alpha log p - Q, with a known Q that
has two best actions per state, and K = 4, 10, 20 flow steps. Drawn is the norm of the loss's gradient with respect to
the latent x_k before step k, relative to that with respect to the last one: above 1 it has grown on its way back to the
noise, below 1 it has shrunk. Printed is the largest over the smallest of these norms.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from rfo.core.colors import SERIES
from rfo.flow.fields import make_field
from rfo.flow.noise_level import FixedLevel
from rfo.flow.noisy import MarginalPreserving, NoisyPath, roll_out
from rfo.flow.velocity import Velocity, VelocityField
from rfo.policy.latent import squash_correction


class Naive(VelocityField):
    """Two hidden layers of 64 on [s, x, u], ReLU, as torch initialises them."""

    def __init__(self) -> None:
        super().__init__()
        self.action_dim = 2
        self.network = nn.Sequential(nn.Linear(5, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def bind(self, features: Tensor) -> Velocity:
        """Joins the three inputs at every step."""

        def velocity(x: Tensor, u: float | Tensor) -> Tensor:
            drawn: Tensor = self.network(torch.cat([features, x, torch.full_like(x[:, :1], float(u))], dim=1))
            return drawn

        return velocity


FIELDS: dict[str, Callable[[], VelocityField]] = {
    "naive": Naive,
    "plain": lambda: make_field("mlp", 2, 2, (64, 64)),
    "Flow-G": lambda: make_field("gated", 2, 2, (64, 64)),
    "Flow-T": lambda: make_field("decoded", 2, 2, (32, 32)),
}
"""Name in the picture → the velocity, for two features and two action entries."""

ROWS, SIGMA, GAIN = 128, 0.1, 10.0


def value(state: Tensor, action: Tensor) -> Tensor:
    """Returns Q of states and actions [B, 2]: two bumps on opposite sides, whose place depends on the state."""
    best = 0.7 * torch.stack([torch.sin(3.0 * state[:, 0]), torch.cos(2.0 * state[:, 1])], dim=1)
    bumps = [torch.exp(-(action - side * best).square().sum(dim=1) / 0.1) for side in (1.0, -1.0)]
    return GAIN * (bumps[0] + bumps[1])


def loss_of(path: NoisyPath, state: Tensor, alpha: float) -> Tensor:
    """Returns SAC Flow's loss of the policy."""
    log_prob = path.log_prob - squash_correction(path.latent)
    return (alpha * log_prob - value(state, torch.tanh(path.latent))).mean()


def train(name: str, steps: int, seed: int, updates: int, alpha: float) -> tuple[list[float], float]:
    """Trains one velocity; returns the gradient's norm before every flow step, and the mean of Q / its gain."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    field = FixedLevel(FIELDS[name](), SIGMA)
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-3)
    for update in range(updates + 1):
        state = torch.randn(ROWS, 2, generator=generator)
        x = torch.randn(ROWS, 2, generator=generator).requires_grad_()
        noise = torch.randn(steps, ROWS, 2, generator=generator)
        path = roll_out(MarginalPreserving(), field.bind(state), x, noise)
        loss = loss_of(path, state, alpha)
        if update == updates:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    norms = [float(gradient.norm()) for gradient in torch.autograd.grad(loss, path.states)]
    return norms, float(value(state, torch.tanh(path.latent.detach())).mean()) / GAIN


def draw(axis: Axes, found: dict[int, list[list[float]]], title: str) -> None:
    """Draws the norms of every number of steps: the median over seeds, and their range."""
    for color, (steps, runs) in zip(SERIES, found.items(), strict=False):
        relative = torch.tensor(runs) / torch.tensor(runs)[:, -1:]
        times = torch.linspace(0, 1, steps + 1)
        axis.plot(times, relative.median(dim=0).values, marker="o", markersize=3, color=color, label=f"K = {steps}")
        axis.fill_between(times, relative.amin(dim=0), relative.amax(dim=0), color=color, alpha=0.15, linewidth=0)
    axis.axhspan(1 / 3, 3, color="#E3E5E8", alpha=0.5, linewidth=0)
    axis.set(yscale="log", xlabel="flow time", title=title)


def main() -> None:
    """Trains every velocity with every number of steps, prints the growth as JSON lines and draws it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="picture to write")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--updates", type=int, nargs="*", default=[0, 300], help="updates before measuring")
    parser.add_argument("--steps", type=int, nargs="*", default=[4, 10, 20], help="flow steps K (default: 4 10 20)")
    parser.add_argument("--alpha", type=float, default=1.0, help="weight of the entropy (default: 1)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, columns = len(options.updates), len(FIELDS)
    figure, axes = plt.subplots(rows, columns, figsize=(12, 2.9 * rows), sharey="row", squeeze=False)
    for row, updates in zip(axes, options.updates, strict=True):
        for axis, name in zip(row, FIELDS, strict=True):
            found: dict[int, list[list[float]]] = {}
            for steps in options.steps:
                runs = [train(name, steps, seed, updates, options.alpha) for seed in range(options.seeds)]
                found[steps] = [norms for norms, _ in runs]
                growth = [round(max(norms) / min(norms), 2) for norms, _ in runs]
                first = [round(norms[0] / norms[-1], 2) for norms, _ in runs]
                reached = [round(q, 2) for _, q in runs]
                figures = {"updates": updates, "velocity": name, "K": steps, "largest_over_smallest": growth}
                print(json.dumps(figures | {"first_over_last": first, "value": reached}), flush=True)
            draw(axis, found, f"{name}, after {updates} updates")
    axes[0][0].legend(frameon=False, fontsize=8)
    for row in axes:
        row[0].set_ylabel("gradient norm, relative")
    figure.tight_layout()
    figure.savefig(options.output, dpi=100)


if __name__ == "__main__":
    main()
