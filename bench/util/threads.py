"""CPU threads: one number for torch and for all other libraries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def limited(count: int) -> Iterator[None]:
    """Limit torch, NumPy, SciPy and scikit-learn to `count` threads inside; restore the numbers of before at the end.

    A limit for torch alone isn't enough: the others use every core, and jobs side by side wait for each other. On two
    cores that makes fitting a mixture 16 times slower.
    """
    import sklearn.mixture  # noqa: F401  (only libraries that are loaded can be limited)
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    try:
        with threadpool_limits(count):
            torch.set_num_threads(count)
            yield
    finally:  # this may be a notebook's process
        torch.set_num_threads(before)
