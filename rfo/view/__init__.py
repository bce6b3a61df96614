"""Pictures, films and plots."""
