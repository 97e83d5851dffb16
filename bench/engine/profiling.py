"""Where a training step's time goes: a trace for the usual viewers, and its sums in a table.

It follows some steps after a warm-up, of the first stage, and changes no number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from bench.util.durable import read_json, write_json
from bench.util.process import make_folder

if TYPE_CHECKING:
    import torch
    from torch.autograd.profiler_util import FunctionEvent

    from bench.contracts.images import Images

BEFORE, WARM, STEPS = 10, 3, 30  #: turns that aren't looked at, that warm up the profiler, and that count
TOP = 8  #: operations in the table
FOLDER = "profile"  #: in a cell's own
TRACE, SUMS = "trace.json.gz", "profile.json"

PARTS = ("data", "forward", "backward", "optimizer", "bookkeeping")
_STEP, _BACKWARD, _OPTIMIZER = "ProfilerStep", "autograd::engine::evaluate_function", "Optimizer.step#"


class Profiler:
    """Follows a training by its turns; leaves `trace.json.gz` and `profile.json` in `folder`.

    Args:
        images: what is trained on; from here on, they mark the taking of a batch, pixels to labels, as data.
        steps: of the training; a short one is looked at from its beginning.
    """

    def __init__(self, folder: Path, images: Images, steps: int) -> None:
        self.folder, self.device = folder, images.device
        self.begin = min(BEFORE, max(0, steps - WARM - STEPS))
        self.done = 0
        self._profile: Any = None
        self._data: Any = None
        self._watch(images)

    def _watch(self, images: Images) -> None:
        take, labels = images.take, images.labels

        @wraps(take)
        def taken(*given: Any, **named: Any) -> torch.Tensor:
            import torch

            if self._profile is not None and self._data is None:
                self._data = torch.profiler.record_function("data")
                self._data.__enter__()
            return take(*given, **named)

        @wraps(labels)
        def labelled(*given: Any, **named: Any) -> torch.Tensor:
            found = labels(*given, **named)
            if self._data is not None:
                self._data.__exit__(None, None, None)
                self._data = None
            return found

        images.__dict__.update(take=taken, labels=labelled)

    def turn(self) -> None:
        """A turn has ended."""
        from torch.profiler import ProfilerActivity, profile, schedule

        self.done += 1
        if self._profile is not None:
            self._profile.step()
            if self.done == self.begin + WARM + STEPS:
                self.finish()
        elif self.done == max(1, self.begin):
            activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self.device.type == "cuda")
            self._profile = profile(
                activities=activities, schedule=schedule(wait=0, warmup=WARM, active=STEPS, repeat=1)
            )
            self._profile.start()

    def finish(self) -> None:
        """Write what there is; nothing of a training that was too short."""
        ended, self._profile = self._profile, None
        if ended is None:
            return
        ended.stop()
        events = ended.events() or []
        if any(e.name.startswith(_STEP) for e in events):
            make_folder(self.folder)
            ended.export_chrome_trace(str(self.folder / TRACE))
            write_json(self.folder / SUMS, {"device": str(self.device), **summed(events)})


def summed(events: Sequence[FunctionEvent]) -> dict[str, Any]:
    """Steps, milliseconds of a step by part, and the operations that took the most of it themselves."""
    steps = [e.time_range for e in events if e.name.startswith(_STEP) and e.device_type.name == "CPU"]
    parts = dict.fromkeys(PARTS, 0.0)
    for step in steps:
        for part, elapsed in _parts(step, events):
            parts[part] += elapsed
    inside = [e for e in events if not e.is_user_annotation and any(_within(e.time_range, step) for step in steps)]
    names = sorted({e.name for e in inside})
    own = {n: [e for e in inside if e.name == n] for n in names}
    per = 1_000 * max(1, len(steps))
    operations = [
        {
            "name": name,
            "calls": len(found) / max(1, len(steps)),
            "cpu_ms": sum(e.self_cpu_time_total for e in found) / per,
            "device_ms": sum(e.self_device_time_total for e in found) / per,
        }
        for name, found in own.items()
    ]
    operations.sort(key=lambda o: -max(o["cpu_ms"], o["device_ms"]))
    return {
        "steps": len(steps),
        "step_ms": sum(step.end - step.start for step in steps) / per,
        "parts_ms": {part: elapsed / per for part, elapsed in parts.items()},
        "operations": operations[:TOP],
    }


def _within(inner: Any, outer: Any) -> bool:
    return bool(outer.start <= inner.start < outer.end)


def _parts(step: Any, events: Sequence[FunctionEvent]) -> Iterator[tuple[str, float]]:
    """The parts of one step in microseconds of the host's time, one after the other.

    Data, backward and optimizer say what they are; what leads from the batch, or from another phase's optimizer, to a
    backward pass is a forward pass.
    """
    marks = sorted(
        (e.time_range.start, e.time_range.end, kind)
        for e in events
        if (kind := _kind(e.name)) and e.device_type.name == "CPU" and _within(e.time_range, step)
    )
    at, before = step.start, ""
    for kind, group in groupby(marks, key=lambda mark: mark[2]):
        spans = list(group)
        start, end = spans[0][0], max(span[1] for span in spans)
        yield ("forward" if kind == "backward" and before else "bookkeeping"), max(0.0, start - at)
        yield kind, max(0.0, end - max(start, at))
        at, before = max(at, end), kind
    yield "bookkeeping", max(0.0, step.end - at)


def _kind(name: str) -> str:
    if name == "data":
        return "data"
    if name.startswith(_BACKWARD):
        return "backward"
    return "optimizer" if name.startswith(_OPTIMIZER) else ""


@dataclass(frozen=True)
class Profile:
    """What is known of a cell."""

    label: str
    folder: Path
    sums: dict[str, Any]


def profiles(cells: Path, named: Sequence[tuple[str, str]]) -> list[Profile]:
    """The profiles that cells have, given as (folder, label)."""
    folders = [(label, cells / cell / FOLDER) for cell, label in named]
    return [Profile(label, f, dict(read_json(f / SUMS))) for label, f in folders if (f / SUMS).is_file()]


def printed(found: Profile) -> Iterator[RenderableType]:
    """A cell's profile on half a screen."""
    sums = found.sums
    whole = sums["step_ms"]
    gpu = any(o["device_ms"] for o in sums["operations"])
    shares = "  ".join(f"{part} {ms / whole:.0%}" for part, ms in sums["parts_ms"].items())
    yield Text.assemble((found.label, "bold"), f"  {whole:.2f} ms a step on {sums['device']}: {shares}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("operation")
    for head in ("calls a step", "ms itself", "share", *(("GPU ms",) if gpu else ())):
        table.add_column(head, justify="right")
    for o in sums["operations"]:
        cells = [f"{o['calls']:.3g}", f"{o['cpu_ms']:.3f}", f"{o['cpu_ms'] / whole:.0%}"]
        table.add_row(Text(o["name"]), *cells, *([f"{o['device_ms']:.3f}"] if gpu else []))
    yield table
    yield f"{found.folder / TRACE}  opens in Perfetto or chrome://tracing"
