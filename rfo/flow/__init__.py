"""Velocity networks, integrators and matching losses; nothing here knows of reinforcement learning."""
