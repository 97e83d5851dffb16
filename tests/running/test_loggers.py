"""Loggers: what they hear, what they write, and that none can lose a run."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

import bench as public
from bench.contracts.events import CellEnded, CellStarted, Event, RunEnded, RunStarted, Step
from bench.contracts.logger import LOGGERS, logged
from bench.contracts.measurement import Score
from bench.running import job
from bench.util.errors import NotAvailable, PluginError, UnknownName
from tests.conftest import Bench
from tests.example_rows import row
from tests.misbehaving_plugins import install

CELL = "vae-digits-s0-0123456789ab"


class Heard:
    """A logger that keeps what it hears."""

    made: ClassVar[list[Heard]] = []

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = 0
        Heard.made.append(self)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1


class Breaks(Heard):
    """It raises at the first step."""

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if isinstance(event, Step):
            raise OSError("no space left\non this device")


class Leaves(Heard):
    """It would end the process."""

    def close(self) -> None:
        sys.exit(3)


class Lonely(Heard):
    """What it needs isn't installed."""

    def __init__(self) -> None:
        raise PluginError("this logger needs friends, which can't be imported", fix="pip install 'vaebench[friends]'")


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {c.__name__.lower(): f"{__name__}:{c.__name__}" for c in (Heard, Breaks, Leaves, Lonely)}
    install(monkeypatch, LOGGERS, **names)
    monkeypatch.setattr(LOGGERS, "_loaded", {})
    monkeypatch.setattr(Heard, "made", [])
    monkeypatch.setattr(job, "KEPT", ())


def events(folder: Path, resumed: int = 0) -> list[Event]:
    scores: dict[str, Any] = {"elbo": Score(-91.5, 360), "fd": NotAvailable("too few images")}
    done = replace(row("vae", scores=scores), dataset="digits", steps=(60, 40), cell=CELL, costs={"train_seconds": 2.5})
    done = replace(done, hyperparameters={"latent_dim": 8, "hidden": (4, 4), "backbone": "mlp", "encoder": None})
    steps = [Step(CELL, s, 0, {"rec": 100.0 - s, "kl": 2.0}) for s in range(10, 101, 10) if s > resumed]
    return [
        RunStarted(1, 100, str(folder), ()),
        CellStarted(CELL, "vae", "digits", 0, (60, 40), resumed),
        *steps,
        CellEnded(CELL, done),
        RunEnded(str(folder), (done,), 3.0),
    ]


def play(name: str, told: list[Event]) -> list[str]:
    """What a run says, to one logger; the warnings."""
    said: list[str] = []
    with logged([name], lambda _: None, said.append) as listener:
        for event in told:
            listener(event)
    return said


# the contract


def test_a_logger_hears_every_event_once_and_is_closed(bench: Bench, tmp_path: Path) -> None:
    settings = ("--steps", "4", "--metrics", "elbo", "--threads", "1", "--in-process", "--no-baseline", "--no-sanity")
    code, _, err = bench("run", "--variants", "vae", *settings, "--logger", "heard", "--out", tmp_path / "run")
    assert code == 0, err
    (logger,) = Heard.made
    kinds = [type(e).__name__ for e in logger.events]
    assert [k for k in dict.fromkeys(kinds) if k != "Preparing"] == [
        "RunStarted", "CellStarted", "Step", "Scoring", "CellEnded", "RunEnded",
    ]  # fmt: skip
    assert [e.step for e in logger.events if isinstance(e, Step)] == [1, 2, 3, 4]
    assert logger.closed == 1
    assert '"logger": []' in (tmp_path / "run" / "run.json").read_text()  # a repeat is none of its business


def test_a_logger_that_raises_is_dropped_once_and_the_run_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    seen: list[Event] = []
    told = events(tmp_path)
    with logged(["breaks", "heard", "heard"], seen.append, said.append) as listener:
        for event in told:
            listener(event)
    assert said == ["the logger 'breaks' is dropped, the run goes on: OSError: no space left on this device"]
    broken, other = Heard.made
    assert seen == other.events == told
    assert broken.events == told[:3]
    assert other.closed == 1


def test_a_logger_cant_end_the_process(tmp_path: Path) -> None:
    assert play("leaves", events(tmp_path)) == ["the logger 'leaves' is dropped, the run goes on: SystemExit: 3"]


