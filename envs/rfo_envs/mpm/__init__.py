"""Tasks on the MPM engine."""
