"""Tasks of articulated rigid bodies."""
