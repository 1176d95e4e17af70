"""``ownkey aws``: what a customer's AWS account needs for their key, and whether it is right. No server runs for it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from botocore.exceptions import BotoCoreError

from ownkey.cli.main import Group, Shared, output_options
from ownkey.cli.options import optional_tenant_option, tenant_option
from ownkey.cli.output import CONFLICT, OTHER_ERROR, Failure, printable
from ownkey_server import hardening
from ownkey_server.commands.errors import load
from ownkey_server.domain.clock import system_clock
from ownkey_server.keystores.aws import policies as aws_policies
from ownkey_server.keystores.aws import templates as aws_templates
from ownkey_server.keystores.aws.findings import Finding, Outcome
from ownkey_server.keystores.aws.options import AwsKmsOptions
from ownkey_server.keystores.aws.policies import Access, PolicyInvalid, PrincipalArn, account_root, role_arn
from ownkey_server.keystores.aws.scopes import BRANCH_BY_DEFAULT, Scope, ScopeInvalid
from ownkey_server.settings import key_store_options
from ownkey_server.settings.aws import AwsKmsSettings
from ownkey_server.storage.documents import ID_PATTERN

DEFAULT_ROLE = "ownkey"
_ENDLESS = 10_000
COLOURS = {Outcome.PASS: "green", Outcome.WARN: "yellow", Outcome.FAIL: "red"}

_role_option = click.option(
    "--role-name",
    default=DEFAULT_ROLE,
    show_default=True,
    help="Name of the role in the customer's account, as role_name of the key store's settings has it.",
)


@click.group(cls=Group, no_args_is_help=True)
def aws() -> None:
    """Bring a customer's key in AWS KMS to ownkey: its policy, templates for their account, and a check of it all.

    docs/aws-onboarding.md walks through it.
    """


@aws.command("key-policy")
@tenant_option
@click.option(
    "--principal",
    "principals",
    multiple=True,
    metavar="ARN",
    help="A role or user that ownkey is to the key: the provider's own, let in by this policy. May be repeated.",
)
@click.option(
    "--role-account",
    "role_accounts",
    multiple=True,
    metavar="ACCOUNT",
    help="The customer's account whose role ownkey assumes: the role is let in. May be repeated.",
)
@_role_option
@click.option(
    "--account",
    metavar="ACCOUNT",
    help="The account of the key, which administers it.  [default: the one --role-account]",
)
@click.option(
    "--partition",
    type=click.Choice(["aws", "aws-cn", "aws-us-gov"]),
    help="The partition of AWS.  [default: the principal's, else aws]",
)
@click.option(
    "--revoke",
    "revoked",
    multiple=True,
    metavar="SCOPE",
    help="Deny what is in this scope: class=NAME, group=ID, asset=ID or hour=2026-11-23T16 (2026-11-23T* for a day). "
    "Pairs with commas between them must all hold; repeat the option for further scopes.",
)
@click.option("--only-revoke", is_flag=True, help="Print the Deny statements alone, as a list, for a policy you have.")
@click.option("--caller-account", metavar="ACCOUNT", help="Let in callers of this account alone (kms:CallerAccount).")
@click.option(
    "--source-vpce",
    "source_vpces",
    multiple=True,
    metavar="ID",
    help="Let in what comes through this VPC endpoint alone (aws:SourceVpce). May be repeated.",
)
@click.option(
    "--inspect",
    "inspects",
    is_flag=True,
    help="Let ownkey read the key's policy and rotation too, for `ownkey aws verify`; with --role-account.",
)
@output_options
def key_policy_command(
    tenant: str,
    principals: tuple[str, ...],
    role_accounts: tuple[str, ...],
    role_name: str,
    account: str | None,
    partition: str | None,
    revoked: tuple[str, ...],
    only_revoke: bool,
    caller_account: str | None,
    source_vpces: tuple[str, ...],
    inspects: bool,
) -> None:
    """Print the key policy that lets ownkey use a key for one tenant, and nothing more; with --revoke, less.

    The customer's account keeps the administration of the key. ownkey may use it only with an encryption context
    that says ownkey:tenant=TENANT. Put it with: aws kms put-key-policy --policy-name default --key-id ARN --region
    REGION --policy file://policy.json, in each region of a multi-Region key.
    """
    with _usage():
        scopes = [Scope.parse(text) for text in revoked]
        if only_revoke and not scopes:
            raise PolicyInvalid("--only-revoke prints what --revoke says: say --revoke SCOPE")
        named = _principals(principals, role_accounts, role_name, partition)
        if only_revoke:
            printed = aws_policies.to_json(
                [aws_policies.revoke_statement(named, scope) for scope in dict.fromkeys(scopes)]
            )
        else:
            access = Access(
                _require_tenant(tenant),
                _administrator(account, role_accounts, named),
                named,
                aws_policies.require_account(caller_account) if caller_account else None,
                tuple(_require_vpce(one) for one in source_vpces),
                inspects,
            )
            printed = aws_policies.to_json(aws_policies.key_policy(access, scopes))
    click.echo(printed)
    for text in _promises(scopes):
        click.echo(f"ownkey: note: {text}", err=True)


@aws.command("verify")
@click.argument("arns", nargs=-1, required=True, metavar="ARN...")
@click.option("--store", help="The key store's name in the settings.  [default: the only one of kind aws_kms]")
@optional_tenant_option
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("ownkey.toml"),
    envvar="OWNKEY_CONFIG",
    show_default=True,
    show_envvar=True,
    help="The settings file.",
)
@output_options
@click.pass_context
def verify_command(context: click.Context, arns: tuple[str, ...], store: str | None, tenant: str, config: Path) -> None:
    """Check that keys are what ownkey needs, and say what to mend. Give a key's ARN in each of its regions.

    Uses the credentials and the role that the key store's settings name, on throw-away bytes, and changes nothing. Ends
    with exit code 1 when a check fails; warnings are let pass.
    """
    shared = context.ensure_object(Shared)
    with _usage():
        if tenant:
            _require_tenant(tenant)
    hardening.harden()
    name, options = _aws_store(config, store)
    from ownkey_server.keystores.aws.reach import SettingsReach  # noqa: PLC0415 - boto3 takes a while to load
    from ownkey_server.keystores.aws.verify import Verification  # noqa: PLC0415

    try:
        reach = SettingsReach(name, options, tenant)
    except BotoCoreError as error:
        raise click.ClickException(f"key store {name!r}: {error}") from error
    verification = Verification(reach, system_clock, regions=options.regions, tenant=tenant)
    findings = list(verification.check(arns))
    counts = {outcome.value: sum(one.outcome is outcome for one in findings) for outcome in Outcome}
    if shared.as_json:
        shared.output.answer({"ok": not counts["fail"], **counts, "key_store": name, "findings": findings})
    else:
        show_findings(findings)
        click.echo(", ".join(f"{number} {outcome}" for outcome, number in counts.items()))
    if counts["fail"]:
        context.exit(OTHER_ERROR)


@aws.command("template")
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
    type=click.Choice(["primary", "replica"]),
    default="primary",
    show_default=True,
    help="Of CloudFormation, where each region has a stack of its own: the primary key's, or that of a replica.",
)
@click.option("--provider", required=True, metavar="ARN", help="The provider's role or user, which assumes the role.")
@click.option("--region", required=True, help="Region of the primary key.")
@click.option(
    "--replica", "replicas", multiple=True, metavar="REGION", help="Region of a replica, in order; may be repeated."
)
@_role_option
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
    with _usage():
        _require_tenant(tenant)
        if part == "replica" and form == "terraform":
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
        if form == "terraform":
            text = aws_templates.terraform(plan)
        elif part == "replica":
            text = aws_templates.cloudformation_replica(plan)
        else:
            text = aws_templates.cloudformation(plan)
    if output is None:
        shared.output.document("template", text)
    else:
        _write_new(output, text)
        shared.output.answer({"written": str(output)}, {"wrote": output})
    if form == "cloudformation" and part == "primary" and replicas:
        shared.output.note(
            f"CloudFormation makes a key in the stack's own region alone: for {', '.join(replicas)} print"
            " the same with --part replica"
        )


def show_findings(findings: Sequence[Finding]) -> None:
    """A line for each finding; on a terminal in its colours and width, elsewhere as long as it is."""
    from rich.console import Console  # noqa: PLC0415 - only people need it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("where", "check", ""):
        table.add_column(column, no_wrap=True)
    table.add_column("what was seen, and what to do", overflow="fold")
    for one in findings:
        told = printable(one.seen) + (f" -> {printable(one.advice)}" if one.advice else "")
        outcome = Text(one.outcome.value, style=COLOURS[one.outcome])
        table.add_row(Text(printable(one.place)), Text(one.check), outcome, Text(told))
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    endless = Console(highlight=False, width=_ENDLESS)
    with endless.capture() as lines:
        endless.print(table)
    for line in lines.get().splitlines():
        click.echo(line.rstrip())


def _aws_store(config: Path, store: str | None) -> tuple[str, AwsKmsOptions]:
    settings = load(config)
    found = {name: one for name, one in settings.key_stores.items() if isinstance(one, AwsKmsSettings)}
    there_are = f"{config} has {', '.join(found) or 'none'} of kind aws_kms"
    if store is None and len(found) != 1:
        raise click.UsageError(f"say --store NAME: {there_are}")
    name = store or next(iter(found))
    if name not in found:
        raise click.UsageError(f"there is no key store {name!r} of kind aws_kms: {there_are}")
    options = key_store_options(found[name])
    assert isinstance(options, AwsKmsOptions)  # noqa: S101
    return name, options


def _principals(
    principals: Sequence[str], role_accounts: Sequence[str], role_name: str, partition: str | None
) -> tuple[str, ...]:
    if not principals and not role_accounts:
        raise PolicyInvalid("say who ownkey is to the key: --principal ARN, or --role-account ACCOUNT")
    named = [PrincipalArn.parse(text) for text in principals]
    other = next((one for one in named if partition and one.partition != partition), None)
    if other:
        raise PolicyInvalid(f"{other.text!r} is not of partition {partition!r}")
    place = partition or (named[0].partition if named else "aws")
    return tuple(
        dict.fromkeys([one.text for one in named] + [role_arn(one, role_name, place) for one in role_accounts])
    )


def _administrator(account: str | None, role_accounts: Sequence[str], named: Sequence[str]) -> str:
    owners = set(role_accounts)
    if account is None and len(owners) != 1:
        raise PolicyInvalid("say whose the key is: --account ACCOUNT, the customer's account of 12 digits")
    return account_root(account or owners.pop(), PrincipalArn.parse(named[0]).partition)


def _require_tenant(tenant: str) -> str:
    if not re.fullmatch(ID_PATTERN, tenant):
        raise PolicyInvalid(f"{tenant!r} is no tenant's id: up to 63 of a-z, 0-9 and -, such as acme")
    return tenant


def _require_vpce(text: str) -> str:
    if not re.fullmatch(r"vpce-[0-9a-f]{8,17}", text):
        raise PolicyInvalid(f"{text!r} is no VPC endpoint's id, such as vpce-0123456789abcdef0")
    return text


def _promises(scopes: Sequence[Scope]) -> Iterator[str]:
    """What a Deny does not do, said before somebody relies on it."""
    branched = [scope for scope in scopes if scope.may_miss_branches]
    for scope in branched:
        if scope.asset_class:
            yield (
                f"--revoke {scope}: content of class {scope.asset_class} is wrapped by branch keys unless the tenant's"
                " policy says direct. The customer's key then sees branch keys alone, and this Deny DOES NOT REACH"
                " that content: revoke the class in ownkey's policy, or set it to direct first"
            )
    if any(not scope.asset_class for scope in branched):
        yield (
            "what branch keys wrap is not reached by a Deny (unless set to direct: "
            f"{', '.join(sorted(BRANCH_BY_DEFAULT))}): revoke that in ownkey's policy"
        )
    if any(scope.group for scope in scopes):
        yield (
            "group=ID reaches what has ownkey:group in its encryption context: content for which a rule of that group"
            " decided, or whose caller named the group"
        )
    if scopes:
        yield "a key policy holds in its own region alone: put it on the primary and on every replica"


@contextlib.contextmanager
def _usage() -> Iterator[None]:
    try:
        yield
    except (PolicyInvalid, ScopeInvalid) as error:
        raise click.UsageError(str(error)) from None


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Failure(f"{path} is there already", CONFLICT, hint="choose another file") from None
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error
