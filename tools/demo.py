"""The main job, shown from outside: a server, the command line, a recording, and a key that is taken away.

Everything happens in a folder of its own and on a free port of the loopback interface. One line a step; the exit code
is 0 only when every step did what it says.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TENANT = "acme"
SERVER_START_SECONDS = 30.0
STATUS_SECONDS = 30.0
EXIT_REVOKED = 4
EXIT_REFUSED = 7
# So that nobody who looks on has to wait.
IMPATIENT: Mapping[str, str] = {"OWNKEY_KEYS__PROBE_INTERVAL_SECONDS": "0.5"}


class DemoFailed(Exception):
    """A step did not do what it says."""


class Ownkey:
    """The command line, run as its users run it."""

    def __init__(self, command: str, address: str) -> None:
        self._command = command
        self._environment = os.environ | {"OWNKEY_ADDRESS": address, "OWNKEY_TENANT": TENANT}

    def run(self, *arguments: str, expect: int | None = 0) -> dict[str, Any]:
        """The JSON answer of ``ownkey --json ARGUMENTS``, or of its error when a failure is expected."""
        command = [self._command, "--json", *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False, timeout=120)
        if expect is not None and done.returncode != expect:
            raise DemoFailed(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
        output = done.stdout.strip() or done.stderr.strip()
        answer: dict[str, Any] = json.loads(output.splitlines()[-1])
        return answer


def say(step: str, what: str) -> None:
    """One line."""
    print(f"{step:<24} {what}", flush=True)


def make_recording(path: Path, seconds: int = 60, rate: int = 8000) -> None:
    """A two-channel call: a tone that wanders on each side, 16 bits, 8 kHz."""
    with wave.open(str(path), "wb") as recording:
        recording.setnchannels(2)
        recording.setsampwidth(2)
        recording.setframerate(rate)
        samples = bytearray()
        for i in range(seconds * rate):
            t = i / rate
            left = int(9000 * math.sin(2 * math.pi * (220 + 40 * math.sin(t)) * t))
            right = int(9000 * math.sin(2 * math.pi * (330 + 25 * math.cos(t)) * t))
            samples += struct.pack("<hh", left, right)
        recording.writeframes(bytes(samples))


def sha256(path: Path) -> str:
    """Of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def served(command: str, folder: Path, settings: Mapping[str, str] = IMPATIENT) -> Iterator[str]:
    """A server over the folder's settings, and these of its environment; gives its address."""
    environment = os.environ | {
        "OWNKEY_SERVER__LISTEN": "127.0.0.1:0",
        "OWNKEY_SERVER__DRAIN_SECONDS": "1",
        **settings,
    }
    log = folder / "server.log"
    with log.open("wb") as sink:
        server = subprocess.Popen(
            [command, "serve", "--config", str(folder / "ownkey.toml")], env=environment, stderr=sink, stdout=sink
        )
    try:
        yield wait_for_address(server, log)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)


def wait_for_address(server: subprocess.Popen[bytes], log: Path) -> str:
    """The address that the server's log tells, once it does."""
    end = time.monotonic() + SERVER_START_SECONDS
    while time.monotonic() < end:
        for line in log.read_text(encoding="utf-8").splitlines():
            if "serving" in line and " on " in line:
                return line.rpartition(" on ")[2].strip()
        if server.poll() is not None:
            break
        time.sleep(0.05)
    raise DemoFailed(f"the server did not start:\n{log.read_text(encoding='utf-8')}")


def wait_for_state(ownkey: Ownkey, state: str) -> dict[str, Any]:
    """The status of the main key, once it is in that state."""
    end = time.monotonic() + STATUS_SECONDS
    while time.monotonic() < end:
        key: dict[str, Any] = ownkey.run("status", "--key", "main", expect=None)["keys"][0]
        if key["state"] == state:
            return key
        time.sleep(0.2)
    raise DemoFailed(f"the key did not become {state}: {key}")


def protect_and_open(ownkey: Ownkey, recording: Path, folder: Path) -> Path:
    """Encrypt and decrypt the recording both ways; gives one of the encrypted files."""
    facts = ("--class", "phone_recording", "--asset-id", "call-0001", "--user", "sam@acme.example")
    original = sha256(recording)
    say("recording", f"{recording.name}, {recording.stat().st_size:,} bytes, SHA-256 {original[:16]}...")
    sealed = {}
    for mode, how in (("stream", "by the server"), ("local", "in the client")):
        sealed[mode] = folder / f"{mode}.ownkey"
        answer = ownkey.run("encrypt", str(recording), "-o", str(sealed[mode]), "--mode", mode, *facts)
        say(f"encrypted ({mode})", f"{how}, under {answer['key']}: {sealed[mode].stat().st_size:,} bytes")
    # Each way opens what the other made.
    for mode, source in (("stream", sealed["local"]), ("local", sealed["stream"])):
        opened = folder / f"{mode}.wav"
        ownkey.run("decrypt", str(source), "-o", str(opened), "--mode", mode, *facts)
        if sha256(opened) != original:
            raise DemoFailed(f"what {mode} decrypted is not the recording")
        say(f"decrypted ({mode})", f"SHA-256 {sha256(opened)[:16]}..., the same")
    return sealed["stream"]


