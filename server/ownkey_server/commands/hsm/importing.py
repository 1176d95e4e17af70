"""``ownkey hsm import``: a customer's own key, wrapped by them, unwrapped in the token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ownkey.cli.main import Shared, output_options
from ownkey_server.commands.hsm.confirming import CeremonyChoice, ceremony_options
from ownkey_server.commands.hsm.making import answer, describe
from ownkey_server.commands.hsm.options import TokenChoice, token_options, told
from ownkey_server.domain.key_labels import KeyLabel
from ownkey_server.hsm import importing, making
from ownkey_server.hsm.ceremony_log import CeremonyLog, opened
from ownkey_server.hsm.errors import HsmError
from ownkey_server.hsm.import_pairs import pending_imports
from ownkey_server.hsm.new_files import reserved
from ownkey_server.hsm.operations.transport import SCHEMES
from ownkey_server.hsm.work import TokenAtWork, at_work

LARGEST = 64 << 10
IN_PROCESS_WARNING = (
    "WARNING: the customer's key will be in clear in this program and in its module for a moment. Do this on a machine"
    " that does nothing else, and only with a token that cannot unwrap"
)
PAIR_LEFT_WARNING = (
    "WARNING: the wrapping key of this import could not be destroyed, and still unwraps what the customer sent: {why}."
    " `ownkey hsm settle` destroys it; destroy that file"
)
_GUARDED = "yes: by this wrapping key the token makes nothing that could leave it, whoever asks"
_UNGUARDED = "NO: who has the PIN and the file that the customer sends can get the key out of the token, until --finish"


@click.command("import")
@click.argument("name")
@token_options
@click.option("--begin", is_flag=True, help="Make a wrapping key in the token, and tell the customer what to do.")
@click.option(
    "--finish",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Take in what the customer has wrapped.",
)
@click.option("--abandon", is_flag=True, help="Give the import up: its wrapping key is destroyed.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default=True,
    help="With --begin: the folder for the public key and the instructions.",
)
@click.option(
    "--scheme",
    type=click.Choice(SCHEMES),
    default=SCHEMES[0],
    show_default=True,
    help="With --begin: RSA-OAEP of the key, or RSA-AES key wrap (as CKM_RSA_AES_KEY_WRAP has it).",
)
@click.option(
    "--bits",
    type=click.Choice([str(bits) for bits in importing.BITS]),
    default="3072",
    show_default=True,
    help="With --begin: of the RSA key.",
)
@click.option(
    "--in-process",
    is_flag=True,
    help="With --begin, for tokens that do not unwrap: have it decrypt, so that this program sees the key briefly.",
)
@click.option(
    "--check-value",
    default="",
    metavar="VALUE",
    help="With --finish: what the customer says that it is; another key is refused.",
)
@click.option(
    "--exportable",
    is_flag=True,
    help="With --begin: it may leave this token again, by `ownkey hsm export` alone, where the token keeps to that.",
)
@ceremony_options
@output_options
@click.pass_obj
def import_command(
    shared: Shared, /, name: str, begin: bool, finish: Path | None, abandon: bool, **options: Any
) -> None:
    """Import the customer's own key as NAME, in its next version: bring your own key.

    --begin makes an RSA key pair in the token for this one import, and writes its public key with the commands that the
    customer runs. --finish has the token unwrap what they send: the key is in clear nowhere outside it.
    """
    if begin + abandon + (finish is not None) != 1:
        raise click.UsageError("say one of --begin, --finish FILE and --abandon")
    if options["exportable"] and not begin:
        raise click.UsageError("--exportable goes with --begin: the wrapping key guards what it unwraps")
    with told():
        key = making.parsed(name)
        how = {each: options.pop(each) for each in ("out", "scheme", "bits", "in_process", "check_value", "exportable")}
        content = _content(finish) if finish is not None else b""
        choice, ceremony = TokenChoice.taken(options), CeremonyChoice.taken(options)
        with at_work(choice.places(), verbose=shared.verbose) as tokens, opened(ceremony.log, ceremony.clock) as log:
            work = _Import(shared, ceremony, tokens[0], log, key)
            if begin:
                work.begin(how)
            elif abandon:
                work.abandon()
            else:
                work.finish(content, how["check_value"])


class _Import:
    def __init__(
        self, shared: Shared, ceremony: CeremonyChoice, token: TokenAtWork, log: CeremonyLog, key: KeyLabel
    ) -> None:
        self._shared, self._ceremony, self._token, self._log, self._key = shared, ceremony, token, log, key

    def begin(self, how: dict[str, Any]) -> None:
        label = str(making.free_version([self._token], self._key))
        folder: Path = how["out"]
        stem = label.replace("/", "-")
        public_file, guide_file = folder / f"{stem}.public.pem", folder / f"{stem}.import.sh"
        with reserved(public_file, guide_file) as files:
            begun = self._begin(label, how)
            guide = importing.instructions(begun, public_file.name)
            try:
                files.write({public_file: begun.pem, guide_file: guide.encode()})
            except HsmError as error:
                what = f"the import has begun, and its files are not there: {error}"
                hint = f"`ownkey hsm import {label} --abandon`, and begin it again where they can be written"
                raise HsmError(what, error.trouble, hint) from None
        following = f"ownkey hsm import {label} --finish wrapped.bin --check-value VALUE"
        value = {
            "key": label,
            "public_key": str(public_file),
            "instructions": str(guide_file),
            "fingerprint": begun.fingerprint,
            "scheme": begun.scheme,
            "hash": begun.hash,
            "guarded": begun.guarded,
            "ceremony": begun.ceremony,
            "head": str(begun.head),
            "next": following,
        }
        lines = {
            "key": label,
            "wrote": f"{public_file}, {guide_file}",
            "fingerprint": begun.fingerprint,
            "wrapping": f"{begun.scheme} with {begun.hash}",
            "guarded": _GUARDED if begun.guarded else _UNGUARDED,
            "ceremony": f"{begun.ceremony} in {self._ceremony.log}",
            "head": begun.head,
            "next": f"the customer follows {guide_file.name}, having checked the fingerprint; then: {following}",
        }
        self._shared.output.answer(value, lines)

    def _begin(self, label: str, how: dict[str, Any]) -> importing.Begun:
        if how["in_process"]:
            self._shared.output.note(IN_PROCESS_WARNING)
        what = "begin the import of a customer's key"
        custodians = self._ceremony.custodians(
            self._shared, describe(what, label, [self._token], exportable=how["exportable"])
        )
        return importing.begin(
            self._log,
            custodians,
            self._token,
            label,
            bits=int(how["bits"]),
            scheme=how["scheme"],
            in_process=how["in_process"],
            exportable=how["exportable"],
        )

    def finish(self, wrapped: bytes, check_value: str) -> None:
        label = importing.begun_label(self._log.checked, self._token.facts.serial, self._key)
        way = pending_imports(self._log.checked, self._token.facts.serial)[label]
        if way.in_process:
            self._shared.output.note(IN_PROCESS_WARNING)
        what = describe("import a customer's key", label, [self._token], exportable=way.exportable)
        custodians = self._ceremony.custodians(self._shared, what)
        finished = importing.finish(
            self._log,
            custodians,
            self._token,
            label,
            wrapped,
            check_value=check_value,
            approve=self._ceremony.approve(self._shared),
        )
        if finished.pair_left:
            self._shared.output.note(PAIR_LEFT_WARNING.format(why=finished.pair_left))
        following = f'reference = "{label}" for the key in the tenants file'
        if finished.pair_left:
            following = f"`ownkey hsm settle`, which destroys the wrapping key; then {following}"
        more = {"wrapping_key": f"left: {finished.pair_left}" if finished.pair_left else "destroyed"}
        answer(self._shared, self._ceremony, [self._token], finished.made, following, more)

    def abandon(self) -> None:
        label = importing.begun_label(self._log.checked, self._token.facts.serial, self._key)
        custodians = self._ceremony.custodians(
            self._shared, describe("give up the import of a key", label, [self._token])
        )
        head = importing.abandon(self._log, custodians, self._token, label)
        self._shared.output.answer({"abandoned": label, "head": str(head)}, {"abandoned": label, "head": head})


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened_file:
            content = opened_file.read(LARGEST + 1)
    except OSError as error:
        raise HsmError(f"{file}: cannot be read: {error.strerror}") from None
    if len(content) > LARGEST:
        raise HsmError(f"{file} is larger than {LARGEST} bytes: no wrapped key is")
    return content
