"""How long a run of 20,000 finished cells takes to be read: `python benchmarks/scan.py [CELLS]`."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import replace

from bench.contracts.measurement import METRICS, Score
from bench.contracts.protocol import RunRequest
from bench.contracts.row import Row
from bench.results.store import Run
from bench.tables import frames

ROW = Row("beta", "beta[beta=10]", "fashion", 0, "ok", hyperparameters={"beta": 10.0, "latent_dim": 20}, steps=(4690,))


def main(cells: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Run(folder)
        run.create(RunRequest(variants=("beta",), datasets=("fashion",)))
        scores = {name: Score(1.234567, 10_000, 0.01) for name in METRICS}
        first = replace(ROW, cell="beta-0")
        run.write_done(first, {}, [], {}, {}, "")
        run.write_scores(first.cell, {"samples": 10_000}, scores, {})
        home = run.cells / first.cell
        document = json.loads((home / "done" / "cell.json").read_text())
        (scored,) = (home / "scores").iterdir()
        for seed in range(1, cells):
            copy = run.cells / f"beta-{seed}"
            (copy / "done").mkdir(parents=True)
            (copy / "scores").mkdir()
            (copy / "done" / "cell.json").write_text(json.dumps({**document, "seed": seed}, indent=1))
            (copy / "scores" / scored.name).write_bytes(scored.read_bytes())
        for name, action in (
            ("which are done", lambda: sum(map(run.is_done, run.names()))),
            ("rows", lambda: len(run.rows())),
            ("table", lambda: len(frames.frame(run.rows()))),
        ):
            began, used = time.perf_counter(), time.process_time()
            assert action() == cells
            wall, cpu = time.perf_counter() - began, time.process_time() - used
            print(f"{name:>15}  {wall:6.2f} s, {cpu:.2f} s of CPU, for {cells:,} cells")  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
