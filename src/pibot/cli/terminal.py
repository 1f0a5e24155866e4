"""The only way from the command to the terminal: what a model, a page or a worker wrote can't control it."""

from __future__ import annotations

import click

from pibot.visible import printable, printable_json


def say(text: object = "", *, err: bool = False) -> None:
    """Write a line to standard output, or to standard error, as :func:`~pibot.visible.printable` text."""
    click.echo(printable(text), err=err)


def say_json(data: object) -> None:
    """Write indented JSON to standard output; programs read the same data, whatever is escaped for the terminal."""
    click.echo(printable_json(data))
