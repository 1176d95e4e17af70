"""What docs/sdk.md and docs/call-gate.md show runs as it stands there."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from ownkey import Client
from support.pki import Authority
from support.server import ServerProcess

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = DOCS / "sdk.md"


def blocks_of(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


async def test_the_examples_of_the_page_on_call_gates_run(
    ownkey_server: ServerProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    page = DOCS / "call-gate.md"
    blocks = blocks_of(page)
    assert len(blocks) == 3
    with Client(ownkey_server.address) as client:
        # It waits for the first word about the key, which views go without.
        client.authorize_call("acme", "first", "+15550100", stores=("phone_recording",))
    names: dict[str, Any] = {}
    for block in blocks:
        code = re.sub(r"(CallGate|Client)\((\)?)", lambda m: f"{m[1]}({ownkey_server.address!r}{m[2] or ', '}", block)
        await asyncio.to_thread(exec, compile(code, str(page), "exec"), names)  # our own page
    assert names["answer"].reason == "key_available"
    assert names["event"].calls == 0
    await names["gateway"]()
    assert capsys.readouterr().out == "allow\n"


def test_the_page_s_examples_run(
    ownkey_server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("call.wav").write_bytes(b"content" * 100_000)
    blocks = blocks_of(PAGE)
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
