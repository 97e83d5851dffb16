"""First-party executors, each by its own entry point."""
