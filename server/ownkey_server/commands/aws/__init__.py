"""``ownkey aws``: what a customer's AWS account needs for their key, and whether it is right. No server runs for it."""

from __future__ import annotations

import click

from ownkey.cli.main import Group
from ownkey_server.commands.aws.key_policy import key_policy_command
from ownkey_server.commands.aws.template import template_command
from ownkey_server.commands.aws.verify import verify_command


@click.group(cls=Group, no_args_is_help=True)
def aws() -> None:
    """Bring a customer's key in AWS KMS to ownkey: its policy, templates for their account, and a check of it all.

    docs/aws-onboarding.md walks through it.
    """


for command in (key_policy_command, verify_command, template_command):
    aws.add_command(command)
