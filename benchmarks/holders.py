"""Customers of each kind of key store, who hold a key each: a server for them, and how they take a key away."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import CLIENT_CORE, HERE, NOTHING, OwnkeyServer, ownkey_server, peer
from kms_server import PROVIDER, fake_kms, kms_server

sys.path.insert(0, str(HERE.parent / "tests"))
from support.softhsm import PIN, SoftHsm

REGION = "eu-west-1"
TENANT = """
[[tenants]]
id = "{tenant}"
enrolled_at = 2026-01-01T00:00:00Z
keys = [{{ id = "main", key_store = "{store}", reference = "{reference}" }}]
policy = {{ default = "key:main" }}
call_gate = {{ mode = "refuse", countries = ["US"] }}
"""

Act = Callable[[str], None]


@dataclass(frozen=True)
class Holders:
    """A server, and the holders of its tenants' keys.

    Attributes:
        take_away: What they do, by what it is called; each takes a tenant's key away.
        give_back: Undoes the first of these.
    """

    server: OwnkeyServer
    take_away: dict[str, Act]
    give_back: Act


def tenants_file(store: str, references: dict[str, str]) -> str:
    """A tenants file in which each tenant has one key, and its calls need it."""
    return PROVIDER + "".join(
        TENANT.format(tenant=tenant, store=store, reference=reference) for tenant, reference in references.items()
    )


@contextmanager
def embedded(tenants: Sequence[str]) -> Iterator[Holders]:
    """Keys in files: a file ``<reference>.disabled`` beside a key takes it away."""
    folders: list[Path] = []

    def prepare(folder: Path) -> None:
        folders.append(folder)
        text = tenants_file("embedded", {one: one for one in tenants})
        (folder / "tenants.toml").write_text(text, encoding="utf-8")

    with ownkey_server(settings=NOTHING, prepare=prepare) as server:
        mark = lambda tenant: folders[0] / "keys" / f"{tenant}.disabled"  # noqa: E731 - a name for three words
        yield Holders(server, {"disabled": lambda one: mark(one).touch()}, lambda one: mark(one).unlink())


@contextmanager
def pkcs11(tenants: Sequence[str]) -> Iterator[Holders]:
    """Keys in a token of SoftHSM: their holder takes their rights, or destroys them, from another process."""
    with ExitStack() as stack:
        softhsm = SoftHsm(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ownkey-benchmark-hsm-"))))
        pin = softhsm.make_token("ownkey")
        holder, one_at_a_time = stack.enter_context(peer("token_holder.py", CLIENT_CORE)), threading.Lock()

        def ask(**job: Any) -> None:
            with one_at_a_time:
                holder.ask(**job)

        ask(do="begin", module=str(softhsm.module), token="ownkey", pin=PIN)
        for tenant in tenants:
            ask(do="make", label=tenant)

        def prepare(folder: Path) -> None:
            with (folder / "ownkey.toml").open("a", encoding="utf-8") as settings:
                settings.write(f'\n[key_stores.hsm]\nkind = "pkcs11"\nmodule = "{softhsm.module}"\n')
                settings.write(f'token_label = "ownkey"\npin_file = "{pin}"\n')
            text = tenants_file("hsm", {one: one for one in tenants})
            (folder / "tenants.toml").write_text(text, encoding="utf-8")

        server = stack.enter_context(ownkey_server(prepare=prepare))
        take_away: dict[str, Act] = {
            "without its rights": lambda one: ask(do="withdraw", label=one),
            "destroyed": lambda one: ask(do="destroy", label=one),
        }
        yield Holders(server, take_away, lambda one: ask(do="give_back", label=one))


@contextmanager
def aws_kms(tenants: Sequence[str]) -> Iterator[Holders]:
    """Keys in a fake of AWS KMS, as a process of its own: DisableKey."""
    with ExitStack() as stack:
        kms = stack.enter_context(fake_kms())
        arns = {tenant: kms.new_key(REGION) for tenant in tenants}
        text = tenants_file("aws", arns)
        prepared = lambda folder: (folder / "tenants.toml").write_text(text, encoding="utf-8")  # noqa: E731 - as above
        server = stack.enter_context(kms_server(arns, {REGION: kms.url}, prepared=prepared))
        client = kms.client(REGION)
        yield Holders(
            server,
            {"disabled": lambda one: client.disable_key(KeyId=arns[one])},
            lambda one: client.enable_key(KeyId=arns[one]),
        )


STORES = {"embedded": embedded, "pkcs11": pkcs11, "aws_kms": aws_kms}
