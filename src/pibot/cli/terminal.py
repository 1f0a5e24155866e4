"""The only way from the command to the terminal: what a model, a page or a worker wrote can't control it."""

from __future__ import annotations

import io
import os
import sys

import click

from pibot.visible import printable, printable_json


def say(text: object = "", *, err: bool = False) -> None:
    """Write a line to standard output, or to standard error, as :func:`~pibot.visible.printable` text."""
    click.echo(printable(text), err=err)


def say_json(data: object) -> None:
    """Write indented JSON to standard output; programs read the same data, whatever is escaped for the terminal."""
    click.echo(printable_json(data))


def replace_unknown_characters() -> None:
    """Write characters that the terminal's encoding lacks as question marks, rather than end with an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def flush() -> None:
    """Write what is buffered.

    Raises:
        BrokenPipeError: nobody reads it any more.
    """
    sys.stdout.flush()


def discard_output() -> None:
    """Discard what Python writes at its end, because nobody reads standard output any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
