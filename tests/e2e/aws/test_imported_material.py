"""A key whose material its holder imported: the day on which it ends is told to whoever asks for the key's status."""

from __future__ import annotations

import json
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from support import server
from support.aws_subjects import dummy_credentials
from support.fake_kms import FakeKms
from support.key_stores import until

TENANTS = """
[provider_key]
key_store = "embedded"
reference = "provider"

[[tenants]]
id = "acme"
enrolled_at = 2026-01-01T00:00:00Z
keys = [{{ id = "main", key_store = "aws", reference = "{key}" }}]
policy = {{ default = "key:main" }}
"""


def status(address: str, *options: str) -> str:
    command = [server.OWNKEY, "status", "--address", address, "--tenant", "acme", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout


async def test_status_says_when_imported_material_ends_as_long_as_the_key_works(tmp_path: Path) -> None:
    with dummy_credentials(), FakeKms() as kms:
        key = kms.create_key(origin="EXTERNAL")
        ends = time.time() + 20 * 86_400
        kms.import_material(key, valid_to=ends)
        store = f'[key_stores.aws]\nkind = "aws_kms"\nendpoint_url = "{kms.url}"\nrequire_tenant_context = false\n'
        store += f'sts_endpoint_url = "{kms.url}"\n'
        note = f"imported key material, until {datetime.fromtimestamp(ends, UTC):%Y-%m-%d %H:%M} UTC"
        with server.process(tmp_path, tenants=TENANTS.format(key=key), extra=store) as running:
            assert "available, " in status(running.address)
            assert note in status(running.address)
            [found] = json.loads(status(running.address, "--json"))["keys"]
            assert [(one["replica"], one["cause"], one["note"]) for one in found["replicas"]] == [
                ("aws/eu-west-1", "", note)
            ]
            kms.delete_material(key)

            async def gone() -> bool:
                return "its imported key material was deleted" in status(running.address)

            await until(gone)
            assert note not in status(running.address)
