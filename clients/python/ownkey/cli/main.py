"""``ownkey``: the group of all commands, what they share, and how errors end them."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

import ownkey
from ownkey import errors
from ownkey.cli.output import CONFLICT, EXIT_CODES, OTHER_ERROR, USAGE, Failure, Output
from ownkey.cli.typed import in_the_user_s_words
from ownkey.container import ContainerError
from ownkey.files import OutputExists, Terminated

if TYPE_CHECKING:
    import grpc

    from ownkey.cli.diagnosis import Shown

F = TypeVar("F", bound=Callable[..., Any])

# Name -> where it is. Imported when used: `ownkey status` does not load the server, and a client need not have it.
COMMANDS = {
    "encrypt": "ownkey.cli.media:encrypt",
    "decrypt": "ownkey.cli.media:decrypt",
    "inspect": "ownkey.cli.media:inspect",
    "datakey": "ownkey.cli.keys:datakey",
    "unwrap": "ownkey.cli.keys:unwrap",
    "rewrap": "ownkey.cli.keys:rewrap",
    "status": "ownkey.cli.keys:status",
    "check": "ownkey.cli.keys:check",
    "call": "ownkey.cli.calls:call",
    "apply": "ownkey.cli.configuration:apply",
    "export": "ownkey.cli.configuration:export",
    "admin": "ownkey.cli.admin:admin",
    "notify": "ownkey.cli.notifications:notify",
    "pki": "ownkey.cli.pki:pki",
    "init": "ownkey_server.commands.server:init",
    "serve": "ownkey_server.commands.server:serve",
    "keystore": "ownkey_server.commands.server:keystore",
    "hsm": "ownkey_server.commands.hsm:hsm",
    "db": "ownkey_server.commands.server:db",
    "audit": "ownkey_server.commands.audit:audit",
    "aws": "ownkey_server.commands.aws:aws",
}
EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."
INTERRUPTED = 130
ADMIN_TIMEOUT = 30.0
SIGNALLED = 128
_WHOLE = 1000


class ServerMissing(click.ClickException):
    """A command needs the server's packages, and they are not installed."""


class Shared:
    """What every command shares: where the service is, and how to talk to the user."""

    def __init__(self) -> None:
        self.address = "127.0.0.1:7400"
        self.timeout = 5.0
        self.tenant = ""
        self.as_json = False
        self.verbose = False
        self.ca: Path | None = None
        self.certificate: Path | None = None
        self.private_key: Path | None = None
        self.token_file: Path | None = None
        self.approval = ""
        self.given: set[str] = set()
        # The command that runs, the innermost.
        self.context: click.Context | None = None

    @property
    def output(self) -> Output:
        """Where answers and errors go."""
        return Output(as_json=self.as_json, verbose=self.verbose)

    def client(self) -> ownkey.Client:
        """A client of the service."""
        self._require_address()
        return ownkey.Client(self.address, timeout=self.timeout, credentials=self._credentials())

    def admin(self, author: str = "") -> ownkey.AdminClient:
        """A client of its control plane. Without a timeout of the user's it has patience: key stores are asked."""
        self._require_address()
        timeout = self.timeout if "timeout" in self.given else ADMIN_TIMEOUT
        return ownkey.AdminClient(
            self.address, author=author, timeout=timeout, credentials=self._credentials(), approval=self.approval
        )

    @property
    def shown(self) -> Shown:
        """What there is to speak TLS with."""
        from ownkey.cli.diagnosis import Shown  # noqa: PLC0415 - commands that ask no service need it not

        return Shown(self.ca, self.certificate, self.private_key, self.token_file)

    def _require_address(self) -> None:
        from ownkey._exchange import require_address  # noqa: PLC0415

        require_address(self.address)

    def _credentials(self) -> grpc.ChannelCredentials | None:
        """Credentials, if the user gave any."""
        if not self.shown.tls:
            return None
        from ownkey.credentials import tls  # noqa: PLC0415 - commands that ask no service do not load gRPC

        return tls(
            ca_file=self.ca,
            certificate_file=self.certificate,
            private_key_file=self.private_key,
            token_file=self.token_file,
        )


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        shared = context.ensure_object(Shared)
        shared.context = context
        # A variable of the environment is read again after the command's name: it must not undo what stood before.
        from_environment = context.get_parameter_source(str(parameter.name)) is ParameterSource.ENVIRONMENT
        if value not in (None, False) and not (from_environment and name in shared.given):
            setattr(shared, name, value)
            shared.given.add(name)
        return value

    return callback


def _file_option(option: str, name: str, variable: str, text: str) -> Callable[[F], F]:
    return click.option(
        option,
        name,
        type=click.Path(dir_okay=False, path_type=Path),
        envvar=variable,
        show_envvar=True,
        expose_value=False,
        callback=_set(name),
        help=text,
    )


