"""The section of a key store in AWS KMS: what is wrong is said precisely, at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from ownkey_server.keystores.aws.options import AwsKmsOptions
from ownkey_server.settings import SettingsError, key_store_options, load

KEY = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
THERE = KEY.replace("eu-west-1", "us-gov-west-1")
ROLE = "arn:aws:iam::999988887777:role/team/ownkey-canary"


def read(folder: Path, text: str) -> AwsKmsOptions:
    path = folder / "ownkey.toml"
    path.write_text(f'[key_stores.aws]\nkind = "aws_kms"\n{text}\n', encoding="utf-8")
    options = key_store_options(load(path).key_stores["aws"])
    assert isinstance(options, AwsKmsOptions)
    return options


def test_nothing_need_be_set(tmp_path: Path) -> None:
    assert read(tmp_path, "") == AwsKmsOptions()


def test_everything_that_is_set_reaches_the_store(tmp_path: Path) -> None:
    options = read(
        tmp_path,
        f"""
        profile = "prod"
        role_name = "team/ownkey"
        external_id_prefix = "corp:ownkey"
        session_tags = false
        require_tenant_context = false
        regions = ["eu-west-1", "us-gov-west-1"]
        endpoint_url = "https://kms.{{region}}.example.com:8443/x"
        endpoint_urls = {{ eu-west-1 = "http://127.0.0.1:1" }}
        sts_endpoint_url = "https://sts.example.com"
        canary_key = "{KEY}"
        canary_keys = ["{THERE}"]
        canary_role = "{ROLE}"
        tenant_concurrency = 3
        threads = 6
        tenant_calls_per_second = 2.5
        connect_timeout_seconds = 0.5
        read_timeout_seconds = 0.75
        """,
    )
    assert options == AwsKmsOptions(
        profile="prod",
        role_name="team/ownkey",
        external_id_prefix="corp:ownkey",
        session_tags=False,
        require_tenant_context=False,
        regions=("eu-west-1", "us-gov-west-1"),
        endpoint_url="https://kms.{region}.example.com:8443/x",
        endpoint_urls={"eu-west-1": "http://127.0.0.1:1"},
        sts_endpoint_url="https://sts.example.com",
        canary_key=KEY,
        canary_keys=(THERE,),
        canary_role=ROLE,
        concurrency=3,
        threads=6,
        calls_per_second=2.5,
        connect_timeout=0.5,
        read_timeout=0.75,
    )
    assert read(tmp_path, "use_fips = true").use_fips


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('role_name = "x"\ncanary_role = "ownkey"', r"key_stores\.aws\.canary_role: must be the ARN of a role"),
        (f'canary_role = "{ROLE}"', "canary_role: it proves that roles can be assumed, and without role_name none is"),
        ('canary_key = "alias/ours"', r"key_stores\.aws\.canary_key: a key is named by its ARN"),
        ('canary_keys = ["alias/ours"]', r"key_stores\.aws\.canary_keys\.0: a key is named by its ARN"),
        (
            f'canary_key = "{KEY}"\ncanary_keys = ["{THERE}", "{KEY}"]',
            "canary_keys: one for each region, canary_key included; there are more in eu-west-1",
        ),
        ('regions = ["Frankfurt"]', r"key_stores\.aws\.regions\.0: must be a region of AWS, such as eu-west-1"),
        ('endpoint_url = "kms.example.com"', r"key_stores\.aws\.endpoint_url: must be a URL"),
        ('endpoint_url = "ftp://kms"', r"key_stores\.aws\.endpoint_url: must be a URL"),
        ('endpoint_url = "https://kms.{zone}.example.com"', "must be a URL"),
        ('endpoint_url = "https://kms:99999"', "must be a URL"),
        ('endpoint_url = "http://kms.example.com"', "needs https"),
        ('endpoint_urls = { eu-west-1 = "http://10.0.0.1:80" }', "needs https"),
        ('sts_endpoint_url = "http://sts.example.com"', "needs https"),
        ('sts_endpoint_url = "https://me:secret@sts"', "scheme, host, port and path alone"),
        ('endpoint_urls = { x = "https://kms" }', "must be a region of AWS"),
        (
            'regions = ["eu-west-1"]\nendpoint_urls = { us-east-1 = "https://kms" }',
            r"endpoint_urls: us-east-1 is not among regions",
        ),
        ('use_fips = true\nendpoint_url = "https://kms"', "use_fips: an endpoint that is given is used as it is"),
        ("tenant_concurrency = 8\nthreads = 15", r"threads: must be at least twice tenant_concurrency \(16\)"),
        ("tenant_calls_per_second = 0", r"key_stores\.aws\.tenant_calls_per_second"),
        ('role_name = "my role"', r"key_stores\.aws\.role_name"),
        (f'role_name = "{ROLE}"', r"key_stores\.aws\.role_name: must be the role's name.* and not its ARN"),
        ('external_id_prefix = "a b"', r"key_stores\.aws\.external_id_prefix: must be 2 to 128 letters"),
        ("speed = 3", r"key_stores\.aws\.speed: there is no such setting"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint) as caught:
        read(tmp_path, text)
    assert "secret" not in str(caught.value)
