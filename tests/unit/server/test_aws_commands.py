"""``ownkey aws``: what the commands print, what they refuse, and how they end."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from ownkey_server.keystores.aws.policies import key_policy
from ownkey_server.keystores.aws.scopes import BRANCH_BY_DEFAULT, Scope
from support.aws_commands import ACCESS, forget_this_machine, run
from support.fake_kms import ACCOUNT, PROVIDER

PAGE = Path(__file__).resolve().parents[3] / "docs" / "aws-onboarding.md"
THEIRS = ("--tenant", "acme", "--role-account", ACCOUNT)
PLAN = ("template", "--tenant", "acme", "--provider", PROVIDER, "--region", "eu-west-1", "--replica", "us-east-1")


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_this_machine(monkeypatch)


def test_the_policy_is_printed_and_nothing_else_on_standard_output() -> None:
    done = run("key-policy", *THEIRS, "--inspect", "--revoke", "class=phone_recording,group=finance")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == key_policy(ACCESS, [Scope.parse("class=phone_recording,group=finance")])
    assert (
        done.stdout == run("key-policy", *THEIRS, "--inspect", "--revoke", "group=finance,class=phone_recording").stdout
    )
    assert (
        done.stdout
        == run("key-policy", *THEIRS, "--inspect", "--json", "--revoke", "group=finance,class=phone_recording").stdout
    )


def test_the_denials_alone_are_a_list_of_statements() -> None:
    done = run("key-policy", *THEIRS, "--revoke", "asset=call-7", "--revoke", "hour=2026-11-23T*", "--only-revoke")
    statements = json.loads(done.stdout)
    assert [one["Effect"] for one in statements] == ["Deny", "Deny"]
    assert (
        statements
        == key_policy(ACCESS, [Scope.parse("asset=call-7"), Scope.parse("hour=2026-11-23T*")])["Statement"][5:]
    )


def test_a_class_of_branch_keys_is_never_promised_in_silence() -> None:
    for text in ("class=phone_voicemail", "class=team_chat,group=finance"):
        done = run("key-policy", *THEIRS, "--revoke", text)
        assert "DOES NOT REACH" in done.stderr, done.stderr
        assert done.stderr not in done.stdout
    assert "branch" in run("key-policy", *THEIRS, "--revoke", "asset=call-7").stderr
    direct = run("key-policy", *THEIRS, "--revoke", "class=phone_recording").stderr
    assert "phone_recording is wrapped directly unless the tenant's policy says branch" in direct
    assert "DOES NOT REACH it" in direct
    assert "every replica" in direct
    assert run("key-policy", *THEIRS).stderr == ""


def test_a_star_that_denies_nothing_more_is_told() -> None:
    starred = run("key-policy", *THEIRS, "--revoke", "asset=call-*")
    assert "asset=call-*: in asset= a * stands for itself" in starred.stderr
    for text in ("asset=call-7", "hour=2026-11-23T*"):
        assert "stands for itself" not in run("key-policy", *THEIRS, "--revoke", text).stderr


def test_all_is_denied_by_one_statement_and_what_it_does_not_do_is_said() -> None:
    done = run("key-policy", *THEIRS, "--inspect", "--revoke", "all")
    assert json.loads(done.stdout) == key_policy(ACCESS, [Scope.parse("all")])
    assert "leases end" in done.stderr
    assert "DOES NOT REACH" not in done.stderr
    [statement] = json.loads(run("key-policy", *THEIRS, "--revoke", "all", "--only-revoke").stdout)
    assert statement["Sid"] == "OwnkeyRevokeAll"
    both = run("key-policy", *THEIRS, "--revoke", "all", "--revoke", "class=phone_voicemail")
    assert both.exit_code == 2
    assert "all leaves nothing" in both.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--tenant", "acme"), "say who ownkey is"),
        (("--tenant", "acme", "--principal", PROVIDER), "--account ACCOUNT"),
        (("--tenant", "Acme", "--role-account", ACCOUNT), "no tenant's id"),
        (("--tenant", "acme", "--role-account", "1234"), "12 digits"),
        (("--tenant", "acme", "--principal", "*", "--account", ACCOUNT), "everybody"),
        (("--tenant", "acme", "--principal", PROVIDER, "--account", "root"), "12 digits"),
        ((*THEIRS, "--role-name", 'a"b'), "is no role"),
        ((*THEIRS, "--partition", "aws-cn", "--principal", PROVIDER), "not of partition"),
        ((*THEIRS, "--source-vpce", "vpc-1"), "no VPC endpoint"),
        ((*THEIRS, "--caller-account", "x"), "12 digits"),
        ((*THEIRS, "--only-revoke"), "say --revoke"),
        ((*THEIRS, "--revoke", "class=voice"), "there are: meeting_recording"),
        ((*THEIRS, *(word for n in range(200) for word in ("--revoke", f"asset={n}"))), "wider scopes"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_printed(arguments: tuple[str, ...], says: str) -> None:
    done = run("key-policy", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr


def test_china_and_the_provider_s_own_principal() -> None:
    cn = json.loads(run("key-policy", *THEIRS, "--partition", "aws-cn").stdout)["Statement"]
    assert cn[0]["Principal"] == {"AWS": f"arn:aws-cn:iam::{ACCOUNT}:root"}
    assert cn[1]["Principal"] == {"AWS": f"arn:aws-cn:iam::{ACCOUNT}:role/ownkey"}
    own = run(
        "key-policy",
        "--tenant",
        "acme",
        "--principal",
        PROVIDER,
        "--account",
        ACCOUNT,
        "--caller-account",
        "999988887777",
    )
    statements = json.loads(own.stdout)["Statement"]
    assert statements[1]["Principal"] == {"AWS": PROVIDER}
    assert statements[2]["Condition"] == {"StringEquals": {"kms:CallerAccount": "999988887777"}}


def test_a_template_goes_to_a_new_file_or_to_standard_output(tmp_path: Path) -> None:
    printed = run(*PLAN)
    assert "--part replica" in printed.stderr
    assert "--part role-alarm" in printed.stderr
    assert "UpdateAssumeRolePolicy" in run(*PLAN, "--part", "role-alarm").stdout
    assert run(*PLAN, "-o", str(tmp_path / "p.yaml")).exit_code == 0
    assert (tmp_path / "p.yaml").read_text(encoding="utf-8") == printed.stdout
    again = run(*PLAN, "--format", "terraform", "-o", str(tmp_path / "p.yaml"))
    assert again.exit_code == 10
    assert "is there already" in again.stderr
    assert (tmp_path / "p.yaml").read_text(encoding="utf-8") == printed.stdout
    assert json.loads(run(*PLAN, "--part", "replica", as_json=True).stdout)["template"].startswith(
        "# AWS CloudFormation"
    )
    nowhere = run(*PLAN, "-o", str(tmp_path / "none" / "p.yaml"))
    assert nowhere.exit_code == 1
    assert "No such file or directory" in nowhere.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*PLAN, "--format", "terraform", "--part", "replica"), "all regions at once"),
        ((*PLAN, "--format", "terraform", "--part", "role-alarm"), "all regions at once"),
        ((*PLAN[:-2], "--part", "replica"), "--replica REGION"),
        ((*PLAN, "--replica", "mars"), "no region"),
        ((*PLAN, "--replica", "eu-west-9"), "no region eu-west-9 of AWS KMS is known here"),
        ((*PLAN, "--replica", "cn-north-1"), "cn-north-1 is in partition aws-cn, and the provider in aws"),
        (("template", "--tenant", "acme", "--provider", PROVIDER, "--region", "us-gov-west-1"), "partition aws-us-gov"),
        ((*PLAN, "--email", "nobody"), "no e-mail address, such as keys@example.org"),
        ((*PLAN, "--alias", "acme"), "no alias of a key, such as alias/ownkey-acme"),
        ((*PLAN, "--external-id-prefix", "a b"), "no external id"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(arguments: tuple[str, ...], says: str) -> None:
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr
    assert not re.search(r"\\w|\[a-z|\(\?", done.stderr), "a pattern is no explanation"


def test_what_the_page_shows_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `ownkey aws key-policy` and `template` of docs/aws-onboarding.md, as it stands there."""
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    shown = re.findall(r"^ownkey aws ((?:key-policy|template) [^>\n]*)", page, re.MULTILINE)
    assert len(shown) == 10
    for line in shown:
        done = run(*shlex.split(line))
        assert done.exit_code == 0, (line, done.stderr)
    for name in BRANCH_BY_DEFAULT:
        assert f"`{name}`" in page
