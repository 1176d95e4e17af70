"""The call gate."""

from __future__ import annotations

import secrets

import click

from ownkey.cli.main import Shared, shared_options
from ownkey.cli.options import group_option, optional_tenant_option, user_option
from ownkey.cli.output import CALL_REFUSED, OK, ago, moment
from ownkey.client import LOCAL_EMERGENCY
from ownkey.emergency import is_emergency
from ownkey.errors import OwnkeyError
from ownkey.models import ASSET_CLASSES


@click.command()
@optional_tenant_option
@click.option("--callee", required=True, help="Who is called: a number, or a tel:, sip: or urn:service: URI.")
@click.option("--caller", default="", help="Who calls.")
@click.option("--call-id", default="", help="The call's id, such as the SIP Call-ID; else a random one.")
@click.option("--direction", default="", help="Which way it goes: inbound, outbound or internal.")
@user_option
@group_option
@click.option(
    "--stores",
    multiple=True,
    metavar="CLASS",
    help=f"What will be stored of the call; may stand several times. Nothing, if left out. {', '.join(ASSET_CLASSES)}.",
)
@click.option("--site", default="", help="The site that it belongs to.")
@click.option("--queue", default="", help="The call queue that it goes to.")
@shared_options
@click.pass_obj
def call(
    shared: Shared,
    tenant: str,
    callee: str,
    caller: str,
    call_id: str,
    direction: str,
    user: str,
    group: str,
    stores: tuple[str, ...],
    site: str,
    queue: str,
) -> int:
    """Ask whether a call may be set up. Emergency calls always may, even when the service cannot be asked.

    The exit code is 0 for allow and allow_no_recording, and 7 for refuse.
    """
    # The client judges the options, once it knows whether this is an emergency: no mistake in one may stop that.
    try:
        with shared.client() as client:
            answer = client.authorize_call(
                tenant,
                call_id or secrets.token_hex(8),
                callee,
                caller=caller,
                direction=direction,
                user=user,
                group=group,
                stores=stores,
                site=site,
                queue=queue,
            )
    except OwnkeyError:
        if not is_emergency(callee):
            raise
        answer = LOCAL_EMERGENCY
    lines = {
        "decision": answer.decision + (" (emergency)" if answer.emergency else ""),
        "reason": answer.reason,
        "why": answer.explanation,
        "rule": answer.rule,
        "SIP status": answer.sip_status or "",
        "retry after": f"{answer.retry_after.total_seconds():g} s" if answer.retry_after else "",
        "evidence": ago(answer.evidence_age) if answer.key else "",
        "valid until": moment(answer.valid_until) if answer.valid_until else "",
    }
    shared.output.answer(answer, lines)
    return OK if answer.allowed else CALL_REFUSED
