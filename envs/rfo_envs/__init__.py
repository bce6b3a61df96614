"""Environments that ship with rfo, found through the same entry points as anyone else's."""
