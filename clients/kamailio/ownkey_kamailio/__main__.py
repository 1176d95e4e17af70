"""Commands for whoever sets the gate up: ``python3 -m ownkey_kamailio check`` and ``emergency``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ownkey_kamailio import environment, settings

FOLDER = Path(__file__).resolve().parent.parent


def main(arguments: list[str] | None = None) -> int:
    """Run a command; gives its exit code: 0, 2 for unusable settings, 3 for a service that does not answer."""
    parser = argparse.ArgumentParser(prog="python3 -m ownkey_kamailio", description="ownkey's call gate for Kamailio")
    parser.add_argument("--settings", type=Path, default=FOLDER / "gate.toml", help="default: gate.toml beside this")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="read the settings and ask ownkey about a call, as Kamailio does")
    check.add_argument("--tenant", help="whose call; default: the first tenant in tenants.domains")
    commands.add_parser("emergency", help="print emergency.cfg, for the settings of [emergency]")
    options = parser.parse_args(arguments)
    try:
        loaded = settings.load(options.settings)
        environment.use(loaded.venv)
        if options.command == "emergency":
            from ownkey_kamailio import emergency_routes  # noqa: PLC0415 - needs the SDK, which was just made importable

            sys.stdout.write(emergency_routes.text(loaded.emergency))
            return 0
        environment.require_classes(loaded)
        return _check(loaded, options.tenant)
    except settings.SettingsError as error:
        print(f"{options.settings}: {error}", file=sys.stderr)
        return 2


def _check(loaded: settings.Settings, tenant: str | None) -> int:
    from ownkey import errors  # noqa: PLC0415
    from ownkey_kamailio import facts, service  # noqa: PLC0415

    asking = service.Asking(loaded.service)
    tenant = tenant or next(iter(loaded.tenants.domains.values()), None)
    print("the settings can be used")
    if tenant is None:
        print("no tenant in tenants.domains: name one with --tenant to ask ownkey", file=sys.stderr)
        return 0
    asking.connect()
    stores = loaded.calls.tenant_stores.get(tenant, loaded.calls.stores)
    call = facts.Facts(tenant, "check", "sip:check@ownkey.invalid", stores=stores)
    try:
        # Connecting may take longer than a call may.
        answer = asking.ask(call, max(loaded.service.timeout, 5.0))
    except errors.OwnkeyError as error:
        print(f"ownkey at {loaded.service.address} gave no decision: {error}. {error.hint}", file=sys.stderr)
        return 3
    print(f"ownkey at {loaded.service.address} says of a call of {tenant}: {answer.decision} ({answer.reason})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
