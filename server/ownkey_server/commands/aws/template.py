"""``ownkey aws template``: a template for the customer's account."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import click

from ownkey.cli.main import Shared, output_options
from ownkey.cli.options import tenant_option
from ownkey.cli.output import CONFLICT, Failure
from ownkey_server.commands.aws.arguments import require_tenant, role_option, usage
from ownkey_server.keystores.aws import templates as aws_templates
from ownkey_server.keystores.aws.policies import PolicyInvalid

_PARTS: Mapping[str, Callable[[aws_templates.Plan], str]] = {
    "primary": aws_templates.cloudformation,
    "replica": aws_templates.cloudformation_replica,
    "role-alarm": aws_templates.cloudformation_role_alarm,
}


@click.command("template")
@tenant_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["cloudformation", "terraform"]),
    default="cloudformation",
    show_default=True,
    help="What it is written for.",
)
@click.option(
    "--part",
    type=click.Choice([*_PARTS]),
    default="primary",
    show_default=True,
    help="Of CloudFormation, where each region has a stack of its own: the primary key's, that of a replica, or that of"
    " the role's alarm.",
)
@click.option("--provider", required=True, metavar="ARN", help="The provider's role or user, which assumes the role.")
@click.option("--region", required=True, help="Region of the primary key.")
@click.option(
    "--replica", "replicas", multiple=True, metavar="REGION", help="Region of a replica, in order; may be repeated."
)
@role_option
@click.option(
    "--external-id-prefix",
    default="ownkey",
    show_default=True,
    help="As in the key store's settings: the external id is PREFIX-TENANT.",
)
@click.option("--alias", help="The keys' alias.  [default: alias/ownkey-TENANT]")
@click.option("--email", help="Who is told when the key is changed; they confirm by a mail of AWS.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Standard output otherwise. A file that is there is never replaced.",
)
@output_options
@click.pass_obj
def template_command(
    shared: Shared,
    tenant: str,
    form: str,
    part: str,
    provider: str,
    region: str,
    replicas: tuple[str, ...],
    role_name: str,
    external_id_prefix: str,
    alias: str | None,
    email: str | None,
    output: Path | None,
) -> None:
    """Print a template for the customer's account: a multi-Region key, its replicas, ownkey's role and an alarm."""
    with usage():
        require_tenant(tenant)
        if part != "primary" and form == "terraform":
            raise PolicyInvalid("--part is for CloudFormation: Terraform makes all regions at once")
        if part == "replica" and not replicas:
            raise PolicyInvalid("--part replica needs the replicas' regions: --replica REGION")
        plan = aws_templates.Plan(
            tenant,
            provider,
            region,
            replicas,
            role_name,
            f"{external_id_prefix}-{tenant}",
            alias or f"alias/ownkey-{tenant}",
            email,
        )
        text = aws_templates.terraform(plan) if form == "terraform" else _PARTS[part](plan)
    if output is None:
        shared.output.document("template", text)
    else:
        _write_new(output, text)
        shared.output.answer({"written": str(output)}, {"wrote": output})
    if form == "cloudformation" and part == "primary":
        if replicas:
            shared.output.note(
                f"CloudFormation makes a key in the stack's own region alone: for {', '.join(replicas)} print"
                " the same with --part replica"
            )
        shared.output.note(
            f"changes of the role are heard of in {plan.iam_region} alone: for that alarm print the same with"
            " --part role-alarm"
        )


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Failure(f"{path} is there already", CONFLICT, hint="choose another file") from None
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error
