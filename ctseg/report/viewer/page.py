"""One HTML file with a scan, label maps and NiiVue in it, which opens without a network."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from ctseg.errors import BadInput
from ctseg.files import write_text
from ctseg.report.display import Display
from ctseg.report.extras import missing
from ctseg.report.viewer.data import page_data
from ctseg.version import __version__
from ctseg.volume.file_names import names_apart

EXTRA = "view"


def write_page(display: Display, html: Path, *, title: str, compare: bool = False) -> None:
    """Write the page.

    Args:
        title: heading of the page.
        compare: whether to show the difference of the first and the last label map.

    Raises:
        BadInput: a package of the extra `view` is not installed.
        FileProblem: the page cannot be written.
    """
    here = files("ctseg.report.viewer")
    parts = {
        "TITLE": escape(title),
        "VERSION": __version__,
        "STYLE": (here / "page.css").read_text("utf-8"),
        "NIIVUE": niivue_script(),
        # `<` would end the element early if a name contains `</script>`
        "DATA": json.dumps(
            page_data(display, extra=EXTRA, compare=compare), allow_nan=False
        ).replace("<", "\\u003c"),
        "SCRIPT": (here / "page.js").read_text("utf-8"),
    }
    text = (here / "page.html").read_text("utf-8")
    write_text(html, re.sub(r"@@([A-Z]+)@@", lambda match: parts[match[1]], text))


def niivue_script() -> str:
    """NiiVue's code from the installed package ipyniivue, with its class as `globalThis.Niivue`.

    The package's bundle exports only a notebook widget; its class is found by the place where the widget creates it.

    Raises:
        BadInput: ipyniivue is not installed, or its bundle has another form.
    """
    package = find_spec("ipyniivue")  # importing it would import all of Jupyter's widgets
    if package is None or package.origin is None:
        raise missing("ipyniivue", EXTRA)
    bundle = Path(package.origin).parent / "static" / "widget.js"
    try:
        text = bundle.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{bundle} cannot be read: {error.strerror}.") from error
    name = re.search(r"Creating new Niivue instance.{0,200}?=new ([\w$]+)\(", text, re.DOTALL)
    export = re.search(r"export\s*\{[^{}]*\};?\s*$", text)
    if name is None or export is None or "</script" in text.lower():
        raise BadInput(
            f"{bundle} is a NiiVue of a form that ctseg does not know.",
            hint="Install the version that ctseg is tested with: pip install ipyniivue==2.4.4",
        )
    return f"{text[: export.start()]}globalThis.Niivue={name[1]};"


def page_title(scan: Path, masks: Sequence[Path]) -> str:
    """Names of the files shown, with folders where maps have the same name."""
    return scan.name if not masks else f"{scan.name}: {', '.join(names_apart(masks))}"
