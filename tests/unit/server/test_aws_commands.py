"""``ownkey aws``: what the commands print, what they refuse, and how they end."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ownkey.cli.main import Shared
from ownkey_server import hardening
from ownkey_server.commands.aws import aws
from ownkey_server.keystores.aws.policies import Access, account_root, key_policy, role_arn, trust_policy
from ownkey_server.keystores.aws.scopes import BRANCH_BY_DEFAULT, Scope
from support.fake_kms import ACCOUNT, PROVIDER, FakeKms

PAGE = Path(__file__).resolve().parents[3] / "docs" / "aws-onboarding.md"
ROLE = role_arn(ACCOUNT, "ownkey")
ACCESS = Access("acme", account_root(ACCOUNT), (ROLE,), inspects=True)
THEIRS = ("--tenant", "acme", "--role-account", ACCOUNT)
PLAN = ("template", "--tenant", "acme", "--provider", PROVIDER, "--region", "eu-west-1", "--replica", "us-east-1")


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "OWNKEY_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(hardening, "harden", lambda: None)


def run(*arguments: str, as_json: bool = False) -> Result:
    shared = Shared()
    shared.as_json = as_json
    result = CliRunner().invoke(aws, arguments, obj=shared)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


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
        ((*PLAN, "--email", "nobody"), "no e-mail"),
        ((*PLAN, "--alias", "acme"), "no alias"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(arguments: tuple[str, ...], says: str) -> None:
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert says in done.stderr


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


class Account:
    """A customer's account on the fake, with a role for ownkey, and the provider's settings."""

    def __init__(self, kms: FakeKms, folder: Path) -> None:
        self.kms = kms
        self.config = folder / "ownkey.toml"
        self.settings(role=True)
        kms.create_role(ROLE, trust_policy(PROVIDER, "ownkey-acme", {"ownkey:tenant": "acme"}))

    def settings(self, *, role: bool, more: str = "") -> None:
        url = self.kms.url
        text = f'[key_stores.aws]\nkind = "aws_kms"\nendpoint_url = "{url}"\nsts_endpoint_url = "{url}"\n{more}\n'
        self.config.write_text(text + ('role_name = "ownkey"\n' if role else ""), encoding="utf-8")

    def key(self, policy: dict[str, Any] | None = None, **options: Any) -> str:
        arn = self.kms.create_key(policy=policy or key_policy(ACCESS), **options)
        if self.kms.key(arn).origin == "AWS_KMS":
            self.kms.key(arn).rotation = True
        return arn

    def verify(self, *arns: str, tenant: str = "acme", code: int = 0) -> dict[str, list[dict[str, str]]]:
        """What was found: by outcome."""
        more = ("--tenant", tenant) if tenant else ()
        done = run("verify", *arns, *more, "--config", str(self.config), as_json=True)
        assert done.exit_code == code, done.output
        told = json.loads(done.stdout)
        assert told["ok"] is (code == 0)
        found: dict[str, list[dict[str, str]]] = {"pass": [], "warn": [], "fail": []}
        for finding in told["findings"]:
            found[finding["outcome"]].append(finding)
        assert {outcome: len(ones) for outcome, ones in found.items()} == {name: told[name] for name in found}
        return found


def checks(findings: list[dict[str, str]]) -> list[str]:
    return [one["check"] for one in findings]


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with FakeKms() as kms:
        yield Account(kms, tmp_path)


def test_a_key_with_the_printed_policy_passes_whole(account: Account) -> None:
    arn = account.key(multi_region=True)
    replica = account.kms.replicate(arn, "us-east-1")
    account.kms.set_policy(replica, key_policy(ACCESS))
    found = account.verify(arn, replica)
    assert (found["warn"], found["fail"]) == ([], [])
    seen = {(one["place"], one["check"]): one["seen"] for one in found["pass"]}
    assert "external id ownkey-acme" in seen["eu-west-1", "access"]
    assert seen["us-east-1", "multi-Region"] == "replica of a key in eu-west-1, us-east-1"
    assert ("us-east-1", "unwrap of eu-west-1") in seen
    assert ("eu-west-1", "unwrap of us-east-1") in seen
    assert account.kms.counts["PutKeyPolicy"] == account.kms.counts["DisableKey"] == 0


def test_it_is_for_people_in_lines_that_end_where_they_end(account: Account) -> None:
    done = run("verify", account.key(), "--tenant", "acme", "--config", str(account.config))
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[-1] == "20 pass, 0 warn, 0 fail"
    assert all(line == line.rstrip() for line in lines)
    assert any(line.startswith("eu-west-1  other tenants") and " pass  denied" in line for line in lines)


def test_replicas_that_are_not_given_are_named(account: Account) -> None:
    arn = account.key(multi_region=True)
    account.kms.replicate(arn, "us-east-1")
    [warning] = account.verify(arn)["warn"]
    assert warning["check"] == "multi-Region"
    assert "not checked here: us-east-1" in warning["seen"]


def test_each_replica_has_a_state_and_a_policy_of_its_own(account: Account) -> None:
    arn = account.key(multi_region=True)
    replica = account.kms.replicate(arn, "us-east-1")
    account.kms.set_policy(replica, key_policy(ACCESS))
    account.kms.disable(replica)
    failures = account.verify(arn, replica, code=1)["fail"]
    assert {(one["place"], one["check"]) for one in failures} == {("us-east-1", "state"), ("us-east-1", "wrap")}
    assert all("enable" in one["advice"] for one in failures)


def test_another_tenants_context_is_warned_of_where_the_role_is_the_tenants(account: Account) -> None:
    policy = key_policy(ACCESS)
    del policy["Statement"][3], policy["Statement"][1]["Condition"]
    found = account.verify(account.key(policy))
    assert checks(found["warn"]) == ["policy: tenant's context", "other tenants"]
    assert "another tenant" in found["warn"][1]["seen"]
    assert "the role refuses other tenants" in found["warn"][1]["seen"]
    assert "role's trust" in checks(found["pass"])


def test_another_tenants_context_fails_where_nothing_else_ties_the_key_to_the_tenant(account: Account) -> None:
    account.settings(role=False)
    policy = key_policy(Access("acme", account_root(ACCOUNT), (PROVIDER,)))
    del policy["Statement"][3], policy["Statement"][1]["Condition"]
    [failure] = account.verify(account.key(policy), code=1)["fail"]
    assert failure["check"] == "other tenants"
    assert "key-policy" in failure["advice"]


def test_a_role_that_other_tenants_get_fails_and_ties_no_key(account: Account) -> None:
    anybody = trust_policy(PROVIDER, "ownkey-acme")
    del anybody["Statement"][0]["Condition"]
    account.kms.create_role(ROLE, anybody)
    [failure] = account.verify(account.key(), code=1)["fail"]
    assert (failure["check"], "sts:ExternalId" in failure["advice"]) == ("role's trust", True)
    policy = key_policy(ACCESS)
    del policy["Statement"][3], policy["Statement"][1]["Condition"]
    failures = account.verify(account.key(policy), code=1)["fail"]
    assert checks(failures) == ["role's trust", "other tenants"]


def test_a_policy_that_lets_everybody_in_fails(account: Account) -> None:
    policy = key_policy(ACCESS)
    policy["Statement"].append({"Effect": "Allow", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"})
    assert checks(account.verify(account.key(policy), code=1)["fail"]) == ["policy: no wildcard"]
    policy["Statement"][-1] |= {
        "Principal": {"AWS": ["*"]},
        "Condition": {"StringEquals": {"kms:CallerAccount": ACCOUNT}},
    }
    assert "policy: no wildcard" in checks(account.verify(account.key(policy))["warn"])


def test_a_policy_that_locks_the_root_out_is_warned_of(account: Account) -> None:
    policy = key_policy(ACCESS)
    policy["Statement"] = policy["Statement"][1:]
    assert checks(account.verify(account.key(policy))["warn"]) == ["policy: administration"]


def test_what_we_may_not_look_at_is_not_known(account: Account) -> None:
    account.settings(role=False)
    arn = account.key(key_policy(Access("acme", account_root(ACCOUNT), (PROVIDER,))))
    found = account.verify(arn)
    assert checks(found["warn"]) == ["rotation", "policy"]
    assert all("may not look" in one["seen"] for one in found["warn"])
    assert "other tenants" in checks(found["pass"])


def test_a_revoked_key_and_a_missing_right_say_what_to_do(account: Account) -> None:
    policy = key_policy(ACCESS)
    policy["Statement"].append({"Effect": "Deny", "Principal": "*", "Action": "kms:Decrypt", "Resource": "*"})
    [failure] = account.verify(account.key(policy), code=1)["fail"]
    assert failure["check"] == "unwrap"
    assert "allow kms:Decrypt" in failure["advice"]
    arn = account.key()
    account.kms.schedule_deletion(arn)
    failures = account.verify(arn, code=1)["fail"]
    assert "deletion on 2" in failures[0]["seen"]
    assert "cancel-key-deletion" in failures[0]["advice"]


def test_origins_have_their_limits(account: Account) -> None:
    imported = account.key(origin="EXTERNAL")
    assert "state" in checks(account.verify(imported, code=1)["fail"])
    account.kms.import_material(imported, valid_to=4_000_000_000)
    [warning] = account.verify(imported)["warn"]
    assert "expires on 2096-10-02" in warning["seen"]
    account.kms.import_material(imported)
    assert account.verify(imported)["warn"] == []
    [warning] = account.verify(account.key(origin="EXTERNAL_KEY_STORE"))["warn"]
    assert "250 ms" in warning["seen"]


def test_a_key_of_another_kind_fails(account: Account) -> None:
    failures = account.verify(account.key(spec="HMAC_256"), code=1)["fail"]
    assert checks(failures)[:2] == ["key spec", "usage"]


def test_regions_arns_and_access_that_are_wrong(account: Account) -> None:
    arn = account.key()
    account.settings(role=True, more='regions = ["us-east-1"]')
    [failure] = account.verify(arn, code=1)["fail"]
    assert failure["check"] == "region"
    account.settings(role=True)
    [failure] = account.verify("alias/acme", code=1)["fail"]
    assert "no alias" in failure["seen"]
    assert checks(account.verify(arn, tenant="umbrella", code=1)["fail"]) == ["access"]
    [failure] = account.verify(arn, tenant="", code=1)["fail"]
    assert "say --tenant" in failure["seen"]
    gone = arn[:-4] + "0000"
    assert "NotFoundException" in account.verify(gone, code=1)["fail"][0]["seen"]


def test_an_outage_is_no_verdict_on_the_key(account: Account) -> None:
    arn = account.key()
    account.settings(role=False, more="connect_timeout_seconds = 0.2\nread_timeout_seconds = 0.2")
    account.kms.cut_off()
    failures = account.verify(arn, code=1)["fail"]
    assert all("no answer" in one["seen"] for one in failures)


def test_what_aws_answers_moves_no_cursor(account: Account) -> None:
    arn = account.key()
    account.kms.fail("DescribeKey", "AccessDeniedException", "\x1b[2J gone")
    done = run("verify", arn, "--tenant", "acme", "--config", str(account.config))
    assert "\x1b" not in done.output
    assert "gone" in done.output


def test_the_settings_must_have_the_store(account: Account, tmp_path: Path) -> None:
    arn = account.key()
    done = run("verify", arn, "--store", "hsm", "--config", str(account.config))
    assert done.exit_code == 2
    assert "has aws of kind aws_kms" in done.stderr
    (tmp_path / "none.toml").write_text('[key_stores.embedded]\nkind = "embedded"\ndirectory = "keys"\n')
    done = run("verify", arn, "--config", str(tmp_path / "none.toml"))
    assert "say --store NAME" in done.stderr
    assert run("verify", arn, "--config", str(tmp_path / "missing.toml")).exit_code == 2
    assert run("verify", "--config", str(account.config)).exit_code == 2
    account.settings(role=False, more='profile = "nobody"')
    done = run("verify", arn, "--config", str(account.config))
    assert done.exit_code == 1
    assert "nobody" in done.stderr
