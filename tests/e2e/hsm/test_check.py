"""`ownkey hsm check` says of a token what is true of it, and leaves it as it was."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from ownkey_server.hsm.check.steps import STEPS
from ownkey_server.hsm.check.verdicts import Report, Verdict
from support.crooked_module import crooked
from support.hsm_checks import checked, files, found, line, objects, plan_for
from support.softhsm import ALL_RIGHTS, SoftHsm

GCM, KEY_WRAP = ("ENCRYPT", "DECRYPT"), ("WRAP", "UNWRAP")
_numbers = itertools.count()


@pytest.fixture(scope="module")
def token(softhsm: SoftHsm) -> Iterator[str]:
    label = f"check-{next(_numbers)}"
    softhsm.make_token(label)
    yield label
    softhsm.delete_token(label)


@pytest.fixture(scope="module")
def good(softhsm: SoftHsm, token: str) -> Report:
    return checked(plan_for(softhsm, token))


def test_a_good_token_passes_and_that_it_is_software_is_told(good: Report) -> None:
    assert good.verdict is Verdict.WARN
    assert found(good, Verdict.WARN) == ["token.hardware"]
    assert not found(good, Verdict.FAIL)


def test_every_step_finds_something(good: Report) -> None:
    assert [*dict.fromkeys(one.step for one in good.findings)] == list(STEPS)


def test_every_line_that_did_not_pass_says_why_and_what_to_do(good: Report) -> None:
    warned = [one for one in good.findings if one.verdict in (Verdict.WARN, Verdict.FAIL)]
    assert warned
    assert all(one.why and one.to_do for one in warned)


def test_every_byte_of_a_wrapped_key_was_changed_and_refused(good: Report) -> None:
    # 48 bytes and 12 of the IV; 48 shorter lengths; 3 longer ones. Key wrap: 72, 72 and 3.
    assert line(good, "tamper.gcm.refused").seen == "111 tried, 111 refused"
    assert line(good, "tamper.key_wrap.refused").seen == "147 tried, 147 refused"
    assert line(good, "tamper.gcm.answers").seen == "CKR_GENERAL_ERROR (111)"


def test_the_way_that_the_settings_want_is_the_one_that_is_tried(softhsm: SoftHsm, token: str) -> None:
    plan = plan_for(softhsm, token)
    report = checked(plan, mechanism="aes-key-wrap")
    assert "AES key wrap" in line(report, "mechanisms.way").seen
    assert {one.name for one in report.findings if one.step == "use"} >= {"use.key_wrap.round_trip"}
    assert not [one.name for one in report.findings if one.name.startswith("use.gcm")]


def test_a_token_is_the_same_before_and_after(softhsm: SoftHsm, token: str) -> None:
    softhsm.make_key(token, "kept", "SENSITIVE", *GCM)
    before = objects(softhsm, token), files(softhsm)
    report = checked(plan_for(softhsm, token, "kept"))
    assert (objects(softhsm, token), files(softhsm)) == before
    assert line(report, "traces.objects").verdict is Verdict.PASS
    assert line(report, "traces.objects").seen.startswith("1 objects")
    softhsm.destroy_key(token, "kept")


def test_a_token_that_lets_nobody_write_is_checked_whole(softhsm: SoftHsm, token: str, good: Report) -> None:
    report = checked(plan_for(softhsm, token, module=crooked(softhsm, "only-reads")))
    assert [(one.name, one.verdict) for one in report.findings] == [(one.name, one.verdict) for one in good.findings]


def test_a_token_with_key_wrap_alone_will_serve(softhsm: SoftHsm, token: str) -> None:
    report = checked(plan_for(softhsm, token, module=crooked(softhsm, "no-gcm")))
    assert not found(report, Verdict.FAIL)
    assert "AES key wrap" in line(report, "mechanisms.way").seen


def test_a_token_without_a_way_to_wrap_fails(softhsm: SoftHsm, token: str) -> None:
    report = checked(plan_for(softhsm, token, module=crooked(softhsm, "no-gcm", "no-key-wrap")))
    assert report.verdict is Verdict.FAIL
    assert found(report, Verdict.FAIL) == ["mechanisms.way", "use.key"]


def test_softhsm_s_own_setting_takes_a_mechanism_away(
    softhsm: SoftHsm, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first name of SoftHSM 2.6.1's list of exceptions is not taken for one.
    path = softhsm.folder / "without-key-wrap.conf"
    text = softhsm.configuration.read_text().replace("= ALL", "= -CKM_MD5,CKM_AES_KEY_WRAP")
    path.write_text(text)
    monkeypatch.setenv("SOFTHSM2_CONF", str(path))
    report = checked(plan_for(softhsm, token), mechanism="aes-key-wrap")
    assert "mechanisms.way" in found(report, Verdict.FAIL)
    assert line(report, "mechanisms.aes_key_wrap").seen == "not listed"


def test_keys_that_are_not_as_they_must_be(softhsm: SoftHsm, token: str) -> None:
    made = {
        "right": ("SENSITIVE", *GCM),
        "open": ("SENSITIVE", "EXTRACTABLE", *GCM),
        "shown": ("EXTRACTABLE", *GCM),
        "everything": ("SENSITIVE", *ALL_RIGHTS),
        "nothing": ("SENSITIVE",),
    }
    for label, true in made.items():
        softhsm.make_key(token, label, *true)
    softhsm.make_key(token, "short", "SENSITIVE", *GCM, bits=128)
    softhsm.make_key(token, "twice", "SENSITIVE", *GCM)
    softhsm.make_key(token, "twice", "SENSITIVE", *GCM)
    labels = (*made, "short", "twice", "none")
    report = checked(plan_for(softhsm, token, *labels))

    def verdicts(label: str, verdict: Verdict) -> list[str]:
        of_keys = [one for one in report.findings if one.step == "keys" and one.key == label]
        return [one.name.partition(".")[2] for one in of_keys if one.verdict is verdict]

    # What made these keys has given them the right to sign, as it does where nobody says otherwise.
    assert (verdicts("right", Verdict.FAIL), verdicts("right", Verdict.WARN)) == ([], ["sign"])
    assert verdicts("open", Verdict.FAIL) == ["extractable"]
    assert verdicts("open", Verdict.WARN) == ["never_extractable", "sign"]
    assert verdicts("shown", Verdict.FAIL) == ["sensitive", "extractable", "value"]
    assert verdicts("everything", Verdict.WARN) == ["rights", "sign"]
    assert verdicts("nothing", Verdict.FAIL) == ["rights"]
    assert verdicts("short", Verdict.FAIL) == ["kind"]
    assert verdicts("twice", Verdict.FAIL) == verdicts("none", Verdict.FAIL) == ["found"]
    assert "each key its own label" in line(report, "keys.found", "twice").to_do
    assert "make it" in line(report, "keys.found", "none").to_do
    assert line(report, "use.gcm.round_trip", "right").verdict is Verdict.PASS
    for label in ("open", "short"):
        assert line(report, "use.gcm.round_trip", label).verdict is Verdict.FAIL
    assert line(report, "keys.value", "open").seen == "refused"
    for label in (*made, "short", "twice"):
        softhsm.destroy_key(token, label)


def test_an_exportable_key_is_warned_of_where_the_key_store_uses_it(softhsm: SoftHsm, token: str) -> None:
    softhsm.make_key(token, "clone", "SENSITIVE", "EXTRACTABLE", "WRAP_WITH_TRUSTED", *GCM)
    plan = plan_for(softhsm, token, "clone")
    used, unused = checked(plan, exportable_keys=True), checked(plan)
    softhsm.destroy_key(token, "clone")
    assert line(used, "export.trusted").verdict is Verdict.PASS
    assert found(used, Verdict.FAIL) == []
    assert line(used, "keys.extractable").verdict is Verdict.WARN
    assert "does not end the use of a copy" in line(used, "keys.extractable").why
    assert line(unused, "keys.extractable").verdict is Verdict.FAIL
    assert "exportable_keys = true" in line(unused, "keys.extractable").to_do
    unknown = checked(plan, exportable_keys=True, profile="generic")
    assert line(unknown, "export.trusted").verdict is Verdict.NOTE


def test_a_pin_that_is_refused_is_tried_once(softhsm: SoftHsm, token: str) -> None:
    report = checked(plan_for(softhsm, token), "999999")
    assert found(report, Verdict.FAIL) == ["login.pin"]
    assert line(report, "login.pin").seen == "the token answered CKR_PIN_INCORRECT"
    left = [one for one in report.findings if one.name.endswith("not_looked_at")]
    assert [one.step for one in left] == list(STEPS)[3:]
    # A token that is about to lock is not logged in to: this module would crash if it were.
    report = checked(plan_for(softhsm, token, module=crooked(softhsm, "final-try", "login-crashes")))
    assert found(report, Verdict.FAIL) == ["token.pin"]


def test_a_label_that_no_token_has_and_one_that_two_have(softhsm: SoftHsm, token: str) -> None:
    report = checked(plan_for(softhsm, "nobody's"))
    assert found(report, Verdict.FAIL) == ["token.found"]
    assert f"'{token}'" in line(report, "token.found").seen
    assert "SOFTHSM2_CONF" in line(report, "token.found").to_do
    softhsm.make_token("twin")
    folder = softhsm._folders["twin"]
    softhsm.make_token("twin")
    report = checked(plan_for(softhsm, "twin"))
    seen = line(report, "token.found").seen
    assert "2 tokens have the label 'twin'" in seen
    # Those two and no other that is there: which one comes first is SoftHSM's affair, and differs from run to run.
    assert (seen.count("(serial "), f"'{token}'" in seen) == (2, False)
    # Also where one of them is named: the key store finds its token by the label.
    (serial, *_) = seen.partition("(serial ")[2].split(")")
    assert found(checked(plan_for(softhsm, "twin"), serial=serial), Verdict.FAIL) == ["token.found"]
    assert found(checked(plan_for(softhsm, token), serial=serial), Verdict.FAIL) == ["token.found"]
    softhsm.delete_token("twin")
    softhsm._folders["twin"] = folder
    softhsm.delete_token("twin")
