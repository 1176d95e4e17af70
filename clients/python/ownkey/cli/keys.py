"""Data keys, key status and policy checks."""

from __future__ import annotations

import base64
import binascii
import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import click

from ownkey.cli.key_history import tell_history, watch_keys
from ownkey.cli.main import Shared, shared_options
from ownkey.cli.options import asset_of, asset_options, context_option, parse_pairs, tenant_option
from ownkey.cli.output import DENIED, MISCONFIGURED, OK, REVOKED, UNAVAILABLE, ago, coloured, moment, plain
from ownkey.errors import ServiceUnavailable
from ownkey.models import CustomerKeyStatus, ReplicaStatus

BETWEEN_SECONDS = 0.2
EXIT_CODE_OF_STATE = {"available": OK, "revoked": REVOKED, "misconfigured": MISCONFIGURED}


@click.command()
@asset_options()
@context_option
@click.option("--with-plaintext", is_flag=True, help="Show the data key in clear, in base64.")
@shared_options
@click.pass_obj
def datakey(shared: Shared, /, with_plaintext: bool, extra_context: dict[str, str], **facts: Any) -> None:
    """Make a data key for one asset, wrapped under the key that the tenant's policy names."""
    if with_plaintext and sys.stdout.isatty():
        shared.output.note("ownkey: warning: the data key in clear follows on this terminal")
    with shared.client() as client:
        key = client.generate_data_key(asset_of(facts), extra_context=extra_context, with_plaintext=with_plaintext)
    value = plain(key)
    lines = {
        "key": f"{key.key} ({key.decision}, rule {key.rule!r})",
        "wrapped key": value["wrapped_key"],
        "context": json.dumps(value["encryption_context"], sort_keys=True),
    }
    if with_plaintext:
        lines |= {"plaintext": value["plaintext"], "lease until": moment(key.lease_expire_time)}
    else:
        del value["plaintext"]
    shared.output.answer(value, lines)


_Command = Callable[..., Any]


def _wrapped_key_options(command: _Command) -> _Command:
    """A wrapped key and the context that it is bound to."""
    for option in (
        click.option("--context-json", default="{}", help="The whole context as one JSON object."),
        click.option(
            "--context", multiple=True, callback=parse_pairs, metavar="KEY=VALUE", help="A pair of its context."
        ),
        click.option(
            "--wrapped-key", required=True, help="What `ownkey datakey` gave, in base64; - reads it from stdin."
        ),
    ):
        command = option(command)
    return command


@click.command()
@asset_options()
@_wrapped_key_options
@shared_options
@click.pass_obj
def unwrap(shared: Shared, /, wrapped_key: str, context: dict[str, str], context_json: str, **facts: Any) -> None:
    """Open a wrapped key and print the data key, in base64.

    The encryption context must be exactly the one that came with the wrapped key.
    """
    raw, pairs = _wrapped_key(wrapped_key), _pairs(context_json, context)
    with shared.client() as client:
        key = client.unwrap(asset_of(facts), raw, pairs)
    value = plain(key)
    answer = {name: value[name] for name in ("key", "plaintext", "lease_expire_time")}
    shared.output.answer(
        answer, {"key": key.key, "plaintext": value["plaintext"], "lease until": moment(key.lease_expire_time)}
    )


@click.command()
@asset_options()
@_wrapped_key_options
@shared_options
@click.pass_obj
def rewrap(shared: Shared, /, wrapped_key: str, context: dict[str, str], context_json: str, **facts: Any) -> None:
    """Wrap a wrapped key anew, as the tenant's policy says today, and print what to keep in place of the old one.

    Its encryption context stays. The data key does not leave the service.
    """
    raw, pairs = _wrapped_key(wrapped_key), _pairs(context_json, context)
    with shared.client() as client:
        key = client.rewrap(asset_of(facts), raw, pairs)
    value = plain(key)
    note = "" if key.rewrapped else ": it was wrapped by that already, and is as it was"
    lines = {"key": f"{key.key} ({key.decision}, rule {key.rule!r}){note}", "wrapped key": value["wrapped_key"]}
    shared.output.answer(value, lines)


