"""Help pages with headings: the options of a command, and the commands of `bench`, in named sections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

_Function = TypeVar("_Function", bound=Callable[..., Any])


def examples(*lines: str, then: str = "") -> str:
    """Return the end of a help page: commands to copy, and a paragraph behind them."""
    return "\n".join(["\b", "Examples:", *(f"  bench {line}" for line in lines), *(["", then] if then else [])])


def section(heading: str, *options: Callable[[_Function], _Function]) -> Callable[[_Function], _Function]:
    """Return a decorator that adds options to a `Sectioned` command; its help lists them under `heading`."""

    def decorate(function: _Function) -> _Function:
        for option in reversed(options):
            option(function)
            vars(function)["__click_params__"][-1].heading = heading
        return function

    return decorate


class Sectioned(click.Command):
    """A command whose help lists its options by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        heading, found = "Options", dict[str, list[tuple[str, str]]]()
        for param in self.get_params(ctx):
            heading = getattr(param, "heading", heading)
            record = param.get_help_record(ctx)
            if record is not None:
                found.setdefault(heading, []).append(record)
        for heading, records in found.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class SectionedGroup(click.Group):
    """A group whose help lists its commands in sections, in the order of `sections`.

    `renamed` are names that commands had before, and how they are called now.
    """

    def __init__(
        self,
        *arguments: Any,
        sections: Mapping[str, Sequence[click.Command]],
        renamed: Mapping[str, str],
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        self.sections, self.renamed = sections, renamed
        for command in (command for commands in sections.values() for command in commands):
            self.add_command(command)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if (now := self.renamed.get(args[0])) is not None:
            raise click.UsageError(f"`bench {args[0]}` is called `bench {now}` now.", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        for heading, commands in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [(str(c.name).ljust(width), c.get_short_help_str(200)) for c in commands if not c.hidden]
                )
