"""What the options of `bench run` can hold, typed or in a configuration file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.util.errors import UsageError

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:  # generic from click 8.4 on
    ParamType = click.ParamType


class Names(ParamType):
    """Names or selectors, separated by commas outside of brackets; a list where a configuration has one."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        from bench.plugins.hyperparameters import split

        if isinstance(value, list | tuple):
            return tuple(str(item) for item in value)
        return tuple(split(str(value)))


class Datasets(Names):
    """Datasets, separated by commas; those of a path that is there are part of it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if not isinstance(value, str):
            return super().convert(value, param, ctx)
        from bench.data import separate

        return tuple(separate(value))


class Seeds(ParamType):
    """How many seeds, or which."""

    name = "N or a,b,c"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            if isinstance(value, list | tuple):
                if any(type(v) is not int for v in value):
                    raise ValueError(value)
                return tuple(value)
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            raise UsageError(
                f"--seeds {value} isn't a number of seeds, or a list of them",
                fix="For example: --seeds 3 (that is 0,1,2), or --seeds 0,7,11.",
            ) from None
        if "," in str(value):
            return numbers
        if numbers[0] < 1:
            raise UsageError(f"--seeds {value} asks for no seed at all", fix="For example: --seeds 3.")
        return tuple(range(numbers[0]))


class Duration(ParamType):
    """Seconds, or with a unit: 90, 90s, 30m, 12h."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(s|m|h|d|)\s*", str(value))
        if found is None:
            raise UsageError(f"{value!r} isn't a length of time", fix="For example: 90s, 30m or 12h.")
        return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


class Shard(ParamType):
    """I/N, counted from 1."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple | list) and len(value) == 2:
            return int(value[0]), int(value[1])
        found = re.fullmatch(r"(\d+)/(\d+)", str(value))
        if found is None:
            raise UsageError(f"--shard {value} isn't I/N", fix="For example: --shard 1/8, to --shard 8/8.")
        return int(found[1]), int(found[2])


def read_config(path: Path) -> dict[str, Any]:
    """A run's settings from JSON or YAML, by the names of `RunRequest`'s fields, and its `schema` if it has one.

    Raises:
        UsageError: unreadable, or a setting that doesn't exist.
    """
    import yaml

    from bench.contracts.protocol import RunRequest

    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path} can't be read as JSON or YAML", cause=" ".join(str(error).split())) from None
    except RecursionError:
        raise UsageError(f"{path} holds no settings", cause="It's nested too deeply.") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path} holds no settings", fix="For example: variants: [vae, beta]")
    single = {"dataset": "datasets", "variant": "variants", "metric": "metrics"}
    named = {single.get(str(key), str(key)).replace("-", "_"): value for key, value in document.items()}
    given = named.get("set")
    if isinstance(given, dict):
        named["set"] = [f"{key}={value}" for key, value in given.items()]
    elif isinstance(given, str):
        named["set"] = [given]
    RunRequest.from_json({**named, "seeds": ()})  # refuses what it doesn't know
    return {key: value for key, value in named.items() if value is not None}


def is_of_a_run(path: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether a configuration is what a run wrote down, and so part of a results folder: its `run.json`.

    That is told by its name, what lies beside it, or the `schema` that runs write.
    """
    return path.name == "run.json" or "schema" in settings or (path.parent / "cells").is_dir()
