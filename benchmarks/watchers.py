"""What thousands of watchers of a key cost a server, and how soon each sees a change: client and server apart."""

from __future__ import annotations

import time
from pathlib import Path

from harness import CLIENT_CORE, MIB, OwnkeyServer, Result, cpu_seconds, ownkey_server, peer

from ownkey import AdminClient
from ownkey.v1.key_state_pb2 import KEY_STATE_AVAILABLE, KEY_STATE_REVOKED
from ownkey.v1.revocation_pb2 import RevocationScope

COUNT, QUIET_SECONDS = 5_000, 20.0
SEEN_AIM = 1.0


def memory(pid: int) -> float:
    """MiB that a process has in memory."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024 / MIB


def results(quick: bool) -> list[Result]:
    count, acts = (500, 1) if quick else (COUNT, 3)
    with ownkey_server() as server, peer("watch_client.py", CLIENT_CORE) as client:
        before = memory(server.pid)
        client.ask(do="begin", address=server.address, count=count)
        per_watch = (memory(server.pid) - before) * 1024 / count
        used, began = cpu_seconds(server.pid), time.monotonic()
        time.sleep(2.0 if quick else QUIET_SECONDS)
        quiet = (cpu_seconds(server.pid) - used) / (time.monotonic() - began)
        seen, used = [], cpu_seconds(server.pid)
        for _ in range(acts):
            seen += _acts(server, client)
        per_change = (cpu_seconds(server.pid) - used) / (2 * acts)
    seen.sort()
    told = {share: round(seen[min(len(seen) - 1, int(len(seen) * share / 100))], 3) for share in (50, 90, 99, 100)}
    print(
        f"{count} watchers: {per_watch:.0f} KiB of memory each, {100 * quiet:.1f} % of a core while nothing happens,"
        f" {per_change:.2f} s of a core for a change; seen after {told[50]}, {told[90]}, {told[99]} and at the latest"
        f" {told[100]} s (50, 90, 99, 100 %)"
    )
    return [
        {
            "name": f"{count} watchers: the last to see a change",
            "value": told[100],
            "unit": "s",
            "baseline": "from before Revoke, or Restore, was called",
            "runs": 2 * acts,
            "distribution": told,
            "kib_each": round(per_watch),
            "quiet_core_share": round(quiet, 4),
            "core_seconds_of_a_change": round(per_change, 3),
            "aim": SEEN_AIM,
            "met": told[100] <= SEEN_AIM,
        }
    ]


def _acts(server: OwnkeyServer, client: object) -> list[float]:
    """How long it took each watcher to see that the key was taken back, and then given back."""
    seen = []
    with AdminClient(server.address) as admin:
        began = time.monotonic()
        made = admin.revoke("acme", RevocationScope(keys=["main"]), reason="a benchmark")
        seen += [at - began for at in client.ask(do="all_saw", state=KEY_STATE_REVOKED)]  # type: ignore[attr-defined]
        began = time.monotonic()
        admin.restore("acme", made.id, reason="a benchmark")
        seen += [at - began for at in client.ask(do="all_saw", state=KEY_STATE_AVAILABLE)]  # type: ignore[attr-defined]
    return seen
