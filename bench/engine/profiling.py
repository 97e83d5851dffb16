"""`--profile`: some training steps of a cell, traced by torch's profiler after a warm-up. Changes no number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.util import inside
from bench.util.durable import write_file
from bench.util.process import make_folder

if TYPE_CHECKING:
    import torch

    from bench.contracts.images import Images

BEFORE, WARM, STEPS = 10, 3, 30  #: steps that are skipped, that warm up the profiler, and that are traced
TOP = 8  #: operations in the table
FOLDER = "profile"  #: in the cell's folder
TRACE, TABLE = "trace.json.gz", "table.txt"


class Profiler:
    """Traces steps of a training, and writes `trace.json.gz` and `table.txt` into `folder`.

    Args:
        images: the training images; the profiler follows the device that holds them.
        steps: the length of the training; a short one is traced from its beginning.
    """

    def __init__(self, folder: Path, images: Images, steps: int) -> None:
        self.folder, self.device = folder, images.device
        self.begin = max(1, min(BEFORE, steps - WARM - STEPS))
        self.done = 0
        self._profile: torch.profiler.profile | None = None

    def turn(self) -> None:
        """Count a step that has ended; start and end the trace when it is time to."""
        from torch.profiler import ProfilerActivity, profile, schedule

        self.done += 1
        if self._profile is not None:
            self._profile.step()
            if self.done == self.begin + WARM + STEPS:
                self.finish()
        elif self.done == self.begin:
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self.device.type == "cuda")
            self._profile = profile(
                activities=activities, schedule=schedule(wait=0, warmup=WARM, active=STEPS, repeat=1)
            )
            self._profile.start()

    def finish(self) -> None:
        """End the trace and write its files; write none for a training that ended before the first traced step."""
        ended, self._profile = self._profile, None
        if ended is None:
            return
        ended.stop()
        if not ended.events():  # type: ignore[no-untyped-call]
            return
        make_folder(self.folder)
        ended.export_chrome_trace(str(self.folder / TRACE))
        by = "self_cpu_time_total" if self.device.type == "cpu" else "self_device_time_total"
        table = ended.key_averages().table(sort_by=by, row_limit=TOP, max_name_column_width=40)
        write_file(self.folder / TABLE, table)


@dataclass(frozen=True)
class Profile:
    """The files that the profiler left of one cell."""

    label: str
    folder: Path

    @property
    def table(self) -> str:
        """The operations that took most time, as torch's profiler prints them."""
        return inside.content(self.folder / TABLE).decode()


def profiles(cells: Path, named: Sequence[tuple[str, str]]) -> list[Profile]:
    """Return the profiles that there are of the cells in `named`, pairs of (folder in `cells`, label)."""
    expected = [Profile(label, cells / cell / FOLDER) for cell, label in named]
    return [profile for profile in expected if (profile.folder / TABLE).is_file()]


def printed(profile: Profile) -> Iterator[str]:
    """Yield the texts that show a cell's profile: its label, the table, and where the trace lies."""
    yield profile.label
    yield profile.table
    yield f"{profile.folder / TRACE}  opens in Perfetto or chrome://tracing"
