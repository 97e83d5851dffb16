"""Checkpoints of a training: the last two, with checksums; instead of a damaged one, the one before is loaded.

work/checkpoints/<turn>/     state.safetensors, state.json, SHA256SUMS
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bench.engine.snapshot import Snapshot
from bench.util import inside
from bench.util.durable import appear, damage, read_json, write_json, writing
from bench.util.errors import StoreError

KEPT = 2


class Checkpoints:
    """The checkpoints of one cell.

    Args:
        folder: the folder of all of them.
        cell: the cell's name, which holds its identity: checkpoints of other cells are refused.
    """

    def __init__(self, folder: Path, cell: str) -> None:
        self.folder, self.cell = folder, cell

    def save(self, snapshot: Snapshot) -> None:
        """Write a snapshot, and remove all but the last two.

        Raises:
            StoreError: the disk is full, or a link lies in the folder's place.
        """
        self._folders()

        def fill(folder: Path) -> None:
            flat = torch.contiguous_format
            tensors = {k: v.detach().cpu().clone(memory_format=flat) for k, v in snapshot.tensors.items()}
            save_file(tensors, folder / "state.safetensors")
            write_json(folder / "state.json", {"cell": self.cell, "position": snapshot.position})

        with writing(self.folder):
            appear(self.folder / f"{snapshot.done:010d}", fill)
        for old in self._folders()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def load(self, device: torch.device | str = "cpu") -> tuple[Snapshot | None, list[str]]:
        """Return the newest undamaged checkpoint, and why newer ones were rejected, which are removed.

        Raises:
            Damaged: a link lies in the folder's place.
        """
        rejected: list[str] = []
        for folder in reversed(self._folders()):
            try:
                return self._read(folder, device), rejected
            except (OSError, StoreError, SafetensorError, KeyError, ValueError, TypeError) as error:
                reason = " ".join(str(error).split())[:200]
                rejected.append(f"checkpoint at step {int(folder.name):,} rejected: {reason}")
                shutil.rmtree(folder, ignore_errors=True)
        return None, rejected

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, folder: Path, device: torch.device | str) -> Snapshot:
        if wrong := damage(folder):
            raise StoreError("; ".join(wrong))
        document = read_json(folder / "state.json")
        if document["cell"] != self.cell:
            raise StoreError(f"it belongs to {document['cell']}")
        return Snapshot(load_file(folder / "state.safetensors", device=str(device)), document["position"])

    def _folders(self) -> list[Path]:
        return [Path(entry) for entry in inside.entries(self.folder) if entry.name.isdecimal()]