def test_an_interrupted_run_closes_its_loggers(tmp_path: Path) -> None:
    def interrupted() -> None:
        with logged(["heard"], lambda _: None, print) as listener:
            listener(events(tmp_path)[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert Heard.made[0].closed == 1


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [("lonely", PluginError, "pip install 'vaebench[friends]'"), ("herd", UnknownName, "Did you mean 'heard'?")],
)
def test_nothing_is_trained_without_the_logger_that_was_asked_for(
    bench: Bench, tmp_path: Path, name: str, error: type[Exception], said: str
) -> None:
    code, out, err = bench("run", "--variants", "vae", "--logger", name, "--out", tmp_path / "run", "--in-process")
    assert (code, out) == (2, "")
    assert said in err
    assert not (tmp_path / "run").exists()
    with pytest.raises(error):
        public.run("vae", out=str(tmp_path / "run"), logger=name, in_process=True, progress=False)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_package_that_isnt_installed_is_named_with_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorboard", "torch.utils.tensorboard", "mlflow"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PluginError) as caught:
        play(name, [])
    assert f"this logger needs {name}" in caught.value.what
    assert caught.value.fix == f"pip install 'vaebench[{name}]'"


def test_what_is_called_a_logger_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, LOGGERS, wrong="tests.misbehaving_plugins:Mean")
    with pytest.raises(PluginError, match="is no logger"):
        play("wrong", [])


# TensorBoard, read back by its own reader


def tensorboard(folder: Path) -> Any:
    reason = "TensorBoard isn't installed: pip install 'vaebench[tensorboard]'"
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason=reason)
    found = accumulator.EventAccumulator(str(folder / "logs" / "tensorboard" / CELL))
    found.Reload()
    return found


def scalars(found: Any, tag: str) -> list[tuple[int, float]]:
    return [(e.step, round(e.value, 4)) for e in found.Scalars(tag)]


def test_tensorboard_reads_terms_scores_and_costs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard isn't installed: pip install 'vaebench[tensorboard]'")
    assert play("tensorboard", events(tmp_path)) == []
    found = tensorboard(tmp_path)
    assert scalars(found, "train/rec") == [(s, 100.0 - s) for s in range(10, 101, 10)]
    assert scalars(found, "score/elbo") == [(100, -91.5)]
    assert scalars(found, "cost/train_seconds") == [(100, 2.5)]
    assert "score/fd" not in found.Tags()["scalars"]
    assert found.Tensors("cell/text_summary")[0].tensor_proto.string_val[0].decode() == "vae · digits · seed 0: ok"
    from tensorboard.plugins.hparams import plugin_data_pb2

    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    given = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert (given["latent_dim"].number_value, given["hidden"].string_value) == (8, "4-4")
    assert [p.name for p in tmp_path.iterdir()] == ["logs"]


def test_tensorboard_goes_on_where_a_run_was_broken_off(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard isn't installed: pip install 'vaebench[tensorboard]'")
    play("tensorboard", events(tmp_path)[:9])  # up to step 70
    play("tensorboard", events(tmp_path, resumed=50))
    assert [s for s, _ in scalars(tensorboard(tmp_path), "train/rec")] == list(range(10, 101, 10))


# MLflow, read back by its own client


def test_mlflow_reads_terms_scores_and_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "MLflow isn't installed, which is large: pip install 'vaebench[mlflow]'"
    mlflow = pytest.importorskip("mlflow", reason=reason)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9/nobody")  # not what is written to
    assert play("mlflow", events(tmp_path)[:9]) == []
    assert play("mlflow", events(tmp_path, resumed=70)) == []
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'logs' / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(tmp_path.name)
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "vae · digits · seed 0"
    assert found.info.status == "FINISHED"
    assert found.data.tags["status"] == "ok"
    assert found.data.params["hidden"] == "4-4"
    assert found.data.metrics["score/elbo"] == -91.5
    assert math.isclose(found.data.metrics["cost/train_seconds"], 2.5)
    history = client.get_metric_history(found.info.run_id, "train/rec")
    assert sorted((m.step, m.value) for m in history) == [(s, 100.0 - s) for s in range(10, 101, 10)]


def test_mlflow_ends_an_attempt_whose_cell_begins_anew(tmp_path: Path) -> None:
    mlflow = pytest.importorskip(
        "mlflow", reason="MLflow isn't installed, which is large: pip install 'vaebench[mlflow]'"
    )
    begun, told = events(tmp_path)[:5], events(tmp_path)
    assert play("mlflow", [*begun, *told[1:]]) == []  # without a checkpoint, within one run
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'logs' / 'mlflow' / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name(tmp_path.name).experiment_id])
    assert sorted(run.info.status for run in found) == ["FINISHED", "KILLED"]


def test_the_logger_of_the_page_works(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "loggers.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(compile(code, "docs/loggers.md", "exec"), names)
    logger = names["Lines"]()
    for event in events(tmp_path):
        logger(event)
    logger.close()
    assert (tmp_path / "logs" / "lines.txt").read_text() == "vae 0 ok\n"
