"""The examples in docstrings run, and the public API has them."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch

import bench.blocks
from bench import testing

ROOT = Path(__file__).parent.parent
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "bench").rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]
PUBLIC = [getattr(bench.blocks, name) for name in bench.blocks.__all__ if name != "BACKBONES"]
PUBLIC += [testing.check, testing.checks_of, testing.parametrize_with_checks]


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str) -> None:
    torch.manual_seed(0)
    failed, tried = doctest.testmod(import_module(module))
    assert tried
    assert not failed


@pytest.mark.parametrize("public", PUBLIC, ids=lambda public: public.__name__)
def test_the_public_api_has_an_example(public: type | Callable[..., object]) -> None:
    assert ">>> " in (public.__doc__ or "")
