"""Windows, returns and replay."""
