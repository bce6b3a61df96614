"""Tasks written in plain torch."""
