"""A job keeps to its threads, whichever library computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_info, threadpool_limits

from bench import api
from bench.engine.evaluator import Evaluator
from bench.util.threads import limited


def pools() -> dict[str, int]:
    """The threads of each library that has a pool of its own."""
    return {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}


def test_every_library_takes_so_many_threads_and_its_own_again() -> None:
    with limited(1):  # loads them
        assert {pool["user_api"] for pool in threadpool_info()} == {"blas", "openmp"}
    with threadpool_limits(3):
        torch.set_num_threads(3)
        before = pools()
        with limited(2):
            assert torch.get_num_threads() == 2
            assert set(pools().values()) == {2}
        assert pools() == before
        with pytest.raises(ZeroDivisionError), limited(1):
            raise ZeroDivisionError
        assert pools() == before
        assert torch.get_num_threads() == 3


def test_a_job_keeps_to_its_threads_while_it_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, fitting = [], []
    score, fit = Evaluator.score, GaussianMixture.fit
    monkeypatch.setattr(Evaluator, "score", lambda *a: (found.append(set(pools().values())), score(*a))[1])
    monkeypatch.setattr(GaussianMixture, "fit", lambda *a: (fitting.append(set(pools().values())), fit(*a)))
    with threadpool_limits(3):
        api.run(
            ["vae"],
            steps=2,
            threads=2,
            in_process=True,
            baseline=False,
            sanity=False,
            metrics=["fd_gmm"],
            out=str(tmp_path),
        )
    assert found == [{2}]
    assert fitting == [{1}], "a mixture is fitted by one thread, however many its cell has"
