"""The public names of `bench.contracts.events`, for loggers."""

from bench.contracts.events import *  # noqa: F403
