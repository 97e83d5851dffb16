"""Plugins: found by entry point, file or class; their hyperparameters, their source, their failures."""
