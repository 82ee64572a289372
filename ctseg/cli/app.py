"""The command tree, and the handling of errors. Commands import heavy packages only when they run."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ctseg.cli import (
    architectures,
    compare,
    demo,
    doctor,
    evaluate,
    losses,
    plan,
    plugin_commands,
    plugins,
    predict,
    statistics,
    train,
    ui,
)
from ctseg.cli.data import app as data
from ctseg.cli.pictures import render, view
from ctseg.cli.signals import signals_raise
from ctseg.cli.zoo import app as zoo
from ctseg.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    CtsegError,
    CtsegWarning,
    DiskFull,
    FileProblem,
    RunFailed,
    Terminated,
)
from ctseg.plugins import owner_of
from ctseg.version import __version__

DEBUG = "--debug"


class Root(TyperGroup):
    """The root of the tree: accepts `--debug` anywhere, and turns errors into messages and exit codes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        if DEBUG in args[:end]:
            args = [DEBUG, *(arg for arg in args[:end] if arg != DEBUG), *args[end:]]
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)
        _hide_types(params)
        return params

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *plugin_commands.names(self.commands)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is None:
            return plugin_commands.stub(cmd_name)
        _walk(command, ctx)
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, plugin_commands.Stub):
            command = command.load()
            _walk(command, ctx)
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            with _warnings_said(), signals_raise():
                result = super().invoke(ctx)
                sys.stdout.flush()
            return result
        except Terminated as ended:
            ui.say(f"Ended by {ended.name}.")
            raise typer.Exit(ended.exit_code) from None
        except (KeyboardInterrupt, typer.Abort):  # Abort: Ctrl-C at a prompt
            ui.say("Interrupted.")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:  # the reader of a pipe, e.g. `head`, has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT_FAILED) from None
        except typer.Exit:
            raise
        except Exception as error:
            if hasattr(error, "format_message"):  # Typer's own usage errors
                raise
            _report(error, debug=bool(ctx.params.get("debug")))


@contextlib.contextmanager
def _warnings_said() -> Iterator[None]:
    """Show ctseg's own warnings as messages, each once; those of libraries stay as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", CtsegWarning)
        shown = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any
        ) -> None:
            if issubclass(category, CtsegWarning):
                ui.say(f"Warning: {message}")
            else:
                shown(message, category, *args, **kwargs)

        warnings.showwarning = show
        yield


def _walk(command: Any, ctx: Any) -> None:
    """Hide types such as `<bool>` in the help of a command and its subcommands."""
    _hide_types(command.get_params(ctx))
    for inner in getattr(command, "commands", {}).values():
        _walk(inner, ctx)


def _hide_types(params: list[Any]) -> None:
    """Hide the types of flags, which have no value, and of arguments, whose help describes them."""
    for param in params:
        if param.param_type_name == "argument":
            param.display_type_rich = _nothing
        elif getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""


def _nothing(ctx: Any) -> str:  # noqa: ARG001 - as Typer calls it
    return ""


def _report(error: Exception, *, debug: bool) -> NoReturn:
    if debug:
        ui.say("".join(traceback.format_exception(error)))
    known = error if isinstance(error, CtsegError) else _system_error(error)
    if known is not None:
        ui.say(f"Error: {known.message}", style="red")
        if known.hint:
            ui.say(f"  {known.hint}")
        raise typer.Exit(known.exit_code)
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    owner = owner_of(error)
    if owner is not None:
        ui.say(f"Error: The plugin {owner.owner} raised {text}", style="red")
        ui.say("  Tell its author, or uninstall it.")
    else:
        ui.say(f"Internal error: {text}", style="red")
    if not debug:
        ui.say("  Run again with --debug for the traceback.")
    raise typer.Exit(EXIT_FAILED)


def _system_error(error: Exception) -> CtsegError | None:
    """A full disk, missing permission or lack of memory as an error with a hint; None for any other exception."""
    if isinstance(error, OSError) and error.errno in (
        errno.ENOSPC,
        getattr(errno, "EDQUOT", errno.ENOSPC),
    ):
        where = f": {error.filename} could not be written" if error.filename else ""
        return DiskFull(
            f"The disk is full{where}.", hint="Free some space, or choose another folder."
        )
    if isinstance(error, PermissionError) and error.filename:
        return FileProblem(
            f"{error.filename} cannot be used: {error.strerror}.",
            hint="Change its permissions, or name another path.",
        )
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return RunFailed(
            "The memory did not suffice.",
            hint="Use --batch-size 1, or a smaller --patch (train) or --tile (predict).",
        )
    return None


app = typer.Typer(
    cls=Root,
    name="ctseg",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=ui.examples(
        "ctseg demo",
        "ctseg train DATA -o runs/first --fold 0 --time 20m",
        "ctseg predict scan.nii.gz -m runs/first -o mask.nii.gz",
        "ctseg zoo list",
    ),
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"ctseg {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error.")] = False,
) -> None:
    """Train, publish and run 3D segmentation models for CT: clinical scans and industrial micro-CT."""


app.command("demo", cls=demo.Command, epilog=ui.examples(*demo.EXAMPLES))(demo.demo)
app.command("plan", epilog=ui.examples(*plan.EXAMPLES))(plan.plan)
app.command("train", epilog=ui.examples(*train.EXAMPLES))(train.train)
app.command("predict", cls=predict.Command, epilog=ui.examples(*predict.EXAMPLES))(predict.predict)
app.command("evaluate", cls=evaluate.Command, epilog=ui.examples(*evaluate.EXAMPLES))(
    evaluate.evaluate
)
app.command("compare", epilog=ui.examples(*compare.EXAMPLES))(compare.compare)
app.command("statistics", epilog=ui.examples(*statistics.EXAMPLES))(statistics.statistics)
app.command("view", epilog=ui.examples(*view.EXAMPLES))(view.view)
app.command("render", epilog=ui.examples(*render.EXAMPLES))(render.render)
app.command("doctor", epilog=ui.examples(*doctor.EXAMPLES))(doctor.doctor)
app.add_typer(data.app, name="data")
app.add_typer(zoo.app, name="zoo")
app.add_typer(architectures.app, name="architectures")
app.add_typer(losses.app, name="losses")
app.add_typer(plugins.app, name="plugins")


def main() -> None:
    """The console entry point."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may not be encodable
        sys.stdout.reconfigure(errors="backslashreplace")
    app(prog_name="ctseg")
