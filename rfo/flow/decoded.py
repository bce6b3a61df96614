"""Flow-T: a velocity that is a transformer decoder over one token, attending to the state."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rfo.flow.velocity import Velocity, VelocityField

__all__ = ["VelocityDecoded"]


class VelocityDecoded(VelocityField):
    """The action and the flow time are one token, the state another (SAC Flow, arXiv 2509.25756, Flow-T).

    With Phi the action-time token and M the state token, each layer computes Y = Phi + Cross(LN Phi, LN M) and
    Phi = Y + FFN(LN Y); v = W_o LN Phi. The softmax over a single key is 1, so attention to one token is a linear map
    of that token and does not depend on the query: Cross is one linear layer (output projection times value
    projection, of any number of heads) of LN M. All layers' maps are one product, computed once per observation in
    `bind`; a flow step is left with the embedding of (x, u) and the feed-forward parts. Tokens of different flow steps
    do not mix.

    Args:
        feature_dim: Size of the observation's features.
        action_dim: Size A of the latent action.
        dim: Size d of a token: 64 in the paper, 96 in the released code.
        layers: Number of decoder layers.
        expansion: Width of the feed-forward parts in units of d.
        outputs: Values per action entry: 1 for the velocity, 2 where a noise level is read from the same token.
        output_std: Standard deviation of the last layer's initial weights; its bias starts at zero.
    """

    def __init__(
        self,
        feature_dim: int,
        action_dim: int,
        dim: int = 64,
        layers: int = 2,
        *,
        expansion: int = 4,
        outputs: int = 1,
        output_std: float = 0.01,
    ) -> None:
        super().__init__()
        if dim < 4 or layers < 1:
            raise ValueError(f"dim must be at least 4 and layers at least 1, got {dim} and {layers}")
        self.action_dim, self.dim = action_dim, dim
        self.state_token = nn.Sequential(
            nn.Linear(feature_dim, dim // 2), nn.SiLU(), nn.Linear(dim // 2, dim), nn.LayerNorm(dim)
        )
        self.time_token = nn.Sequential(
            nn.Linear(1, dim // 4), nn.SiLU(), nn.Linear(dim // 4, dim // 2), nn.SiLU(), nn.Linear(dim // 2, dim)
        )
        self.latent_token = nn.Linear(action_dim, dim)
        self.cross = nn.Linear(dim, layers * dim)
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(layers + 1)])
        self.expand = nn.ModuleList([nn.Linear(dim, expansion * dim) for _ in range(layers)])
        self.contract = nn.ModuleList([nn.Linear(expansion * dim, dim) for _ in range(layers)])
        self.output = nn.Linear(dim, outputs * action_dim)
        nn.init.normal_(self.output.weight, std=output_std)
        nn.init.zeros_(self.output.bias)

    def bind(self, features: Tensor) -> Velocity:
        """Computes the state token and what every layer reads from it, once for all flow steps."""
        # The bias of the action's embedding joins the first layer's reading: both are added to the same token.
        attended = list(self.cross(self.state_token(features)).split(self.dim, dim=-1))
        attended[0] = attended[0] + self.latent_token.bias
        from_latent, time_token = self.latent_token.weight.t(), self.time_token
        norms = [(norm.normalized_shape, norm.weight, norm.bias) for norm in cast(list[nn.LayerNorm], self.norms)]
        expand = [(layer.weight.t(), layer.bias) for layer in cast(list[nn.Linear], self.expand)]
        contract = [(layer.weight.t(), layer.bias) for layer in cast(list[nn.Linear], self.contract)]
        output_weight, output_bias = self.output.weight.t(), self.output.bias
        like = attended[0]

        def velocity(x: Tensor, u: float | Tensor) -> Tensor:
            time = u if isinstance(u, Tensor) else like.new_full((1, 1), u)
            token = torch.addmm(attended[0] + time_token(time), x, from_latent)
            for i, ((w_in, b_in), (w_out, b_out)) in enumerate(zip(expand, contract, strict=True)):
                if i > 0:
                    token = token + attended[i]
                inner = torch.addmm(b_in, functional.layer_norm(token, *norms[i]), w_in)
                token = torch.addmm(token + b_out, functional.gelu(inner), w_out)
            return torch.addmm(output_bias, functional.layer_norm(token, *norms[-1]), output_weight)

        return velocity