def shared_options(command: F) -> F:
    """The options that may stand before or after the command's name."""
    options = (
        click.option(
            "--address",
            envvar="OWNKEY_ADDRESS",
            show_envvar=True,
            expose_value=False,
            callback=_set("address"),
            help="The service: HOST:PORT or unix:PATH.  [default: 127.0.0.1:7400]",
        ),
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            expose_value=False,
            callback=_set("timeout"),
            help="Seconds that a call may take.  [default: 5; for administration 30]",
        ),
        _file_option(
            "--tls-ca", "ca", "OWNKEY_CA_FILE", "Authorities of the service's certificate, in PEM: speak TLS."
        ),
        _file_option("--tls-cert", "certificate", "OWNKEY_CERTIFICATE_FILE", "Your certificate, in PEM."),
        _file_option("--tls-key", "private_key", "OWNKEY_PRIVATE_KEY_FILE", "Its private key, in PEM."),
        _file_option("--token-file", "token_file", "OWNKEY_TOKEN_FILE", "Your bearer token."),
        output_options,
    )
    return functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)


def output_options(command: F) -> F:
    """The same for commands that ask no service."""
    options = (
        click.option("--json", is_flag=True, expose_value=False, callback=_set("as_json"), help="Answer in JSON."),
        click.option(
            "-v",
            "--verbose",
            is_flag=True,
            expose_value=False,
            callback=_set("verbose"),
            help="Tell details of errors.",
        ),
    )
    return functools.reduce(lambda decorated, option: option(decorated), reversed(options), command)


class Group(click.Group):
    """A group whose help has the whole first sentence of each command's."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, each with its sentence, over as many lines as it takes."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, one.get_short_help_str(_WHOLE)) for name, one in found if one is not None and not one.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


class LazyGroup(Group):
    """A group that imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command of that name."""
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        try:
            command = getattr(import_module(module), name)
        except ImportError as error:
            if not module.startswith("ownkey_server"):
                raise
            return _missing(cmd_name, error)
        assert isinstance(command, click.Command)  # noqa: S101
        return command


def _missing(name: str, error: ImportError) -> click.Command:
    """A command that cannot run, because the server's packages are not installed."""

    @click.command(
        name, help="Needs the server: pip install 'ownkey[server]'", context_settings={"ignore_unknown_options": True}
    )
    @click.argument("arguments", nargs=-1)
    def missing(arguments: tuple[str, ...]) -> None:  # noqa: ARG001
        raise ServerMissing(f"`ownkey {name}` needs the server's packages ({error.name} is missing)")

    return missing


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(ownkey.__version__, prog_name="ownkey")
@click.option(
    "--tenant", expose_value=False, callback=_set("tenant"), help="Id of the tenant.  [env var: OWNKEY_TENANT]"
)
@shared_options
@click.pass_context
def cli(context: click.Context) -> None:
    """Customer-managed keys for communications: protect content under a customer's own key, and gate calls by it."""
    if context.invoked_subcommand is not None:
        return
    if context.ensure_object(Shared).as_json:
        raise click.UsageError("no command was given", context)
    click.echo(context.get_help(), err=True)
    context.exit(USAGE)


def main() -> None:
    """The entry point: run, and turn every error into lines and an exit code."""
    context_object = Shared()
    context_object.as_json = "--json" in sys.argv
    context_object.verbose = bool({"-v", "--verbose"} & set(sys.argv))
    sys.exit(run(sys.argv[1:], context_object))


def run(arguments: list[str], shared: Shared) -> int:
    """Run one command; gives the exit code."""
    try:
        code = cli.main(arguments, prog_name="ownkey", standalone_mode=False, obj=shared)
    except click.exceptions.Exit as error:
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has gone: what is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OTHER_ERROR
    except (Exception, KeyboardInterrupt, Terminated) as error:
        if shared.verbose and _is_defect(error):
            raise
        return _ended_by(error, shared)
    return code if isinstance(code, int) else 0


_EXPECTED = (
    errors.OwnkeyError,
    ContainerError,
    click.ClickException,
    click.Abort,
    KeyboardInterrupt,
    Terminated,
    OSError,
)


def _is_defect(error: BaseException) -> bool:
    return not isinstance(error, _EXPECTED)


def _ended_by(error: BaseException, shared: Shared) -> int:  # noqa: C901, PLR0912 - a kind of end a line
    """Say what ended the command; gives the exit code."""
    output, code, hint = shared.output, OTHER_ERROR, ""
    match error:
        case errors.ServiceUnavailable():
            from ownkey.cli.diagnosis import diagnosed  # noqa: PLC0415

            return output.failure(diagnosed(error, shared.address, shared.shown))
        case errors.OwnkeyError():
            return output.failure(error, in_the_user_s_words(error, shared.context))
        case ContainerError():
            return output.failure(errors.from_container_error(error))
        case click.Abort() | KeyboardInterrupt():
            message, code = "interrupted", INTERRUPTED
        case Terminated():
            message, code = f"ended by {error}", SIGNALLED + error.number
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.format_message(), err=True)
            return USAGE
        case click.UsageError():
            message, code = error.format_message(), USAGE
            hint = f"{error.ctx.command_path} --help" if error.ctx else "ownkey --help"
        case ServerMissing():
            message, hint = error.format_message(), "pip install 'ownkey[server]'"
        case Failure():
            message, code, hint = error.format_message(), error.exit_code, error.hint
        case click.ClickException():
            message = error.format_message()
        case OutputExists():
            message, code, hint = _describe(error), CONFLICT, "--force replaces it"
        case OSError():
            message = _describe(error)
        case _:
            message, hint = f"{type(error).__name__}: {error}", "this is a defect; -v shows where"
    output.error(message, code, hint=hint)
    return code


def _describe(error: OSError) -> str:
    if error.filename is None or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}"
