"""Receipts of revocations: fetched, kept, and checked without any server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from ownkey.cli.admin_options import one_line
from ownkey.cli.main import Shared, shared_options
from ownkey.cli.options import parse_time, tenant_option
from ownkey.cli.output import INVALID_OBJECT, OTHER_ERROR, Failure
from ownkey.receipts import ReceiptInvalid, receipt_file, verify_receipt

UNPROVED = "nothing proves that every process has heard of it"


@click.command()
@click.argument("revocation_id", metavar="REVOCATION", required=False)
@click.option("--key", help="Instead of a revocation: this key, which its holder took away in its key store.")
@click.option("--since", callback=parse_time, metavar="TIME", help="With --key: found then or later; else an hour ago.")
@click.option(
    "--wait", type=click.FloatRange(min=0), default=0.0, metavar="SECONDS", help="Wait so long for every process."
)
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep the signed receipt in this file.",
)
@tenant_option
@shared_options
@click.pass_obj
def receipt(
    shared: Shared,
    revocation_id: str | None,
    key: str | None,
    since: datetime | None,
    wait: float,
    target: Path | None,
    tenant: str,
) -> None:
    """Get a signed receipt of REVOCATION: when it took effect in each process, and what was served before.

    A process that is not heard of is told, and not said to have obeyed; the exit code is 1 then.
    """
    if (revocation_id is None) == (key is None):
        raise click.UsageError("give either a revocation or --key")
    if since is not None and key is None:
        raise click.UsageError("--since goes with --key")
    with shared.admin() as client:
        if key is not None:
            made = client.get_key_receipt(tenant, key, since=since, wait=wait)
        else:
            made = client.get_revocation_receipt(tenant, revocation_id or "", wait=wait)
    file = receipt_file(made)
    if target is not None:
        target.write_bytes(file)
    # Said as it is signed: what stands on the screen and in the file is one thing.
    said = _description(made.description)
    _show(shared, said, {"signed by": made.signing_key, **({"kept in": str(target)} if target else {})})
    if not made.complete:
        raise Failure(f"{UNPROVED}: {made.unproved} of {made.instances}", hint="ask again, with --wait 5")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--public-key",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM of the audit trail's public key: audit-signing.pem.pub beside the server's signing key.",
)
@shared_options
@click.pass_obj
def verify(shared: Shared, file: Path, public_key: Path) -> None:
    """Check a receipt in FILE without any server, and show what it says."""
    try:
        said = verify_receipt(file.read_bytes(), public_key.read_bytes())
    except ReceiptInvalid as error:
        raise Failure(f"{file}: {error}", INVALID_OBJECT) from None
    _show(shared, said, {"signature": "good"})
    if not said["complete"]:
        raise Failure(f"the receipt is genuine, but {UNPROVED}", OTHER_ERROR)


def _description(text: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(text)
    return said


def _show(shared: Shared, said: Mapping[str, Any], more: Mapping[str, object]) -> None:
    about = said["revocation"]["id"] if "revocation" in said else said["key"]
    lines: dict[str, object] = {
        "receipt of": about,
        "tenant": said["tenant"],
        "made": said["time"],
        "in force since": said["since"],
        "proved everywhere": "yes" if said["complete"] else "no",
    }
    for one in said["instances"]:
        lines[f"process {one['writer']} ({one['host']}:{one['process']})"] = one_line(instance_told(one))
    shared.output.answer(said, lines | dict(more))


def instance_told(one: Mapping[str, Any]) -> str:
    """What a receipt says of a process, in a line."""
    served = one["last_served"]
    last = f"last served {served[0]['time']} (record {served[0]['sequence']})" if served else "had served nothing"
    after = f"; SERVED AFTER THAT: {one['served_after']}" if one.get("served_after") else ""
    match one["standing"]:
        case "in_force":
            effect = one["effect"]
            draining = f", {one['streams_draining']} streams let finish" if one["streams_draining"] else ""
            where = f" at {one['replica']}" if "replica" in one else ""
            return (
                f"in force{where} at {effect['time']} (record {effect['sequence']}): {one['streams_ended']} streams and"
                f" {one['leases_ended']} leases ended{draining}; before that, {last}{after}"
            )
        case "since_start":
            return f"began after it, and knew of it{after}"
        case "stopped":
            return f"stopped at {one['head']['time']}; before that, {last}"
        case "gone":
            return f"NOT PROVED: not heard of since {one['heard']}, and taken for dead; by its records, {last}"
        case _:
            return f"NOT PROVED: not heard of this yet; by its records up to {one['head']['time']}, {last}"
