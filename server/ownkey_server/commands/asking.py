"""Secrets that somebody types: without echo, and by somebody at a terminal alone or from what is piped in."""

from __future__ import annotations

import sys
import warnings
from getpass import GetPassWarning

import click


def typed(what: str, *, new: bool = False) -> str:
    """A secret, typed in answer to ``what``; twice where a slip of the hand would cost something (``new``).

    Raises:
        click.UsageError: Nobody is at a terminal, and nothing is piped in. A script is told what to give instead.
    """
    try:
        with warnings.catch_warnings():
            # Where there is no terminal there is none to show what is typed.
            if not sys.stdin.isatty():
                warnings.simplefilter("ignore", GetPassWarning)
            return str(click.prompt(what, hide_input=True, confirmation_prompt=new, err=True))
    except click.Abort:
        if sys.stdin.isatty():
            raise
        raise click.UsageError(
            f"this is asked for, and nobody is at a terminal to type it: {what}; say where it is instead: file:PATH, "
            "env:NAME or credential:NAME"
        ) from None
