"""The dependencies: locked by hash, asked about, and listed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = {
    name: (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    for name in ("server", "client", "dev", "emulators")
}


def normal(name: str) -> str:
    """A package's name as locks write it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(text: str) -> dict[str, str]:
    """Each package of a lock, with what follows its name."""
    blocks = re.split(r"\n(?=[a-zA-Z0-9])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    return {normal(re.split(r"[=<>\[ ;]", block, maxsplit=1)[0]): block for block in blocks if block.strip()}


def direct(lists: list[list[str]]) -> set[str]:
    return {normal(re.split(r"[\[=<>~; ]", one, maxsplit=1)[0]) for each in lists for one in each}


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_of_a_lock_has_one_version_and_hashes_and_no_place(name: str) -> None:
    packages = locked(LOCKS[name])
    assert len(packages) >= {"server": 40, "client": 15, "dev": 100, "emulators": 10}[name]
    for package, block in packages.items():
        assert re.search(r"==[0-9]", block), package
        assert block.count("--hash=sha256:") >= 1, package
    assert "://" not in LOCKS[name]
    assert "index-url" not in LOCKS[name]


def test_every_direct_dependency_is_locked_and_bounded() -> None:
    project, groups = PROJECT["project"], PROJECT["dependency-groups"]
    serving = [project["dependencies"], project["optional-dependencies"]["server"], groups["build"]]
    assert direct(serving) <= locked(LOCKS["server"]).keys()
    assert direct([*serving, groups["dev"]]) <= locked(LOCKS["dev"]).keys()
    for one in [*project["dependencies"], *project["optional-dependencies"]["server"]]:
        assert re.search(r"==|<", one), f"{one} has no upper bound"


def test_whatever_is_installed_is_in_a_lock_by_its_hash() -> None:
    scripts = [ROOT / "Makefile", ROOT / "Dockerfile", *sorted((ROOT / "tools").glob("*.sh")), ROOT / ".ci" / "run"]
    found = []
    for path in scripts:
        text = re.sub(r"(?m)^#.*$", "", re.sub(r"\\\n", " ", path.read_text(encoding="utf-8")))
        found += [part for part in re.split(r"\n|&&|;", text) if re.search(r"\bpip\b.*\binstall\b", part)]
    assert len(found) >= 8, "of the server's lock, the tools', the emulators', a container's, and of ownkey itself"
    for command in found:
        # ownkey itself comes from its folder, built with what the lock has.
        itself = "--no-deps" in command and "--no-build-isolation" in command
        assert itself or "--require-hashes" in command, command
    assert not [path for path in scripts if re.search(r"\b(curl|wget)\b", path.read_text(encoding="utf-8"))]


def test_an_environment_that_has_no_pip_gets_the_one_of_the_lock(tmp_path: Path) -> None:
    """As on Debian without python3-venv: a Python whose venv cannot make a pip, and which has one itself."""
    fake = tmp_path / "python"
    fake.write_text(
        "#!/bin/sh\n"
        '[ "$2" = venv ] && [ "$3" != --without-pip ] && exit 1\n'
        'case "$*" in *--python*) for last; do :; done\n'
        f'cp "$last" "{tmp_path}/asked"; echo "$@" >"{tmp_path}/how" ;; esac\n',
        encoding="utf-8",
    )
    fake.chmod(0o755)
    subprocess.run(["tools/make_venv.sh", str(fake), str(tmp_path / "venv")], cwd=ROOT, check=True)
    assert "--require-hashes" in (tmp_path / "how").read_text(encoding="utf-8")
    assert (tmp_path / "asked").read_text(
        encoding="utf-8"
    ).strip() == f"pip{locked(LOCKS['server'])['pip'][3:].strip()}"


PLANTED = {
    "S102": "exec(input())",
    "S105": 'password = "hunter2"',
    "S301": "import pickle\n\npickle.loads(b'')",
    "S307": "eval(input())",
    "S311": "import random\n\ntoken = random.random()",
    "S324": "import hashlib\n\nhashlib.md5(b'')",
    "S501": "import requests\n\nrequests.get('https://x', verify=False, timeout=1)",
    "S506": "import yaml\n\nyaml.load('')",
    "S602": "import subprocess\n\nsubprocess.run(input(), shell=True, check=True)",
    "S608": "def f(name: str) -> str:\n    return f\"SELECT * FROM t WHERE name = '{name}'\"",
}


@pytest.mark.parametrize("rule", PLANTED)
@pytest.mark.parametrize("room", ["server/ownkey_server/rpc", "clients/python/ownkey/cli", "tools"])
def test_what_is_dangerous_is_found_where_it_counts(room: str, rule: str) -> None:
    """Ruff's S rules, which are bandit's, are on for what is shipped."""
    command = [sys.executable, "-m", "ruff", "check", "--quiet", "--output-format", "concise", "--no-cache"]
    command += ["--stdin-filename", f"{room}/planted.py", "-"]
    done = subprocess.run(command, cwd=ROOT, input=PLANTED[rule] + "\n", capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f" {rule} " in done.stdout, done.stdout


def test_what_serves_is_the_same_in_development() -> None:
    server, dev = locked(LOCKS["server"]), locked(LOCKS["dev"])
    version = re.compile(r"==(\S+)")
    for package, block in server.items():
        assert version.findall(block) == version.findall(dev[package]), package


def test_the_bill_of_materials_lists_what_is_locked_and_is_the_same_each_time() -> None:
    made = []
    for _ in range(2):
        subprocess.run(["tools/sbom.sh"], cwd=ROOT, check=True, capture_output=True)
        made.append((ROOT / "build" / "sbom.json").read_bytes())
    assert made[0] == made[1]
    found = json.loads(made[0])
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert found["metadata"]["component"]["name"] == "ownkey"
    assert {normal(one["name"]) for one in found["components"]} == locked(LOCKS["server"]).keys()
    for one in found["components"]:
        assert any(reference.get("hashes") for reference in one["externalReferences"]), one["name"]


class Advisories(ThreadingHTTPServer):
    """An advisory service on this machine: of the packages named, each version is vulnerable."""

    def __init__(self, vulnerable: dict[str, str], *, silent: bool = False, unknown: str = "") -> None:
        self.vulnerable, self.silent, self.unknown = vulnerable, silent, unknown
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Advisories

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = asked["package"]["name"]
        self.send_response(503 if self.server.silent or name == self.server.unknown else 200)
        self.end_headers()
        vulns = []
        if name in self.server.vulnerable:
            fixed = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99"}]}]
            vulns = [
                {
                    "id": self.server.vulnerable[name],
                    "modified": "2026-01-01T00:00:00Z",
                    "published": "2026-01-01T00:00:00Z",
                    "details": "planted",
                    "affected": [{"package": {"name": name, "ecosystem": "PyPI"}, "ranges": fixed}],
                }
            ]
        self.wfile.write(json.dumps({"vulns": vulns} if vulns else {}).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@contextlib.contextmanager
def service(vulnerable: dict[str, str], *, silent: bool = False, unknown: str = "") -> Iterator[list[str]]:
    """The arguments by which the audit asks the service."""
    with Advisories(vulnerable, silent=silent, unknown=unknown) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield ["--vulnerability-service", "osv", "--osv-url", f"http://127.0.0.1:{running.server_port}/v1/query"]
        running.shutdown()


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """tools/audit.py, over the server's lock alone, as somebody runs it who has set nothing."""
    spec = importlib.util.spec_from_file_location("audit", ROOT / "tools" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "audit", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LOCKS", module.LOCKS[:1])
    monkeypatch.setattr(module, "VERDICT", tmp_path / "build" / "audit.txt")
    monkeypatch.delenv("OWNKEY_REQUIRE_AUDIT", raising=False)
    return module


def test_clean_dependencies_pass(audit: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with service({}) as arguments:
        assert audit.main(arguments) == 0
    told = capsys.readouterr()
    assert re.search(r"asked of \d\d dependencies: 0 known", told.out)
    assert told.err == ""


def test_a_vulnerable_dependency_fails_by_name(audit: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with service({"grpcio": "GHSA-test-0000-0001"}) as arguments:
        assert audit.main(arguments) == 1
    assert re.search(r"grpcio \S+: GHSA-test-0000-0001, mended in 99", capsys.readouterr().out)


def test_what_is_accepted_passes_until_its_day(
    audit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "accepted.toml"
    entry = '[[accepted]]\nid = "GHSA-test-0000-0001"\npackage = "grpcio"\nreason = "not called"\nuntil = '
    monkeypatch.setattr(audit, "ACCEPTED", file)
    with service({"grpcio": "GHSA-test-0000-0001"}) as arguments:
        file.write_text(entry + "9999-12-31", encoding="utf-8")
        assert audit.main(arguments) == 0
        file.write_text(entry.replace("grpcio", "click") + "9999-12-31", encoding="utf-8")
        assert audit.main(arguments) == 1
    file.write_text(entry + "2020-01-01", encoding="utf-8")
    with pytest.raises(SystemExit, match="look at it anew"):
        audit.accepted(file, date(2026, 1, 1))
    file.write_text(entry.replace("not called", "") + "9999-12-31", encoding="utf-8")
    with pytest.raises(SystemExit, match="needs id, package, a reason"):
        audit.accepted(file, date(2026, 1, 1))


def test_a_service_that_does_not_answer_is_never_taken_for_good_news(
    audit: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with service({}, silent=True) as arguments:
        assert audit.main(arguments) == 0
        told = capsys.readouterr()
        assert "NOT AUDITED" in told.err
        assert "0 known" not in told.out
        assert audit.VERDICT.read_text(encoding="utf-8") == told.err
        monkeypatch.setenv("OWNKEY_REQUIRE_AUDIT", "1")
        assert audit.main(arguments) == 1


def test_where_the_service_can_be_reached_continuous_integration_needs_every_answer(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "LOCKS", [ROOT / "requirements" / f"{name}.txt" for name in ("server", "emulators")])
    monkeypatch.setenv("OWNKEY_REQUIRE_AUDIT", "if-reachable")
    with service({}, silent=True) as arguments:
        assert audit.main(arguments) == 0
    only_there = min(locked(LOCKS["emulators"]).keys() - locked(LOCKS["server"]).keys())
    with service({}, unknown=only_there) as arguments:
        assert audit.main(arguments) == 1
        assert "NOT AUDITED" in audit.VERDICT.read_text(encoding="utf-8")
    with service({}) as arguments:
        assert audit.main(arguments) == 0
        assert "0 known" in audit.VERDICT.read_text(encoding="utf-8")
    with service({"grpcio": "GHSA-test-0000-0001"}, unknown=only_there) as arguments:
        monkeypatch.delenv("OWNKEY_REQUIRE_AUDIT")
        assert audit.main(arguments) == 1, "what is known to be vulnerable fails, whatever else was not told"
    monkeypatch.setenv("OWNKEY_REQUIRE_AUDIT", "yes")
    with pytest.raises(SystemExit, match="must be 1 or if-reachable"):
        audit.main([])


def test_continuous_integration_asks_for_it_and_says_at_its_end_what_came_of_it() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "export OWNKEY_REQUIRE_AUDIT=${OWNKEY_REQUIRE_AUDIT:-if-reachable}" in lines
    assert lines[-1] == "cat build/audit.txt"


def test_no_advisory_is_accepted_without_reason_or_beyond_its_day(audit: ModuleType) -> None:
    audit.accepted(audit.ACCEPTED, date.today())
