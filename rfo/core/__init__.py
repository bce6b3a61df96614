"""The environment contract, the shell around it, and the registry."""
