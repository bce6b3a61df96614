"""Training flow policies by gradients through their generation and through the physics."""

__version__ = "0.1.0"
