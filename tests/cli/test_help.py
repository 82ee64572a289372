"""The command line starts light, and says what went wrong in the way every command shares."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ctseg.cli import app as cli
from ctseg.errors import BadInput, RunFailed

HEAVY = (
    "torch",
    "numpy",
    "timm",
    "SimpleITK",
    "h5py",
    "pydantic",
    "matplotlib",
    "scipy",
    "tifffile",
)


def _python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("args", [["--help"], ["zoo", "--help"], ["evaluate", "--help"]])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    # Typer itself checks the options of a command with pydantic
    heavy = [m for m in HEAVY if len(args) == 1 or m != "pydantic"]
    code = (
        "import sys\n"
        "from ctseg.cli.app import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        f"loaded = [m for m in {heavy} if m in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = _python(code, *args)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_importing_ctseg_imports_nothing_else() -> None:
    code = (
        "import sys, ctseg\n"
        "loaded = {'pluggy', 'inspect', 'numpy', 'torch', 'ctseg.specs'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "assert ctseg.hookimpl and 'pluggy' in sys.modules\n"
    )
    done = _python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_loading_a_model_imports_no_scipy() -> None:
    """Its packages take longer to import than a small scan takes to predict, and few steps need them."""
    code = (
        "import sys; from ctseg.zoo.load import load\n"
        "loaded = [m for m in ('scipy.ndimage', 'scipy.sparse', 'SimpleITK', 'h5py', 'timm') if m in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = _python(code)
    assert done.returncode == 0, done.stderr


def test_help_names_every_command_with_a_summary() -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert set(commands) == {
        "demo", "plan", "train", "predict", "evaluate", "compare", "statistics", "view", "render", "doctor",
        "data", "zoo", "architectures", "losses", "plugins",
    }  # fmt: skip
    result = CliRunner().invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    assert "ctseg train DATA" in result.stdout
    for name, command in commands.items():
        assert name in result.stdout
        assert command.help
        members = getattr(command, "commands", {"": command}).values()
        assert all(m.help and "Examples" in (m.epilog or "") for m in members), name


def test_version() -> None:
    import ctseg

    result = CliRunner().invoke(cli.app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"ctseg {ctseg.__version__}\n")


def test_a_misspelt_command_is_bad_usage_and_the_nearest_is_named() -> None:
    result = CliRunner().invoke(cli.app, ["evalute"])
    assert result.exit_code == 2
    assert "evaluate" in result.stderr


def _failing(error: BaseException) -> typer.Typer:
    app = typer.Typer(cls=cli.Root)
    app.callback()(cli.root)

    @app.command()
    def fail() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            BadInput("The label is odd.", hint="Mend [it]."),
            2,
            ["Error: The label is odd.", "Mend [it]."],
        ),
        (RunFailed("It broke."), 1, ["Error: It broke."]),
        (ValueError("two\nlines"), 1, ["Internal error: ValueError: two lines", "--debug"]),
        (KeyboardInterrupt(), 130, ["Interrupted"]),
        (typer.Abort(), 130, ["Interrupted"]),  # Ctrl-C where a question was asked
        (PermissionError(13, "Permission denied", "/a/run"), 2, ["Error: /a/run", "permissions"]),
        (OSError(28, "No space left on device"), 1, ["Error: The disk is full", "Free some"]),
        (MemoryError(), 1, ["Error: The memory", "--batch-size"]),
        (typer.Exit(7), 7, []),
    ],
)
def test_errors_become_one_message_and_an_exit_code(
    error: BaseException, code: int, words: list[str]
) -> None:
    result = CliRunner().invoke(_failing(error), ["fail"])
    assert result.exit_code == code
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("args", [["--debug", "fail"], ["fail", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(args: list[str]) -> None:
    result = CliRunner().invoke(_failing(BadInput("Odd.")), args)
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert "Error: Odd." in result.stderr


def test_a_closed_pipe_is_no_error() -> None:
    code = (
        "import typer, sys\n"
        "from ctseg.cli import app as cli, ui\n"
        "app = typer.Typer(cls=cli.Root)\n"
        "app.callback()(cli.root)\n"
        "@app.command()\n"
        "def flood() -> None:\n"
        "    for _ in range(100000):\n"
        "        ui.show('x' * 80)\n"
        "app(['flood'])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        complaint = process.stderr.read()
    assert complaint == b""
    assert process.returncode == 1


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes there")
@pytest.mark.parametrize(
    ("encoding", "more"), [("utf-8", []), ("cp1252", []), ("ascii", ["--json"])]
)
def test_names_that_the_output_cannot_encode_do_not_break_it(
    tmp_path: Path, encoding: str, more: list[str]
) -> None:
    zoo = os.fsencode(tmp_path) + b"/zo\xf6 \xe4\xb8\xad"  # Latin-1 beside Chinese
    Path(os.fsdecode(zoo)).symlink_to(Path(__file__).resolve().parents[2] / "zoo")
    done = subprocess.run(
        [sys.executable, "-m", "ctseg", "zoo", "list", "--zoo", zoo, *more],
        capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"unet3d.hippocampus_v1" in done.stdout
    if more:
        assert os.fsencode(json.loads(done.stdout)[0]["zoo"]) == zoo
