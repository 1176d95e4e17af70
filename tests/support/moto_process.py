"""moto as a process of its own: AWS KMS with contexts that count (``docs/aws.md`` says what it gets wrong)."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

SERVER = Path(sys.executable).parent / "moto_server"
_ADDRESS = re.compile(rb"Running on (http://127\.0\.0\.1:[0-9]+)")


def environment(endpoint: str = "") -> Mapping[str, str]:
    """What lets a program's AWS SDK reach this emulator, and nothing else."""
    return {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        **({"AWS_ENDPOINT_URL": endpoint} if endpoint else {}),
    }


@contextlib.contextmanager
def server() -> Iterator[str]:
    """A running moto, until the block ends; gives its endpoint, the same for every region and service."""
    started = subprocess.Popen(
        [str(SERVER), "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment()},
    )
    assert started.stderr is not None
    try:
        told = b""
        for line in started.stderr:
            told += line
            found = _ADDRESS.search(line)
            if found:
                break
        else:
            raise AssertionError(f"moto did not start:\n{told.decode()}")
        drain = subprocess.Popen(["cat"], stdin=started.stderr, stdout=subprocess.DEVNULL)
        try:
            yield found[1].decode()
        finally:
            started.terminate()
            started.wait(timeout=20)
            drain.wait(timeout=20)
    finally:
        if started.poll() is None:
            started.kill()
            started.wait()
        started.stderr.close()
