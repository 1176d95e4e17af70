"""The commands that need the server: ``ownkey serve``, ``ownkey init`` and ``ownkey keystore``."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import Path
from typing import TypeVar

import click

from ownkey.cli.main import Group, Shared, output_options
from ownkey.cli.output import CONFLICT, NOT_FOUND, USAGE, Failure
from ownkey_server import hardening
from ownkey_server import settings as settings_module
from ownkey_server.commands.asking import typed
from ownkey_server.commands.errors import config_option, exit_code, failure_of, load
from ownkey_server.commands.keystore_check import check, without_warnings
from ownkey_server.composition.core import open_key_stores
from ownkey_server.domain.errors import DatabaseUnavailable, KeyAbsent, KeyStoreError, KeyUnreachable, OwnkeyError
from ownkey_server.keystores.base import KeyMaker, KeyStore
from ownkey_server.keystores.embedded.sealed_directory import SEAL_NAME
from ownkey_server.keystores.embedded.store import EmbeddedKeyStore
from ownkey_server.main import prepare
from ownkey_server.main import serve as serve_until_signal
from ownkey_server.rpc.reloading import UnusableFile
from ownkey_server.rpc.tls import settle_environment
from ownkey_server.secret_sources import PROMPT, ReferenceInvalid, ask, take_from_environment
from ownkey_server.settings import EmbeddedSettings, KeyStoreSettings, Pkcs11Settings, Settings, SettingsError
from ownkey_server.settings.aws import AwsKmsSettings
from ownkey_server.storage import upgrade as schema
from ownkey_server.storage.audit.signing import SigningKeyError
from ownkey_server.storage.audit.sink import SinkError
from ownkey_server.storage.database import Database
from ownkey_server.storage.tenants_file import TenantsFileError
from ownkey_server.storage.upgrade import SchemaMismatch
from ownkey_server.supervisor import MARGIN_SECONDS, Plan, WorkersError, supervise_until_signal
from ownkey_server.worker import Worker

T = TypeVar("T")

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
WORKER_LOG_FORMAT = "%(asctime)s %(levelname)s [worker {number}] %(name)s: %(message)s"
# Whatever ends these has its reason in one line or a few, and needs no traceback.
_REFUSALS = (
    TenantsFileError,
    SchemaMismatch,
    SigningKeyError,
    SinkError,
    OwnkeyError,
    UnusableFile,
    hardening.MemoryNotLocked,
)
END_SECONDS = 2.0
TEMPLATES = ("ownkey.toml", "tenants.toml")


@click.command()
@config_option
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Server processes that share the TCP port, about one for each CPU core. Each new connection goes to one of "
    "them, and one that dies is replaced. Each asks the key stores on its own. Not with unix:PATH.",
)
def serve(config: Path, log_level: str, workers: int) -> None:
    """Serve until SIGTERM or SIGINT, then let the calls under way end.

    Settings come from one TOML file and from the environment; `ownkey init` makes a first one.
    """
    try:
        hardening.harden()
        settings = load(config)
        settle_environment(settings.server.tls)
        worker = Worker.from_environment()
        log_format = WORKER_LOG_FORMAT.format(number=worker.number) if worker else LOG_FORMAT
        logging.basicConfig(level=log_level.upper(), format=log_format, stream=sys.stderr)
        hardening.allow_open_files()
        if settings.server.lock_memory:
            hardening.lock_memory()
        patience = settings.server.drain_seconds + MARGIN_SECONDS
        if workers > 1:
            # -P: a file beside the user's settings must not stand in for a module of Python's.
            command = (
                sys.executable,
                "-P",
                "-m",
                "ownkey.cli",
                "serve",
                "--config",
                str(config),
                "--log-level",
                log_level,
            )
            others = {
                f"OWNKEY_SERVER__{name.upper()}": listen
                for name in ("token_listen", "health_listen")
                if (listen := getattr(settings.server, name))
            }
            plan = Plan(workers, settings.server.listen, command, patience, others)
            asyncio.run(supervise_until_signal(plan, lambda: prepare(settings)))
            return
        take_from_environment(settings_module.secret_references(settings))
        if worker:
            worker.end_with_supervisor(patience)
        with asyncio.Runner(loop_factory=_new_event_loop) as runner:
            if worker:
                runner.run(serve_until_signal(settings, share_port=True, on_serving=worker.tell_serving))
            else:
                runner.run(serve_until_signal(settings))
            _end_for_certain()
    except SettingsError as error:
        raise Failure(f"{config}: {error}", USAGE) from error
    except (*_REFUSALS, WorkersError, OSError) as error:
        raise failure_of(error) from error


def _end_for_certain() -> None:
    """End the process even when a thread waits for a database that hangs: the interpreter would wait for the thread."""

    def end() -> None:
        logging.getLogger(__name__).warning("a thread still waits for something that hangs: ended without it")
        logging.shutdown()
        os._exit(0)

    timer = threading.Timer(END_SECONDS, end)
    timer.daemon = True
    timer.start()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    # uvloop saves about a tenth of each call; where it does not run, the standard loop does.
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default=Path())
@output_options
@click.pass_obj
def init(shared: Shared, directory: Path) -> None:
    """Write a settings file and a tenants file to start from into DIRECTORY.

    Nothing that is there already is touched.
    """
    taken = [name for name in TEMPLATES if (directory / name).exists()]
    if taken:
        raise Failure(f"{directory / taken[0]} is there already", CONFLICT, hint="choose another directory")
    directory.mkdir(parents=True, exist_ok=True)
    for name in TEMPLATES:
        text = resources.files("ownkey_server").joinpath("templates", name).read_text(encoding="utf-8")
        (directory / name).write_text(text, encoding="utf-8")
    written = [str(directory / name) for name in TEMPLATES]
    following = f"ownkey serve --config {directory / 'ownkey.toml'}"
    shared.output.answer({"written": written, "next": following}, {"wrote": ", ".join(written), "next": following})


@click.group(cls=Group, no_args_is_help=True)
def db() -> None:
    """Look after the database itself."""


@db.command()
@config_option
@output_options
@click.pass_obj
def upgrade(shared: Shared, config: Path) -> None:
    """Give the database the tables that this version needs: the first ones, or those of an older version brought up.

    Take a backup first. Instances of the old version must not run meanwhile.
    """
    settings = load(config)
    database = Database(settings.storage.url, password=settings.storage.password)
    try:
        before, after = schema.upgrade(database)
    except (DatabaseUnavailable, SchemaMismatch) as error:
        raise failure_of(error) from error
    finally:
        database.close()
    changed = "nothing: it had it already" if before == after else f"from schema {before or 'none'} to {after}"
    value = {"database": database.place, "before": before, "after": after}
    shared.output.answer(value, {"database": database.place, "upgraded": changed})


@click.group(cls=Group, no_args_is_help=True)
def keystore() -> None:
    """Make keys in a key store, and disable or enable those of an embedded one.

    These commands work on the key store itself, as its holder would, and need no running server.
    """


keystore.add_command(check)

_store_option = click.option(
    "--store", default="embedded", show_default=True, help="The key store's name in the settings."
)


_secret_option = click.option(
    "--secret",
    metavar="WHERE",
    help="Where the PIN of a token or the passphrase of an embedded store is, in place of what the settings say: "
    "prompt, file:PATH, env:NAME or credential:NAME.",
)


@keystore.command()
@click.argument("reference")
@_store_option
@_secret_option
@config_option
@output_options
@click.pass_obj
def create(shared: Shared, reference: str, store: str, secret: str | None, config: Path) -> None:
    """Make the key REFERENCE: 256-bit AES, never overwritten; in a token, never to be exported."""
    _work_on(config, store, lambda opened: _require_maker(opened, store).create(reference), secret)
    shared.output.answer({"made": reference, "key_store": store}, {"made": f"key {reference!r} in key store {store!r}"})


@keystore.command()
@click.argument("reference")
@_store_option
@config_option
@output_options
@click.pass_obj
def disable(shared: Shared, reference: str, store: str, config: Path) -> None:
    """Take the key REFERENCE of an embedded store away; `enable` gives it back."""
    _work_on(config, store, lambda opened: _require_embedded(opened, store).disable(reference))
    said = f"key {reference!r}: whatever needs it fails from now on"
    shared.output.answer({"disabled": reference, "key_store": store}, {"disabled": said})


@keystore.command()
@click.argument("reference")
@_store_option
@config_option
@output_options
@click.pass_obj
def enable(shared: Shared, reference: str, store: str, config: Path) -> None:
    """Give the key REFERENCE of an embedded store back."""
    _work_on(config, store, lambda opened: _require_embedded(opened, store).enable(reference))
    said = f"key {reference!r}; its state is told again once it was used or probed"
    shared.output.answer({"enabled": reference, "key_store": store}, {"enabled": said})


@keystore.command()
@_store_option
@_secret_option
@config_option
@output_options
@click.pass_obj
def seal(shared: Shared, store: str, secret: str | None, config: Path) -> None:
    """Seal the keys of an embedded store under the passphrase that its settings name.

    Stop the server first. What was cut off is gone on with by sealing again.
    """
    sealed, already = _work_on(config, store, lambda opened: _require_embedded(opened, store).seal(), secret)
    value = {"sealed": sealed, "already_sealed": already, "key_store": store}
    shared.output.answer(value, {"sealed": _names(sealed), "were sealed already": already})


@keystore.command()
@_store_option
@_secret_option
@config_option
@output_options
@click.pass_obj
def unseal(shared: Shared, store: str, secret: str | None, config: Path) -> None:
    """Write the keys of an embedded store in clear again. Remove the passphrase from its settings afterwards."""
    unsealed, already = _work_on(config, store, lambda opened: _require_embedded(opened, store).unseal(), secret)
    value = {"unsealed": unsealed, "already_in_clear": already, "key_store": store}
    shared.output.answer(value, {"unsealed": _names(unsealed), "were in clear already": already})


def _names(references: list[str]) -> str:
    return ", ".join(references) or "none"


def _work_on(config: Path, store: str, work: Callable[[KeyStore], Awaitable[T]], secret: str | None = None) -> T:
    """Open one key store of the settings, work on it as its holder, and close it."""
    hardening.harden()
    settings = load(config)
    if store not in settings.key_stores:
        names = ", ".join(settings.key_stores)
        raise Failure(f"the settings have no key store {store!r}; they have: {names}", NOT_FOUND)
    if secret:
        settings = _with_secret(settings, store, secret)

    async def run() -> T:
        with without_warnings():
            opened = open_key_stores(settings)[store]
        try:
            return await work(opened)
        finally:
            await opened.close()

    try:
        return asyncio.run(run())
    except KeyStoreError as error:
        what = str(error) if error.key else f"key store {store!r}: {error.cause}"
        raise Failure(what, exit_code(error), hint=_other_stores(settings, store, error)) from error


def _other_stores(settings: Settings, store: str, error: KeyStoreError) -> str:
    """Where else a key may be that is not here; who says more of a token that is not."""
    if isinstance(error, KeyUnreachable) and isinstance(settings.key_stores[store], Pkcs11Settings):
        return f"ownkey hsm check --store {store} says which tokens the module has, and what to do"
    others = ", ".join(name for name in settings.key_stores if name != store)
    return f"--store names another key store: {others}" if others and isinstance(error, KeyAbsent) else ""


def _prompted(section: KeyStoreSettings) -> str:
    if not isinstance(section, EmbeddedSettings):
        return typed("PIN")
    # What a seal is made with must not be a slip of the hand: nothing would open it again.
    new = not (section.directory / SEAL_NAME).exists()
    return typed("Passphrase", new=new)


def _with_secret(settings: Settings, store: str, where: str) -> Settings:
    """The settings, with the secret of one key store from elsewhere."""
    section = settings.key_stores[store]
    try:
        source = ask(where, lambda: _prompted(section))
    except ReferenceInvalid as error:
        raise click.UsageError(f"--secret {error}, or {PROMPT}") from None
    if isinstance(section, AwsKmsSettings):
        raise click.UsageError(f"--secret is not for key store {store!r}: AWS's own configuration has its credentials")
    name = "passphrase" if isinstance(section, EmbeddedSettings) else "pin"
    changed = section.model_copy(update={name: source})
    return settings.model_copy(update={"key_stores": {**settings.key_stores, store: changed}})


def _require_maker(store: KeyStore, name: str) -> KeyMaker:
    if not isinstance(store, KeyMaker):
        raise Failure(f"key store {name!r} makes no keys: its holder makes them, in AWS KMS", USAGE)
    return store


def _require_embedded(store: KeyStore, name: str) -> EmbeddedKeyStore:
    if isinstance(store, EmbeddedKeyStore):
        return store
    where = "its token" if isinstance(store, KeyMaker) else "AWS"
    raise Failure(f"key store {name!r} is not embedded: use the tools of {where}", USAGE)
