"""Checking and joining results: verify, merge."""
