"""Soft bodies: tetrahedral finite elements."""
