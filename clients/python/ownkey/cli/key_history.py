"""``ownkey status --watch`` and ``--history``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import click

from ownkey.cli.main import Shared
from ownkey.cli.output import OK, coloured
from ownkey.client import Client
from ownkey.models import CustomerKeyStatus, KeyStateChange, KeyWatchEvent

PAGE = 500


def watch_keys(shared: Shared, tenant: str, key: str) -> int:
    """Tell every change until interrupted."""
    with shared.client() as client, client.watch_key_status(tenant, key) as events:
        try:
            for event in events:
                if shared.output.as_json:
                    shared.output.answer(event)
                else:
                    for line in _lines(event):
                        click.echo(line)
        except KeyboardInterrupt:
            click.echo("", err=True)
    return OK


def tell_history(shared: Shared, tenant: str, key: str, limit: int) -> int:
    """Tell the latest changes, the oldest of them first."""
    with shared.client() as client:
        changes = list(itertools.islice(_changes(client, tenant, key, limit), limit))[::-1]
    lines = {f"{one.sequence}": _change(one) for one in changes}
    shared.output.answer({"changes": changes}, lines or {tenant: "nothing became of its keys yet"})
    return OK


def _changes(client: Client, tenant: str, key: str, limit: int) -> Iterator[KeyStateChange]:
    token = ""
    while True:
        page = client.key_state_changes(tenant, key, page_size=min(limit, PAGE), page_token=token)
        yield from page.changes
        token = page.next_page_token
        if not token:
            return


def _lines(event: KeyWatchEvent) -> Iterator[str]:
    match event.kind:
        case "snapshot":
            if event.changes_missed:
                yield "not every change until here was told: see ownkey status --history"
            for one in event.keys:
                yield f"{one.key}: {_state(one)}"
        case "status":
            for one in event.keys:
                yield f"{one.key}: {_state(one)}"
        case "change" if event.change is not None:
            yield _change(event.change)
        case "disconnected":
            yield f"the service cannot be reached, and is tried again: {event.cause}"


def _state(one: CustomerKeyStatus) -> str:
    told = ", works again" if one.recovering else ""
    return f"{coloured(one.state)}{told}" + (f": {one.cause}" if one.cause else "")


def _change(one: KeyStateChange) -> str:
    where = f" in {one.replica}" if one.replica else ""
    before = f"{one.before} -> " if one.before else ""
    why = f": {one.cause}" if one.cause else ""
    return f"{one.time:%Y-%m-%d %H:%M:%S} UTC  {one.key}{where}: {before}{coloured(one.state)}{why}"
