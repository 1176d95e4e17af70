"""Files: encrypt, decrypt, and look into one."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from ownkey import local
from ownkey.cli.main import Shared, output_options, shared_options
from ownkey.cli.options import asset_of, asset_options, context_option
from ownkey.cli.output import printable
from ownkey.client import Client
from ownkey.container import Buffer, EncryptedDataKey, Header, HeaderReader, Truncated
from ownkey.errors import InvalidRequest, from_container_error
from ownkey.files import Progress, Readable, read_chunks, require_free, write_file
from ownkey.media_stream import MediaStream
from ownkey.models import Asset, MediaInfo

SUFFIX = ".ownkey"
HEADER_ROOM = 65_536 + 16
AWS_KMS = "aws-kms"

_file_argument = click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
_output_option = click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Where to; - is stdout.",
)
_mode_option = click.option(
    "--mode",
    type=click.Choice(["stream", "local"]),
    default="stream",
    show_default=True,
    help="Send the content to the service, or fetch a data key and work here.",
)
_force_option = click.option("--force", is_flag=True, help="Replace the output if it is there.")
_quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
STDIO = Path("-")


@click.command()
@_file_argument
@_output_option
@asset_options()
@context_option
@_mode_option
@_force_option
@_quiet_option
@shared_options
@click.pass_obj
def encrypt(
    shared: Shared,
    /,
    file: Path,
    target: Path | None,
    extra_context: dict[str, str],
    mode: str,
    force: bool,
    quiet: bool,
    **facts: Any,
) -> None:
    """Encrypt FILE under the key that the tenant's policy names, into FILE.ownkey.

    The output appears only when it is whole. - reads from stdin.
    """
    asset = asset_of(facts)
    if target is None and file == STDIO and sys.stdout.isatty():
        raise click.UsageError("an encrypted object is no text: name the output with -o, or mean it with -o -")
    target = target or (STDIO if file == STDIO else file.with_name(file.name + SUFFIX))
    _require_free(target, file, force=force)
    with _opened(file) as source, _progress(shared, file, "encrypting", quiet) as progress, shared.client() as client:
        chunks = read_chunks(source, progress)
        made: MediaStream | local.LocalEncryption
        if mode == "local":
            made = local.LocalEncryption(client, chunks, asset, extra_context=extra_context)
        else:
            made = client.encrypt_stream(chunks, asset, extra_context=extra_context)
        info = made.info
        size = _write(made, target, force=force, private=False)
    _tell(shared, info, target, size)


@click.command()
@_file_argument
@_output_option
@asset_options(required=False)
@click.option("--offset", type=click.IntRange(min=0), help="Only the content from this byte on; needs a file.")
@click.option("--length", type=click.IntRange(min=1), help="Only so many bytes.")
@_mode_option
@_force_option
@_quiet_option
@shared_options
@click.pass_obj
def decrypt(
    shared: Shared,
    /,
    file: Path,
    target: Path | None,
    offset: int | None,
    length: int | None,
    mode: str,
    force: bool,
    quiet: bool,
    **facts: Any,
) -> None:
    """Decrypt FILE, which must be the asset that the options name, into its name without .ownkey.

    Without --class and --asset-id the object itself says which asset it is; name them where it matters that it is that
    one and no other. A file appears only when all of it is verified. On stdout (-) every byte is verified before it is
    written, but only exit code 0 says that it was all.
    """
    if target is None and file != STDIO and file.suffix != SUFFIX:
        raise click.UsageError(f"name the output with -o: {file.name} does not end in {SUFFIX}")
    target = target or (STDIO if file == STDIO else file.with_suffix(""))
    _require_free(target, file, force=force)
    with _opened(file) as source, _progress(shared, file, "decrypting", quiet) as progress, shared.client() as client:
        first = _read_first(source)
        asset = _asset(facts, first)
        made: Iterable[Buffer]
        if offset is not None or length is not None:
            if file == STDIO:
                raise click.UsageError("--offset and --length need a file, not stdin")
            made, info = _range(client, source, file.stat().st_size, asset, offset or 0, length, mode)
        else:
            whole = _whole(client, _rejoined(first, read_chunks(source, progress)), asset, mode)
            made, info = whole, whole.info
        size = _write(made, target, force=force, private=True)
    _tell(shared, info, target, size)


@click.command()
@_file_argument
@output_options
@click.pass_obj
def inspect(shared: Shared, file: Path) -> None:
    """Show the header of an encrypted FILE. No key is used, and nothing is verified."""
    with _opened(file) as source:
        header = _header(_read_first(source))
    value = {
        "message_id": header.message_id.hex(),
        "encryption_context": header.encryption_context,
        "frame_length": header.frame_length,
        "header_length": header.length,
        "wrapped_keys": [
            {"provider_id": key.provider_id, "length": len(key.ciphertext)} | _key_of(key)
            for key in header.encrypted_data_keys
        ],
    }
    pairs = {_shown(name): _shown(text) for name, text in sorted(header.encryption_context.items())}
    lines = {"message id": value["message_id"], **pairs}
    lines |= {"frame length": f"{header.frame_length:,} bytes", "header": f"{header.length} bytes"}
    lines |= {"wrapped by": _shown(", ".join(map(_wrapper, header.encrypted_data_keys)))}
    shared.output.answer(value, lines)


def _key_of(entry: EncryptedDataKey) -> dict[str, str]:
    """The ARN of the key that made an entry, as the entry itself has it; other entries' names are no text."""
    if entry.provider_id != AWS_KMS:
        return {}
    return {"key": entry.provider_info.decode(errors="backslashreplace")}


