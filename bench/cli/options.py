"""Kinds of options, their types, and the reader of a run's configuration file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bench.util.errors import UsageError

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:  # generic from click 8.4 on
    ParamType = click.ParamType

_F = TypeVar("_F", bound=Callable[..., Any])


class Names(ParamType):
    """Names separated by commas outside of brackets; in a configuration also a list."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        from bench.plugins.hyperparameters import split

        if isinstance(value, list | tuple):
            return tuple(str(item) for item in value)
        return tuple(split(str(value)))


class Datasets(Names):
    """Datasets separated by commas; a comma in the path of an existing file separates nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if not isinstance(value, str):
            return super().convert(value, param, ctx)
        from bench.data import separate

        return tuple(separate(value))


class Seeds(ParamType):
    """Number of seeds, or a list of them."""

    name = "N|A,B,C"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            if isinstance(value, list | tuple):
                if any(type(v) is not int for v in value):
                    raise ValueError(value)
                return tuple(value)
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            raise UsageError(
                f"--seeds {value} is neither a number of seeds nor a list of seeds",
                fix="For example: --seeds 3 (which means 0,1,2), or --seeds 0,7,11.",
            ) from None
        if "," in str(value):
            return numbers
        if numbers[0] < 1:
            raise UsageError(f"--seeds {value} is less than one seed", fix="For example: --seeds 3.")
        return tuple(range(numbers[0]))


class Duration(ParamType):
    """Duration in seconds, or with a unit: 90, 90s, 30m, 12h."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(s|m|h|d|)\s*", str(value))
        if match is None:
            raise UsageError(f"{value!r} is not a duration", fix="For example: 90s, 30m or 12h.")
        return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


class Shard(ParamType):
    """Part I of N, counted from 1."""

    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple | list) and len(value) == 2:
            return int(value[0]), int(value[1])
        match = re.fullmatch(r"(\d+)/(\d+)", str(value))
        if match is None:
            raise UsageError(f"--shard {value} is not of the form I/N", fix="For example: --shard 1/8, to --shard 8/8.")
        return int(match[1]), int(match[2])


def option(name: str, help: str, type: Any = None, default: Any = None, **settings: Any) -> Callable[[_F], _F]:
    """Return an option with a value; its help shows the default."""
    return click.option(name, type=type, default=default, show_default=default is not None, help=help, **settings)


def flag(name: str, help: str, *more: str) -> Callable[[_F], _F]:
    """Return an option without a value; `more` is the name of its parameter."""
    return click.option(name, *more, is_flag=True, help=help)


def names(name: str, complete: Any, help: str, *more: str, **settings: Any) -> Callable[[_F], _F]:
    """Return an option that takes a comma-separated list; `more` are other flags and the parameter's name."""
    return click.option(name, *more, type=Names(), default=(), shell_complete=complete, help=help, **settings)


def read_config(path: Path) -> dict[str, Any]:
    """Read a run's settings from JSON or YAML: fields of `RunRequest` by name, and `schema` if the file has one.

    Raises:
        UsageError: the file can't be read, or has a setting that doesn't exist.
    """
    import yaml

    from bench.contracts.protocol import RunRequest

    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path} can't be read as JSON or YAML", cause=" ".join(str(error).split())) from None
    except RecursionError:
        raise UsageError(f"{path} holds no settings", cause="Its values are nested too deeply.") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path} holds no settings", fix="For example: variants: [vae, beta]")
    single = {"dataset": "datasets", "variant": "variants", "metric": "metrics"}
    settings = {single.get(str(key), str(key)).replace("-", "_"): value for key, value in document.items()}
    values = settings.get("set")
    if isinstance(values, dict):
        settings["set"] = [f"{key}={value}" for key, value in values.items()]
    elif isinstance(values, str):
        settings["set"] = [values]
    RunRequest.from_json({**settings, "seeds": ()})  # raises an error for an unknown setting
    return {key: value for key, value in settings.items() if value is not None}


def is_of_a_run(path: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether a run wrote this configuration, so that it is part of a results folder and may run no code.

    The signs are the name `run.json`, a folder `cells` beside the file, and the field `schema`.
    """
    return path.name == "run.json" or "schema" in settings or (path.parent / "cells").is_dir()
