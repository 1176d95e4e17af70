from __future__ import annotations

from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import pytest

from ownkey_server.domain.call_gates import GateMode
from ownkey_server.domain.policy import Effect
from ownkey_server.storage.documents import TenantsDocument
from ownkey_server.storage.tenants_file import TenantsFileError, parse, read, render

STORES = {"embedded": "embedded"}
TEMPLATE = resources.files("ownkey_server").joinpath("templates", "tenants.toml").read_text(encoding="utf-8")


def write(folder: Path, text: str) -> Path:
    path = folder / "tenants.toml"
    path.write_text(text, encoding="utf-8")
    return path


def load(path: Path, stores: dict[str, str]) -> TenantsDocument:
    return parse(read(path), str(path), stores)


def test_the_template_is_read(tmp_path: Path) -> None:
    document = load(write(tmp_path, TEMPLATE), STORES)
    [acme] = document.tenants
    policy = acme.policy.to_domain(acme.enrolled_at)
    assert [(key.id, key.reference) for key in acme.keys] == [("main", "acme-main"), ("finance", "acme-finance")]
    assert acme.call_gate.to_domain().mode is GateMode.REFUSE
    assert policy.rules[0].created_before == datetime(2026, 1, 1, tzinfo=UTC)
    assert [rule.outcome.effect for rule in policy.rules][-1] is Effect.DENY
    assert document.provider_key.reference == "provider"


def test_what_is_written_reads_as_the_same(tmp_path: Path) -> None:
    document = load(write(tmp_path, TEMPLATE), STORES)
    assert parse(render(document), "rendered", STORES) == document


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('id = "acme"', 'id = "Acme"', "tenants[0].id: must be lower-case letters, digits and hyphens"),
        ('id = "acme"', 'idd = "acme"', "tenants[0].idd: there is no such setting; did you mean 'id'?"),
        ("enrolled_at = 2026-01-01T00:00:00Z", "enrolled_at = 2026-01-01T00:00:00", "needs a time zone"),
        ('default = "key:main"', 'default = "key:mian"', "policy: the default: the tenant has no key 'mian'"),
        ('use = "key:finance"', 'use = "key:sales"', "rule 'finance': the tenant has no key 'sales'"),
        ('groups = ["finance"]', 'groups = ["sales"]', "rule 'finance': the tenant has no group 'sales'"),
        ('name = "uploads"', 'name = "finance"', "policy: rules: 'finance' stands more than once"),
        ('name = "uploads"', 'name = "default"', "this name is taken by the default"),
        ('asset_classes = ["phone_mms"]', 'asset_classes = ["phone_fax"]', "asset_classes[0]: must be one of meeting_"),
        ('countries = ["US", "DE"]', 'countries = ["US", "XX"]', "'XX' is no ISO 3166 country code"),
        ('countries = ["US", "DE"]', "", "name the countries whose emergency numbers must always connect"),
        ('reference = "acme-main"', 'reference = "provider"', "is the same key of store 'embedded' as provider_key"),
        (
            'key_store = "embedded"',
            'key_store = "hsm"',
            "key_store 'hsm' is not in the settings as the server read them when",
        ),
        ("[provider_key]", "[provider_kee]", "provider_key: is missing"),
        ('mode = "refuse"', "mode = ", "is not valid TOML"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in TEMPLATE
    with pytest.raises(TenantsFileError) as caught:
        load(write(tmp_path, TEMPLATE.replace(old, new, 1)), STORES)
    assert complaint in str(caught.value)
    assert str(tmp_path / "tenants.toml") in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = TEMPLATE.replace('default = "key:main"', 'default = "key:a"').replace('use = "key:finance"', 'use = "key:b"')
    with pytest.raises(TenantsFileError) as caught:
        load(write(tmp_path, text), STORES)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", None])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tenants.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TenantsFileError, match=r"tenants\.toml"):
        load(path, STORES)


def test_two_keys_that_a_wrapped_key_could_not_tell_apart_are_refused(tmp_path: Path) -> None:
    text = TEMPLATE.replace(
        'key_store = "embedded"\nreference = "acme-finance"', 'key_store = "second"\nreference = "acme-main"'
    )
    stores = {"embedded": "embedded", "second": "embedded"}
    with pytest.raises(TenantsFileError, match="key 'finance' has the reference of key 'main' in another store"):
        load(write(tmp_path, text), stores)
    provider = TEMPLATE.replace(
        'key_store = "embedded"\nreference = "acme-main"', 'key_store = "second"\nreference = "provider"'
    )
    with pytest.raises(TenantsFileError, match="key 'main' has the reference of provider_key"):
        load(write(tmp_path, provider), stores)
    load(write(tmp_path, text), {"embedded": "embedded", "second": "pkcs11"})
