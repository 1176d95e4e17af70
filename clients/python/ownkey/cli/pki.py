"""``ownkey pki``: a certificate authority for labs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from ownkey import pki as authority
from ownkey.cli.main import Group, Shared, output_options
from ownkey.cli.output import moment

F = TypeVar("F", bound=Callable[..., Any])

LAB_ONLY = "for labs only: the authority's key lies unencrypted beside the certificates"
_SERVER, _OPERATOR = "server", "admin"
_days = click.IntRange(1, 36_500)
_directory_argument = click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))


@click.group(cls=Group, no_args_is_help=True)
def pki() -> None:
    """A certificate authority for labs, to try mutual TLS with. Not for production.

    Everything is in one folder, DIR, and the authority's key lies there unencrypted: whoever reads it can be anybody.
    docs/pki.md says what to use in production, and what ownkey asks of a certificate.
    """


@pki.command()
@_directory_argument
@click.option(
    "--trust-domain",
    default=authority.TRUST_DOMAIN,
    show_default=True,
    help="The SPIFFE trust domain: what the certificates' identities begin with.",
)
@click.option(
    "--days", type=_days, default=authority.AUTHORITY_DAYS, show_default=True, help="How long the authority counts."
)
@click.option("--name", default=authority.AUTHORITY_NAME, show_default=True, help="What the authority is called.")
@output_options
@click.pass_obj
def init(shared: Shared, directory: Path, trust_domain: str, days: int, name: str) -> None:
    """Make an authority in DIR, a certificate for a server and one for its operator, and tell how to use them.

    DIR must be empty, or not be there yet: no authority is ever overwritten. It is for labs only: the authority's key
    lies in DIR unencrypted.
    """
    made = authority.create(directory, trust_domain=trust_domain, name=name, days=days)
    server = authority.issue(
        directory, _SERVER, spiffe="/ownkey", dns=["localhost"], ips=["127.0.0.1", "::1"], server=True
    )
    operator = authority.issue(directory, _OPERATOR, client=True)
    settings = _settings(made, server, operator)
    environment = {
        "OWNKEY_CA_FILE": str(made.ca_file.resolve()),
        "OWNKEY_CERTIFICATE_FILE": str(operator.certificate_file.resolve()),
        "OWNKEY_PRIVATE_KEY_FILE": str(operator.private_key_file.resolve()),
    }
    crl = authority.read_crl(made)
    value = {
        "directory": str(directory.resolve()),
        "trust_domain": trust_domain,
        "not_after": made.not_after,
        "crl_next_update": crl.next_update,
        "certificates": [server.issued, operator.issued],
        "server_settings": settings,
        "client_environment": environment,
        "warning": LAB_ONLY,
    }
    shared.output.answer(
        value,
        {
            "authority": f"{name}, of the trust domain {trust_domain}, until {moment(made.not_after)}",
            "in": directory,
            **{pair.issued.name: _told(pair) for pair in (server, operator)},
            "crl.pem": f"counts until {moment(crl.next_update)}; `ownkey pki crl {directory}` renews it",
            "beware": LAB_ONLY,
        },
    )
    if not shared.as_json:
        exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment.items())
        click.echo(f"\n# In the server's settings, in place of `development = true`:\n{_toml(settings)}")
        click.echo(f"# Where commands and clients run:\n{exports}")


@pki.command()
@_directory_argument
@click.argument("name")
@click.option("--spiffe", metavar="ID", help="Its SPIFFE id, or the path in DIR's trust domain.  [default: /NAME]")
@click.option("--dns", multiple=True, metavar="NAME", help="A host name that it is good for; again for each.")
@click.option("--ip", "ips", multiple=True, metavar="ADDR", help="An address that it is good for; again for each.")
@click.option("--server", is_flag=True, help="For a server; so without --client if there is a --dns or an --ip.")
@click.option("--client", is_flag=True, help="For a client; so without --server if there is neither.")
@click.option(
    "--days", type=_days, help=f"How long it counts.  [default: {authority.CERTIFICATE_DAYS}, or as long as DIR's]"
)
@click.option("--force", is_flag=True, help="Replace the pair of that name. The old one is not revoked by this.")
@output_options
@click.pass_obj
def issue(
    shared: Shared,
    directory: Path,
    name: str,
    spiffe: str | None,
    dns: tuple[str, ...],
    ips: tuple[str, ...],
    server: bool,
    client: bool,
    days: int | None,
    force: bool,
) -> None:
    """Issue a certificate from the lab's authority in DIR, with a new key: NAME.pem and NAME.key."""
    pair = authority.issue(
        directory,
        name,
        spiffe=spiffe,
        dns=dns,
        ips=ips,
        server=server,
        client=client,
        not_after=None if days is None else datetime.now(UTC) + timedelta(days=days),
        overwrite=force,
    )
    value = {
        "certificate": pair.issued,
        "certificate_file": str(pair.certificate_file),
        "private_key_file": str(pair.private_key_file),
    }
    shared.output.answer(
        value,
        {
            "wrote": f"{pair.certificate_file}, {pair.private_key_file}",
            name: _told(pair),
            "serial": pair.issued.serial,
        },
    )


