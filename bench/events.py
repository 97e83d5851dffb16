"""The events that loggers hear: the public names of `bench.contracts.events`."""

from bench.contracts.events import *  # noqa: F403
