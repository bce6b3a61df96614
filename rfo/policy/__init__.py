"""Policies, critics, encoders and normalisers."""
