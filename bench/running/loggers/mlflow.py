"""MLflow: a database of its own under logs/mlflow in the run's folder, with an MLflow run for each cell."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from typing import Any

from bench.contracts.events import CellEnded, CellStarted, Event, RunStarted, Step
from bench.contracts.logger import needs, place
from bench.contracts.measurement import Score
from bench.contracts.row import Row
from bench.plugins.hyperparameters import show

ODD = re.compile(r"[^\w ./-]")  # letters that MLflow refuses in names
AT_ONCE = 100  #: parameters that MLflow takes in one call


class MLflow:
    """MLflow, in local files: `mlflow ui --backend-store-uri sqlite:///RUN/logs/mlflow/mlflow.db` shows them.

    Terms are `train/<term>` by step, scores `score/<metric>` and costs `cost/<name>` at the last step; hyperparameters
    are parameters. Nothing is sent anywhere: neither to a server that the environment names, nor as telemetry.
    """

    def __init__(self) -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read at its import
        try:
            import mlflow
            import sqlalchemy  # noqa: F401  # which mlflow-skinny lacks
        except ImportError as error:
            raise needs("mlflow", "mlflow", error) from None
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # or it prints each table of its database
        self._mlflow: Any = mlflow
        self._client: Any = None
        self._experiment = ""
        self._runs: dict[str, str] = {}  # MLflow's by cell

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._open(event.folder)
            case CellStarted():
                self._begin(event)
            case Step() if event.cell in self._runs:
                self._log(event.cell, {f"train/{name}": v for name, v in event.terms.items()}, event.step)
            case CellEnded() if not event.reused:
                self._end(event.cell, event.row)

    def close(self) -> None:
        for run in self._runs.values():
            self._client.set_terminated(run, "KILLED")
        self._runs.clear()

    def _open(self, folder: str) -> None:
        home = place(folder, "mlflow").resolve()
        address = f"sqlite:///{home / 'mlflow.db'}"
        self._client = self._mlflow.MlflowClient(tracking_uri=address, registry_uri=address)
        name = home.parent.parent.name
        known = self._client.get_experiment_by_name(name)
        artifacts = (home / "artifacts").as_uri()
        self._experiment = known.experiment_id if known else self._client.create_experiment(name, artifacts)

    def _begin(self, event: CellStarted) -> None:
        """Go on with the MLflow run of an earlier attempt from its checkpoint, or start a new one."""
        before = self._runs.pop(event.cell, None)
        earlier = []
        if event.resumed:
            earlier = self._client.search_runs([self._experiment], f"tags.cell = '{event.cell}'", max_results=1)
        if earlier:
            self._runs[event.cell] = run = str(earlier[0].info.run_id)
            self._client.update_run(run, "RUNNING")
        else:
            run = self._new(event.cell, f"{event.label} · {event.dataset} · seed {event.seed}")
        if before not in (None, run):
            self._client.set_terminated(before, "KILLED")

    def _new(self, cell: str, name: str) -> str:
        run = self._client.create_run(self._experiment, run_name=name, tags={"cell": cell})
        self._runs[cell] = str(run.info.run_id)
        return self._runs[cell]

    def _log(self, cell: str, values: Mapping[str, float], step: int) -> None:
        now, entry = int(1000 * time.time()), self._mlflow.entities.Metric
        self._client.log_batch(self._runs[cell], metrics=[entry(_name(n), v, now, step) for n, v in values.items()])

    def _end(self, cell: str, row: Row) -> None:
        if cell not in self._runs:  # it was skipped, or trained before
            self._new(cell, f"{row.label} · {row.dataset} · seed {row.seed}")
        given = {"variant": row.variant, "dataset": row.dataset, "seed": row.seed, **row.hyperparameters}
        parameters = [self._mlflow.entities.Param(_name(name), show(value)[:500]) for name, value in given.items()]
        for start in range(0, len(parameters), AT_ONCE):
            self._client.log_batch(self._runs[cell], params=parameters[start : start + AT_ONCE])
        scores = {f"score/{name}": s.value for name, s in row.scores.items() if isinstance(s, Score)}
        self._log(cell, {**scores, **{f"cost/{name}": value for name, value in row.costs.items()}}, sum(row.steps))
        self._client.set_tag(self._runs[cell], "status", f"{row.status} {row.reason}".rstrip())
        self._client.set_terminated(self._runs.pop(cell), "FINISHED" if row.status == "ok" else "FAILED")


def _name(text: str) -> str:
    return ODD.sub("_", text)[:250]
