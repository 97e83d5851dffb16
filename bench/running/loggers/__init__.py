"""Loggers, each registered by name in the group `bench.loggers`."""
