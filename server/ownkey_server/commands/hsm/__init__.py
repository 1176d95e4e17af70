"""``ownkey hsm``: the HSM operator's tools. They need no running server, and load no module into their own process."""

from __future__ import annotations

import click

from ownkey.cli.main import Group
from ownkey_server.commands.hsm.ceremony import ceremony, custodian
from ownkey_server.commands.hsm.check import check_command
from ownkey_server.commands.hsm.comparing import compare_command
from ownkey_server.commands.hsm.components import load_command, split_command
from ownkey_server.commands.hsm.elsewhere import confirm_command
from ownkey_server.commands.hsm.ending import close_command, retire_command
from ownkey_server.commands.hsm.exporting import export_command
from ownkey_server.commands.hsm.importing import import_command
from ownkey_server.commands.hsm.init import init_command
from ownkey_server.commands.hsm.listing import list_command
from ownkey_server.commands.hsm.making import keygen_command, rotate_command, settle_command
from ownkey_server.commands.hsm.profiles import profiles_command

ceremony.add_command(confirm_command)


@click.group(cls=Group, no_args_is_help=True)
def hsm() -> None:
    """Look after the tokens of an HSM: check that one will serve; make, rotate and retire their keys, on record.

    docs/hsm.md walks through it. PINs are never given on the command line: options say where they are.
    """


for command in (
    check_command,
    init_command,
    keygen_command,
    list_command,
    rotate_command,
    close_command,
    retire_command,
    import_command,
    export_command,
    split_command,
    load_command,
    compare_command,
    settle_command,
    profiles_command,
    custodian,
    ceremony,
):
    hsm.add_command(command)
