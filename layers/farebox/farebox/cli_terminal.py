"""What all commands share: which gateway, how errors are said, JSON or a table."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import click
from rich.console import Console, RenderableType

from .cli_client import Client, ClientError, Place, place_in
from .cli_shown import plain
from .money import dumps


@dataclass(frozen=True, slots=True)
class Clock:
    """Of the machine that the command runs on."""

    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


class Terminal:
    """Of one run. The gateway is looked for when it is first asked, so that --help needs none."""

    def __init__(self, clock: Clock, stack: str | None, *, local: bool) -> None:
        self.clock = clock
        self._stack = stack
        self._local = local

    @cached_property
    def client(self) -> Client:
        client = Client(self._place())
        click.get_current_context().find_root().call_on_close(client.close)
        return client

    def _place(self) -> Place:
        if self._stack is None:
            return place_in(os.environ, local=self._local)
        from .cli_stack import place_of  # noqa: PLC0415 - botocore takes half a second

        return place_of(self._stack)


pass_terminal = click.make_pass_decorator(Terminal)
as_json = click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")


class Failed(click.ClickException):
    """An error of the client's, as click ends a program."""

    def __init__(self, error: ClientError) -> None:
        super().__init__(plain(error))
        self.exit_code = error.exit_code

    def show(self, file: Any = None) -> None:
        click.echo(f"farebox: {self.message}", file=file or sys.stderr)


class Commands(click.Group):
    """The program: its errors are sentences."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ClientError as e:
            raise Failed(e) from e


def show(*tables: RenderableType) -> None:
    """On stdout: in colours where that is a terminal and NO_COLOR is not set."""
    console = Console(markup=False, emoji=False, highlight=False)
    for at, table in enumerate(tables):
        if at:
            console.print()
        console.print(table)


def show_json(found: Any) -> None:
    """On one line, as the gateway has said it."""
    click.echo(dumps(found))


def say(sentence: str) -> None:
    """What is for people only: stdout may be a variable."""
    click.echo(plain(sentence), err=True)


def misused(sentence: str) -> NoReturn:
    """Ends the program as for an unknown option."""
    raise click.UsageError(sentence)
