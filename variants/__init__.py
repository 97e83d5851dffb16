"""First-party variants, each by its own entry point."""