def _wrapped_key(given: str) -> bytes:
    text = sys.stdin.read() if given == "-" else given
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error:
        raise click.UsageError("--wrapped-key is not base64") from None


def _pairs(context_json: str, context: dict[str, str]) -> dict[str, str]:
    pairs = _whole_context(context_json) | context
    if not pairs:
        raise click.UsageError("give the encryption context that came with the wrapped key: --context-json")
    return pairs


def _whole_context(given: str) -> dict[str, str]:
    try:
        pairs = json.loads(given)
    except json.JSONDecodeError as error:
        raise click.UsageError(f"--context-json is not JSON: {error}") from None
    if not isinstance(pairs, dict) or not all(isinstance(value, str) for value in pairs.values()):
        raise click.UsageError("--context-json must be an object of strings")
    return pairs


@click.command()
@tenant_option
@click.option("--key", default="", help="Id of one key; all of the tenant's otherwise.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0, max=86_400),
    default=0.0,
    metavar="SECONDS",
    help="Ask again for so long, until the service answers and every key is available, revoked or misconfigured.",
)
@click.option("--watch", is_flag=True, help="Go on telling every change, until interrupted; with --json a line each.")
@click.option("--history", is_flag=True, help="Tell the changes of the past instead, the oldest first.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="With --history: how many."
)
@shared_options
@click.pass_obj
def status(shared: Shared, tenant: str, key: str, wait: float, *, watch: bool, history: bool, limit: int) -> int:
    """Tell the state of a tenant's keys, since when, and how old the evidence is.

    The exit code is 0 when all are available; else that of the worst: 4 revoked, 9 misconfigured, 5 otherwise.
    """
    if watch and (history or wait):
        raise click.UsageError("--watch goes with neither --history nor --wait")
    if watch:
        return watch_keys(shared, tenant, key)
    if history:
        return tell_history(shared, tenant, key, limit)
    end = time.monotonic() + wait
    while True:
        try:
            with shared.client() as client:
                keys = client.key_status(tenant, key)
            if _worst(keys) != UNAVAILABLE or time.monotonic() >= end:
                break
        except ServiceUnavailable:
            if time.monotonic() >= end:
                raise
        time.sleep(BETWEEN_SECONDS)
    lines = {}
    for one in keys:
        lines[one.key] = _shown(one, one.replicas[0].note if len(one.replicas) == 1 else "")
        if len(one.replicas) > 1:
            lines |= {f"{one.key} in {place.replica}": _shown(place, place.note) for place in one.replicas}
    shared.output.answer({"keys": keys}, lines or {tenant: "has no keys"})
    return _worst(keys)


def _worst(keys: Iterable[CustomerKeyStatus]) -> int:
    """The exit code of the key that is worst off."""
    codes = [EXIT_CODE_OF_STATE.get(one.state, UNAVAILABLE) for one in keys]
    return next((code for code in (REVOKED, MISCONFIGURED, UNAVAILABLE) if code in codes), OK)


def _shown(one: CustomerKeyStatus | ReplicaStatus, note: str) -> str:
    told = "; ".join(filter(None, (one.cause, note)))
    if one.recovering:
        told = "; ".join(filter(None, ("it works again, and is told so when that has lasted", told)))
    known = ", ".join(filter(None, (ago(one.evidence_age), f"by {one.evidence}" if one.evidence else "")))
    since = f", since {one.since:%Y-%m-%d %H:%M:%S} UTC" if one.since else ""
    return f"{coloured(one.state)}, {known}{since}" + (f": {told}" if told else "")


@click.command()
@asset_options()
@shared_options
@click.pass_obj
def check(shared: Shared, /, **facts: Any) -> int:
    """Tell which key would protect an asset, which rule decides, and why. No key is used.

    The exit code is 3 when the policy denies.
    """
    with shared.client() as client:
        found = client.check_policy(asset_of(facts))
    lines = {
        "decision": found.decision,
        "key": f"{found.key} ({coloured(found.key_state)})" if found.key else "",
        "rule": found.rule,
        "why": found.explanation,
    }
    shared.output.answer(found, lines)
    return DENIED if found.decision == "deny" else OK
