"""Policies in TOML, and facts in JSON, as ``ownkey admin policy`` reads them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest

from ownkey.cli.admin_policies import _facts, read_policy
from ownkey.v1 import asset_pb2, policy_pb2

RULE = '[[rules]]\nname = "a"\nuse = "deny"\n'


def policy_file(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_field_of_a_policy_is_read(tmp_path: Path) -> None:
    text = (
        'default = "key:main"\n' + RULE + 'asset_classes = ["team_chat", "live_media"]\nusers = ["sam"]\n'
        'groups = ["legal"]\norigins = ["uploaded"]\ncreated_from = "enrolment"\n'
        "created_before = 2027-01-01T00:00:00Z\n"
    )
    read = read_policy(policy_file(tmp_path, text))
    [rule] = read.rules
    assert (read.default_use, rule.name, rule.use) == ("key:main", "a", "deny")
    assert list(rule.asset_classes) == [asset_pb2.ASSET_CLASS_TEAM_CHAT, asset_pb2.ASSET_CLASS_LIVE_MEDIA]
    assert (list(rule.users), list(rule.groups)) == (["sam"], ["legal"])
    assert list(rule.origins) == [asset_pb2.ASSET_ORIGIN_UPLOADED]
    assert (rule.created_from, rule.created_before) == ("enrolment", "2027-01-01T00:00:00+00:00")


def test_a_policy_that_says_nothing_is_no_policy(tmp_path: Path) -> None:
    # A file that was cut off to nothing must not shut a tenant out.
    with pytest.raises(click.UsageError, match="says nothing"):
        read_policy(policy_file(tmp_path, ""))
    assert read_policy(policy_file(tmp_path, 'default = "deny"')).default_use == "deny"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (RULE + 'users = "sam"', "users must be a list"),
        (RULE + 'groups = "finance"', "groups must be a list"),
        (RULE + 'asset_classes = "team_chat"', "asset_classes must be a list"),
        (RULE + "users = [5]", "users must be a list of texts"),
        (RULE + "users = [[]]", "users must be a list of texts"),
        (RULE + "origins = 5", "origins must be a list of texts"),
        (RULE + "created_from = 10:00:00", "created_from must be a time"),
        (RULE + "created_before = 5", "created_before must be a time"),
        (RULE + "created_from = []", "created_from must be a time"),
        (RULE + 'asset_classes = ["fax"]', "there is no 'fax'; there are: "),
        ('[[rules]]\nname = ["a"]', "name must be a text"),
        ('[[rules]]\nname = "a"\nuse = true', "use must be a text"),
        ('[rules]\nname = "a"', "two brackets"),
        ("rules = 5", "two brackets"),
        ('rules = ["a"]', "two brackets"),
        ("default = 5", "default must be a text"),
        ("other = 1", "there is no 'other' in a policy"),
    ],
)
def test_a_mistake_is_told_and_never_taken_for_something_else(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(click.UsageError, match=re.escape(complaint)):
        read_policy(policy_file(tmp_path, text))


def test_facts_are_assets_of_the_tenant(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps([{"class": "team_chat", "id": "x", "create_time": "2026-01-01T00:00:00Z"}]))
    [asset] = _facts("acme", path)
    assert (asset.tenant, asset.asset_class, asset.asset_id) == ("acme", "team_chat", "x")
    assert asset.create_time is not None


@pytest.mark.parametrize(
    "facts",
    [
        "5",
        "{}",
        '["x"]',
        '[{"class": "team_chat"}]',
        '[{"class": "team_chat", "id": 5}]',
        '[{"class": "team_chat", "id": "x", "usr": "typo"}]',
        '[{"class": "team_chat", "id": "x", "create_time": "soon"}]',
        "[",
    ],
)
def test_facts_with_a_mistake_are_refused(tmp_path: Path, facts: str) -> None:
    path = tmp_path / "facts.json"
    path.write_text(facts)
    with pytest.raises(click.UsageError, match=r"facts\.json"):
        _facts("acme", path)


def test_how_classes_are_wrapped_is_read(tmp_path: Path) -> None:
    text = 'default = "deny"\nwrapping = { phone_voicemail = "direct", meeting_archive = "branch" }\n'
    read = read_policy(policy_file(tmp_path, text + "outage_grace_seconds = 30\n"))
    assert {one.asset_class: one.wrapping for one in read.wrapping} == {
        asset_pb2.ASSET_CLASS_PHONE_VOICEMAIL: policy_pb2.WRAPPING_DIRECT,
        asset_pb2.ASSET_CLASS_MEETING_ARCHIVE: policy_pb2.WRAPPING_BRANCH,
    }
    assert read.outage_grace_seconds == 30


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('wrapping = "direct"\n', "must be a table"),
        ('wrapping = { phone_voicemial = "direct" }\n', "there is no 'phone_voicemial'; there are: "),
        ('wrapping = { team_chat = "twig" }\n', "there is no 'twig'; there are: direct, branch"),
        ("wrapping = { team_chat = 1 }\n", "there is no 1"),
        ("outage_grace_seconds = 901\n", "from 0 to 900"),
        ("outage_grace_seconds = -1\n", "from 0 to 900"),
        ("outage_grace_seconds = true\n", "from 0 to 900"),
        ('outage_grace_seconds = "1"\n', "from 0 to 900"),
    ],
)
def test_a_mistake_about_wrapping_says_where(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(click.UsageError, match=re.escape(complaint)):
        read_policy(policy_file(tmp_path, 'default = "deny"\n' + text))