@pki.command()
@_directory_argument
@click.argument("name", required=False)
@click.option("--serial", metavar="HEX", help="In place of NAME, such as for one that was replaced: its serial number.")
@output_options
@click.pass_obj
def revoke(shared: Shared, directory: Path, name: str | None, serial: str | None) -> None:
    """Revoke the certificate that NAME.pem holds, or the one with that serial number, in DIR/crl.pem.

    ownkey reads the list again within a second. Revoking twice does nothing, and says so.
    """
    if (name is None) == (serial is None):
        raise click.UsageError("give either NAME or --serial")
    done = authority.revoke(directory, name, serial=serial)
    revoked = moment(done.issued.revoked) if done.issued.revoked else ""
    value = {"certificate": done.issued, "revoked_now": done.fresh, "crl_number": done.crl_number}
    what = f"{done.issued.name}, {done.issued.identity}, serial {done.issued.serial}"
    told = {"revoked": what} if done.fresh else {"nothing done": f"{what}: revoked before, at {revoked}"}
    shared.output.answer(value, {**told, "list": f"{directory / 'crl.pem'}, number {done.crl_number}"})


@pki.command()
@_directory_argument
@click.option(
    "--days", type=_days, default=authority.CRL_DAYS, show_default=True, help="How long the list counts from now."
)
@output_options
@click.pass_obj
def crl(shared: Shared, directory: Path, days: int) -> None:
    """Sign the revocation list of the lab's authority in DIR anew, so that it goes on to count.

    A server takes no certificate at all by a list that has ended. Lists that `revoke` signs count as many days.
    """
    made = authority.renew_crl(directory, days=days)
    value = {"crl_number": made.number, "next_update": made.next_update, "revoked": len(made.revoked)}
    shared.output.answer(
        value,
        {
            "list": f"{directory / 'crl.pem'}, number {made.number}",
            "revoked": f"{len(made.revoked)} certificates",
            "counts until": moment(made.next_update),
        },
    )


@pki.command("list")
@_directory_argument
@output_options
@click.pass_obj
def list_command(shared: Shared, directory: Path) -> None:
    """List every certificate that the lab's authority in DIR has issued, by serial number."""
    found = authority.issued(directory)
    name_width = max((len(one.name) for one in found), default=0)
    identity_width = max((len(one.identity) for one in found), default=0)
    lines = {one.serial: f"{one.name:<{name_width}}  {one.identity:<{identity_width}}  {_state(one)}" for one in found}
    shared.output.answer({"certificates": found}, lines or {directory.name: "has issued nothing"})


def _told(pair: authority.Pair) -> str:
    names = "".join(f", {name}" for name in (*pair.issued.dns, *pair.issued.ips))
    return f"{pair.issued.identity}{names}, until {moment(pair.issued.not_after)}"


def _state(one: authority.Issued) -> str:
    states = [f"until {moment(one.not_after)}"]
    if one.not_after < datetime.now(UTC):
        states.append("ended")
    if one.revoked:
        states.append(f"revoked {moment(one.revoked)}")
    if not one.current:
        states.append(f"not the one in {one.name}.pem")
    return ", ".join(states)


def _settings(made: authority.Authority, server: authority.Pair, operator: authority.Pair) -> dict[str, dict[str, Any]]:
    """Tables of the server's settings."""
    return {
        "server.tls": {
            "certificate_file": str(server.certificate_file.resolve()),
            "private_key_file": str(server.private_key_file.resolve()),
            "client_ca_file": str(made.ca_file.resolve()),
            "crl_file": str(made.crl_file.resolve()),
        },
        "identity.certificates": {"spiffe_trust_domains": [made.trust_domain]},
        "authorization": {"operators": [operator.issued.identity]},
    }


def _toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    # A string or list of strings in JSON is one in TOML too, but for escaped pairs of surrogates: so none is escaped.
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in table.items())
        for name, table in tables.items()
    )
