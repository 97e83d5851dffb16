"""CPU threads: one number for torch, and for the BLAS and OpenMP of everything else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def limited(count: int) -> Iterator[None]:
    """So many threads in here, of torch as of NumPy, SciPy and scikit-learn; afterwards as many as before.

    torch alone isn't enough: the others take every core of the machine, and those of jobs side by side then wait for
    each other, which on two cores makes fitting a mixture sixteen times slower.
    """
    import sklearn.mixture  # noqa: F401  (what isn't loaded yet can't be limited)
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    try:
        with threadpool_limits(count):
            torch.set_num_threads(count)
            yield
    finally:  # this may be a notebook's process
        torch.set_num_threads(before)
