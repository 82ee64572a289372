"""`ctseg doctor`: checks this installation."""

from __future__ import annotations

import typer

from ctseg.cli import ui

EXAMPLES = ("ctseg doctor", "ctseg doctor --json")
MARKS = {"ok": "ok", "warning": "look", "failed": "FAILED"}


def doctor(as_json: ui.JsonOption = False) -> None:
    """Check packages, devices, memory, plugins and zoos, and predict a tiny scan.

    Exit code 1 if something essential fails.
    """
    from ctseg.cli.checks import examine

    findings = examine()
    if as_json:
        ui.print_json(findings)
    else:
        ui.table(
            ("about", "check", "", "found"),
            [(f.area, f.check, MARKS[f.state], f.found) for f in findings],
            prose=("found",),
            keys=2,
        )
    failed = [f for f in findings if f.state == "failed"]
    for finding in failed:
        ui.say(f"Error: {finding.area}, {finding.check}: {finding.found}", style="red")
        if finding.hint:
            ui.say(f"  {finding.hint}")
    if failed:
        raise typer.Exit(1)
