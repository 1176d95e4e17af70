"""Keeps botocore from logging what it sends and receives: its debug messages hold data keys and session tokens."""

from __future__ import annotations

import logging
import pkgutil

import botocore
import botocore.retries


class _NothingBelowInfo(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.INFO


_FILTER = _NothingBelowInfo()


def silence() -> None:
    """Make it so, whatever level anybody sets: a filter counts where a level would be set anew."""
    names = ["botocore"]
    for package in (botocore, botocore.retries):
        names += [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    for name in names:
        logging.getLogger(name).addFilter(_FILTER)  # adding it again changes nothing
