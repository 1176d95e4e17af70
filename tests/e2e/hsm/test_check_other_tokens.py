"""`ownkey hsm check` at tokens that are not SoftHSM: NSS, and what vendors document of theirs."""

from __future__ import annotations

import hashlib

import pytest

from ownkey_server.hsm.check.plan import Plan
from ownkey_server.hsm.check.verdicts import Report, Verdict
from support.hsm_checks import checked, found, line, plan_for
from support.hsm_operator import Operator
from support.nss import LABEL, Nss
from support.nss import PIN as NSS_PIN
from support.softhsm import SoftHsm
from support.vendor_token import compiled


def plan_of(nss: Nss, name: str) -> Plan:
    return Plan(nss.module, LABEL, speed_seconds=0, sessions=8, arguments=nss.arguments(name))


@pytest.fixture(scope="module")
def at_nss(nss: Nss) -> Report:
    nss.make_token("checked")
    return checked(plan_of(nss, "checked"), NSS_PIN)


def test_nss_lets_keys_out_and_so_fails(at_nss: Report) -> None:
    assert found(at_nss, Verdict.FAIL) == ["export.wrapped", "export.copied"]
    assert "CKM_AES_KEY_WRAP" in line(at_nss, "export.wrapped").seen
    assert "whoever has the PIN" in line(at_nss, "export.wrapped").why


def test_all_else_of_nss_is_told_as_it_is(at_nss: Report) -> None:
    assert found(at_nss, Verdict.WARN) == [
        "token.hardware",
        "keys.local",
        "lifecycle.closed_session",
        "lifecycle.logout",
    ]
    assert line(at_nss, "token.profile").seen.startswith("nss-softokn")
    assert line(at_nss, "tamper.key_wrap.answers").seen == "CKR_WRAPPED_KEY_INVALID (80), CKR_DATA_LEN_RANGE (67)"
    assert line(at_nss, "use.key_wrap.standard").seen == "it does"
    assert line(at_nss, "traces.objects").verdict is Verdict.PASS


def test_nss_holds_what_it_held(nss: Nss) -> None:
    nss.make_token("untouched")
    database = nss.folder / "untouched" / "key4.db"
    before = hashlib.sha256(database.read_bytes()).digest()
    checked(plan_of(nss, "untouched"), NSS_PIN)
    assert hashlib.sha256(database.read_bytes()).digest() == before


def test_nss_by_the_settings_of_a_key_store(operator: Operator, nss: Nss) -> None:
    options = nss.make_token("of-settings")
    operator.pin = NSS_PIN
    settings = operator.folder / "ownkey.toml"
    settings.write_text(
        f'[server]\ndevelopment = true\n[key_stores.nss]\nkind = "pkcs11"\nmodule = "{nss.module}"\n'
        f'token_label = "{LABEL}"\npin = "{operator.secret("nss", NSS_PIN)}"\n'
        f'module_arguments = "{options.module_arguments}"\n'
    )
    ended = operator.run("check", "--store", "nss", "--config", str(settings), "--seconds", "0")
    assert (ended.code, ended.answer["counts"]["fail"]) == (9, 2)
    assert ended.answer["facts"]["profile"].startswith("nss-softokn")
    wrong = operator.run("check", "--store", "nss", "--config", str(settings), "--profile", "nobody")
    assert (wrong.code, "there is no profile" in wrong.error["error"]) == (2, True)


def test_a_module_without_its_arguments_says_so(nss: Nss) -> None:
    report = checked(Plan(nss.module, LABEL, speed_seconds=0), NSS_PIN)
    assert found(report, Verdict.FAIL) == ["library.loads"]
    assert "module_arguments" in line(report, "library.loads").seen


@pytest.mark.parametrize(
    ("family", "mechanism"),
    # What stands in for a Luna wraps by functions for which the keys that ownkey makes there have no right.
    [("cloudhsm", "auto"), ("luna", "aes-gcm"), ("nshield", "auto")],
)
def test_tokens_as_their_vendors_document_them(softhsm: SoftHsm, family: str, mechanism: str) -> None:
    label = f"as-{family}"
    softhsm.make_token(label)
    report = checked(plan_for(softhsm, label, module=compiled(softhsm, family)), mechanism=mechanism)
    assert found(report, Verdict.FAIL) == []
    assert "(documented)" in line(report, "token.profile").seen
    softhsm.delete_token(label)
