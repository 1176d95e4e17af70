"""``ownkey aws key-policy``: the policy that lets ownkey use a key for one tenant, and what is taken back by it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import click

from ownkey.cli.main import output_options
from ownkey.cli.options import tenant_option
from ownkey_server.commands.aws.arguments import require_tenant, role_option, usage
from ownkey_server.keystores.aws import policies as aws_policies
from ownkey_server.keystores.aws.policies import Access, PolicyInvalid, PrincipalArn, account_root, role_arn
from ownkey_server.keystores.aws.scopes import BRANCH_BY_DEFAULT, Scope


@click.command("key-policy")
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
@role_option
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
    "Pairs with commas between them must all hold; repeat the option for further scopes. Or deny everything: all.",
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
    with usage():
        scopes = [Scope.parse(text) for text in revoked]
        if only_revoke and not scopes:
            raise PolicyInvalid("--only-revoke prints what --revoke says: say --revoke SCOPE")
        if len(set(scopes)) > 1 and any(scope.is_everything for scope in scopes):
            raise PolicyInvalid("--revoke all leaves nothing for another --revoke: say it alone")
        named = _principals(principals, role_accounts, role_name, partition)
        if only_revoke:
            printed = aws_policies.to_json(
                [aws_policies.revoke_statement(named, scope) for scope in dict.fromkeys(scopes)]
            )
        else:
            access = Access(
                require_tenant(tenant),
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


def _require_vpce(text: str) -> str:
    if not re.fullmatch(r"vpce-[0-9a-f]{8,17}", text):
        raise PolicyInvalid(f"{text!r} is no VPC endpoint's id, such as vpce-0123456789abcdef0")
    return text


def _promises(scopes: Sequence[Scope]) -> Iterator[str]:
    """What a Deny does not do, said before somebody relies on it."""
    branched = [scope for scope in scopes if scope.may_miss_branches]
    for scope in branched:
        if scope.is_branched_by_default:
            yield (
                f"--revoke {scope}: content of class {scope.asset_class} is wrapped by branch keys unless the tenant's"
                " policy says direct. The customer's key then sees branch keys alone, and this Deny DOES NOT REACH"
                " that content: revoke the class in ownkey's policy, or set it to direct first"
            )
        elif scope.asset_class:
            yield (
                f"--revoke {scope}: content of class {scope.asset_class} is wrapped directly unless the tenant's policy"
                " says branch, which is not looked at here. What was made under such a policy is wrapped by branch"
                " keys, and this Deny DOES NOT REACH it: revoke the class in ownkey's policy too"
            )
    if any(not scope.asset_class for scope in branched):
        yield (
            "what branch keys wrap is not reached by a Deny (unless the tenant's policy says otherwise: "
            f"{', '.join(sorted(BRANCH_BY_DEFAULT))}; it may name any class): revoke that in ownkey's policy"
        )
    for scope in scopes:
        if "*" in scope.asset:
            yield (
                f"--revoke {scope}: in asset= a * stands for itself, and this denies the one asset that is called so."
                " To deny many, give each, or their class, group or hour"
            )
    if any(scope.group for scope in scopes):
        yield (
            "group=ID reaches what has ownkey:group in its encryption context: content for which a rule of that group"
            " decided, or whose caller named the group"
        )
    if any(scope.is_everything for scope in scopes):
        yield (
            "--revoke all denies ownkey every use, whatever else allows it. Keys that ownkey holds in clear serve until"
            " their leases end, about two minutes unless its settings say otherwise; your own people are not denied"
        )
    if scopes:
        yield "a key policy holds in its own region alone: put it on the primary and on every replica"