def ask_about_calls(ownkey: Ownkey) -> None:
    """What the services ask before a call."""
    say("key status", f"tenants/{TENANT}/keys/main is {wait_for_state(ownkey, 'available')['state']}")
    check = ownkey.run("check", "--class", "phone_recording", "--asset-id", "call-0002", "--user", "frida@acme.example")
    say("policy check", check["explanation"])
    allowed = ownkey.run("call", "--callee", "+15551234567", "--call-id", "c1", "--stores", "phone_recording")
    say("call", f"{allowed['decision']}: {allowed['explanation']}")


def take_the_key_away(ownkey: Ownkey, sealed: Path, folder: Path) -> None:
    """What a revoked key stops, and what it does not."""
    revoked = wait_for_state(ownkey, "revoked")
    say("key disabled", f"by its holder; its state is {revoked['state']}: {revoked['cause']}")
    call = ("call", "--call-id", "c2", "--stores", "phone_recording", "--callee")
    refused = ownkey.run(*call, "+15551234567", expect=EXIT_REFUSED)
    say("call", f"{refused['decision']} with SIP {refused['sip_status']}: {refused['explanation']}")
    target = folder / "after-revocation.wav"
    arguments = ("decrypt", str(sealed), "-o", str(target), "--class", "phone_recording", "--asset-id", "call-0001")
    failed = ownkey.run(*arguments, "--user", "sam@acme.example", expect=EXIT_REVOKED)
    if target.exists():
        raise DemoFailed("a decryption that failed left a file behind")
    say("decryption", f"fails with {failed['reason']}, and leaves no file")
    emergency = ownkey.run(*call, "911")
    if not emergency["emergency"]:
        raise DemoFailed("an emergency call was not marked as one")
    say("emergency call", f"{emergency['decision']}: {emergency['explanation']}")


def look_into_the_audit_trail(command: str, config: Path) -> None:
    """What the trail says of all this, and that it is whole."""
    settings = ("--config", str(config / "ownkey.toml"))
    exported = subprocess.run([command, "audit", "export", *settings], check=True, capture_output=True, text=True)
    records = [json.loads(line) for line in exported.stdout.splitlines()]
    refused = [record for record in records if record["result"] == "refused"]
    if not any(record["reason"] == "KEY_REVOKED" for record in refused):
        raise DemoFailed("the refused decryption is not in the audit trail")
    say("audit trail", f"{len(records)} records, {len(refused)} of refusals; the last: {refused[-1]['action']}")
    verified = subprocess.run([command, "audit", "verify", *settings], check=False, capture_output=True, text=True)
    if verified.returncode:
        raise DemoFailed(f"the audit trail does not verify: {verified.stdout}{verified.stderr}")
    say("audit verified", verified.stdout.strip())


def main() -> int:
    """The demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, help="a recording to take; otherwise one is made")
    parser.add_argument("--ownkey", default=str(Path(sys.executable).parent / "ownkey"), help="the command to run")
    parser.add_argument("--config", type=Path, help="a folder with settings to serve; otherwise the embedded default")
    parser.add_argument("--disable", help="a command that disables the main key as its holder would")
    options = parser.parse_args()
    if options.file and not options.file.is_file():
        parser.error(f"{options.file} is not a file")
    with tempfile.TemporaryDirectory(prefix="ownkey-demo-") as scratch:
        folder = Path(scratch)
        recording = options.file or folder / "call.wav"
        if not options.file:
            make_recording(recording)
        config = options.config or folder / "server"
        if not options.config:
            subprocess.run([options.ownkey, "init", str(config)], check=True, capture_output=True)
        disable = options.disable or f"{options.ownkey} keystore disable acme-main --config {config}/ownkey.toml"
        try:
            with served(options.ownkey, config) as address:
                say("server", f"serving on {address}")
                ownkey = Ownkey(options.ownkey, address)
                sealed = protect_and_open(ownkey, recording, folder)
                ask_about_calls(ownkey)
                subprocess.run(shlex.split(disable), check=True, capture_output=True)
                take_the_key_away(ownkey, sealed, folder)
            look_into_the_audit_trail(options.ownkey, config)
        except DemoFailed as error:
            say("FAILED", str(error))
            return 1
    say("done", "nothing is left running, and nothing was kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
