"""First-party datasets, each by its own entry point."""
