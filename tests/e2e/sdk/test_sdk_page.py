"""What docs/sdk.md shows runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from support.pki import Authority
from support.server import ServerProcess

PAGE = Path(__file__).resolve().parents[3] / "docs" / "sdk.md"


def test_the_page_s_examples_run(
    ownkey_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("call.wav").write_bytes(b"content" * 100_000)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 6
    Authority(tmp_path).issue("recorder", uris=["spiffe://example.org/recorder"])
    Path("ann.token").write_text("a.bearer.token\n", encoding="ascii")
    names: dict[str, Any] = {}
    for block in blocks:
        code = block.replace("127.0.0.1:7400", ownkey_server.address).replace(
            "Client()", f"Client({ownkey_server.address!r})"
        )
        code = code.replace("/run/ann.token", "ann.token")
        exec(compile(code, str(PAGE), "exec"), names)  # our own page
        names["sealed"] = Path("call.wav.ownkey").read_bytes()
    assert names["again"].plaintext == names["key"].plaintext
    assert names["answer"].allowed
    assert (names["moved"].rewrapped, names["moved"].wrapped_key) == (False, names["key"].wrapped_key)
    assert bytes(names["first"]) == Path("call.wav").read_bytes()[: len(names["first"])]
    assert capsys.readouterr().out == ""