def _wrapper(entry: EncryptedDataKey) -> str:
    return " ".join([entry.provider_id, *_key_of(entry).values()])


def _shown(text: str) -> str:
    """Text out of a file, which may be anybody's, in one line that does nothing to a terminal."""
    return printable(text).replace("\n", "\\n")


def _whole(client: Client, chunks: Iterable[Buffer], asset: Asset, mode: str) -> MediaStream | local.LocalDecryption:
    if mode == "local":
        return local.LocalDecryption(client, chunks, asset)
    return client.decrypt_stream(chunks, asset)


def _range(
    client: Client, source: Readable, size: int, asset: Asset, offset: int, length: int | None, mode: str
) -> tuple[Iterable[Buffer], MediaInfo | None]:
    source.seek(0)
    if mode == "local":
        return local.decrypt_range(client, source, size, asset, offset, length), None
    stream = client.decrypt_range(source, size, asset, offset, length)
    return stream, stream.info


def _asset(facts: dict[str, Any], first: bytes) -> Asset:
    """The asset that the options name; what they leave out, the object says."""
    context = _header(first).encryption_context
    facts["asset_class"] = facts["asset_class"] or context.get("ownkey:asset-class")
    facts["asset_id"] = facts["asset_id"] or context.get("ownkey:asset-id")
    if not facts["asset_class"] or not facts["asset_id"]:
        raise InvalidRequest("the object does not say which asset it is: give --class and --asset-id")
    return asset_of(facts)


def _header(first: bytes) -> Header:
    header = HeaderReader().feed(first)
    if header is None:
        raise from_container_error(Truncated("the object ends inside its header"))
    return header


def _read_first(source: Readable) -> bytes:
    """The first bytes, enough for a header: a pipe may give them in pieces."""
    first = b""
    while len(first) < HEADER_ROOM and (piece := source.read(HEADER_ROOM - len(first))):
        first += piece
    return first


def _rejoined(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _require_free(target: Path, source: Path, *, force: bool) -> None:
    """Before a key is used and content sent for nothing."""
    if STDIO not in (target, source) and target.exists() and target.samefile(source):
        raise click.UsageError(f"{target} is the input itself: name another output with -o")
    if target != STDIO:
        require_free(target, overwrite=force)


def _write(pieces: Iterable[Buffer], target: Path, *, force: bool, private: bool) -> int:
    if target != STDIO:
        return write_file(pieces, target, overwrite=force, private=private)
    size = 0
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        size += len(piece)
    sys.stdout.buffer.flush()
    return size


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Readable]:
    if file == STDIO:
        # Unbuffered: the thread that sends may be waiting for input when the command ends, and would hold the buffer's
        # lock, without which the interpreter cannot.
        with io.FileIO(sys.stdin.fileno(), closefd=False) as source:
            yield source
    else:
        with file.open("rb") as source:
            yield source


@contextlib.contextmanager
def _progress(shared: Shared, file: Path, what: str, quiet: bool) -> Iterator[Progress | None]:
    """A bar on a terminal, for people only."""
    if quiet or shared.as_json or not sys.stderr.isatty():
        yield None
        return
    from rich import progress as bars  # noqa: PLC0415 - only terminals need it
    from rich.console import Console  # noqa: PLC0415

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        total = None if file == STDIO else file.stat().st_size
        task = bar.add_task(f"{what} {file.name}", total=total)
        yield lambda count: bar.advance(task, count)


def _tell(shared: Shared, info: MediaInfo | None, target: Path, size: int) -> None:
    if target == STDIO:
        return
    value: dict[str, object] = {"output": str(target), "size": size}
    lines: dict[str, object] = {"output": f"{target} ({size:,} bytes)"}
    if info is not None:
        value |= {
            "key": info.key,
            "encryption_context": info.encryption_context,
            "message_id": info.message_id.hex(),
            "decision": info.decision,
            "rule": info.rule,
        }
        lines["key"] = info.key + (f" ({info.decision}, rule {info.rule!r})" if info.rule else "")
        context = info.encryption_context
        lines["asset"] = _shown(f"{context['ownkey:asset-class']} {context['ownkey:asset-id']}")
    shared.output.answer(value, lines)
