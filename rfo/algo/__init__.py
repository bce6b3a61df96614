"""Algorithms: losses and one update each."""
