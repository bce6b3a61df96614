"""Tasks on the finite-element engine."""
