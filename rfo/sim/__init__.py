"""Differentiable physics in Warp, and the bridge to torch."""
