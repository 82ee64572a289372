"""`ctseg serve`: one model as an HTTP service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctseg.cli import ui
from ctseg.cli.options import completion

LOCAL = ("localhost", "::1")


def serve(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Zoo name or path.", show_default=False,
            autocompletion=completion.models,
        ),
    ],
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option("--port", metavar="N", min=0, max=65535, help="Port; 0 takes a free one."),
    ] = 8000,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", metavar="FILE", help="Keys of clients, one on each line."),
    ] = None,
    max_size: Annotated[
        str,
        typer.Option("--max-size", metavar="SIZE", help="Largest scan, packed and unpacked."),
    ] = "4G",
    queue: Annotated[
        int, typer.Option("--queue", metavar="N", min=0, help="Requests that may wait.")
    ] = 16,
    time_limit: Annotated[
        float,
        typer.Option("--time-limit", metavar="SECONDS", min=1, help="Longest prediction."),
    ] = 600,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="Memory limit, e.g. 8G.")
    ] = None,
    scratch: Annotated[
        Path | None,
        typer.Option("--scratch", metavar="FOLDER", help="Folder for uploads and results."),
    ] = None,
    device: ui.DeviceOption = "auto",
    precision: ui.PrecisionOption = "auto",
    zoo: ui.ZooOption = None,
) -> None:  # fmt: skip
    """Serve a model over HTTP: POST /predict takes a scan and returns its label map."""
    from ctseg.engine.inference.memory.fit import parse_size
    from ctseg.errors import BadInput
    from ctseg_serve.app import Service
    from ctseg_serve.keys import Keys
    from ctseg_serve.limits import Limits
    from ctseg_serve.model import open_model
    from ctseg_serve.scratch import scratch_root
    from ctseg_serve.server import listen, run

    keys = None if key_file is None else Keys.read(key_file)
    if keys is None and not (host in LOCAL or host.startswith("127.")):
        raise BadInput(
            f"Without keys, anybody who reaches {host} could use this server.",
            hint="Make a key: openssl rand -hex 32 > key.txt, and name it: --key-file key.txt",
        )
    limits = Limits(
        parse_size(max_size), queue, time_limit,
        memory=None if memory is None else parse_size(memory),
    )  # fmt: skip
    ui.check_zoo(zoo)
    with listen(host, port) as listening, scratch_root(scratch) as root:
        loaded = open_model(model, device=device, precision=precision, zoo=zoo, on_say=ui.say)
        name = loaded.card.name or Path(model).resolve().name
        service = Service(loaded, name, root, limits, keys, ui.say)
        shown = f"[{host}]" if ":" in host else host
        ui.say(f"Serving {name} on {loaded.runtime.describe()}")
        ui.show(f"http://{shown}:{listening.getsockname()[1]}")
        run(service, listening, ui.say)
    ui.say("Stopped.")
