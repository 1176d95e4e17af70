"""What docs/admin.md shows a program doing runs as it stands there, and its tables leave no call and no command out."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ownkey.cli.admin import admin as admin_commands
from ownkey.v1 import admin_service_pb2
from support import server
from support.server import OWNKEY

PAGE = Path(__file__).resolve().parents[3] / "docs" / "admin.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_page_s_program_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [code] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {}
    with server.process(tmp_path) as running:
        command = [OWNKEY, "keystore", "create", "beta-main", "--config", str(tmp_path / "ownkey.toml")]
        subprocess.run(command, check=True, capture_output=True)
        exec(compile(code.replace("127.0.0.1:7400", running.address), str(PAGE), "exec"), names)  # our own page
    assert (names["version"].number, names["version"].in_force) == (1, True)
    assert names["tenant"].display_name == "Beta Inc."
    assert names["actions"] == [
        "admin.create_tenant",
        "admin.enrol_key",
        "admin.create_policy_version",
        "admin.update_tenant",
        "admin.update_tenant",
    ]
    assert capsys.readouterr().out == ""


def test_every_call_and_every_command_is_in_the_table() -> None:
    for method in admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].methods:
        assert f"`{method.name}`" in TEXT or method.name.endswith("ServicePrincipal"), method.name
    for name, group in admin_commands.commands.items():
        row = next(line for line in TEXT.splitlines() if line.startswith("|") and f"`ownkey admin {name} " in line)
        assert row
        rows = "".join(line for line in TEXT.splitlines() if f"`ownkey admin {name} " in line)
        for command in group.commands:  # type: ignore[attr-defined]
            assert f"{command}`" in rows, (name, command)
