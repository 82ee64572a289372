"""How the service describes itself: OpenAPI, and a page of it that needs no scripts from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response

from ctseg_serve.predict import MEDIA_TYPES
from ctseg_serve.problems import MEDIA_TYPE

DOCS, OPENAPI = "/docs", "/openapi.json"
_FILE = {"schema": {"type": "string", "format": "binary"}}
_PROBLEM = {
    "schema": {
        "type": "object",
        "required": ["title", "status", "detail"],
        "properties": {
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "the problem in one sentence"},
            "hint": {"type": "string", "description": "what to do about it"},
            "job": {"type": "string", "description": "number in the server's log"},
        },
    }
}
_HEADERS = {
    "Ctseg-Notes": (
        "What may make the label map wrong, and what was changed on the way: a JSON array of sentences, [] if there is "
        "nothing to say."
    ),
    "Ctseg-Model": "Name of the model, percent-encoded.",
    "Ctseg-Job": "Number in the server's log.",
}
_STATUSES = {
    400: "a wrong query parameter, or no body",
    401: "no accepted key",
    408: "the scan arrived too slowly",
    413: "the scan is larger than the server takes",
    415: "the body is no NIfTI, zip or DICOM file",
    422: "the scan is damaged or does not suit the model, or a label does not exist",
    500: "the prediction failed",
    503: "the queue is full or the server is stopping; Retry-After tells when to come back",
    504: "the prediction took longer than the server allows",
    507: "the server's disk is full",
}
PREDICT: dict[str, Any] = {
    "summary": "Predict a scan",
    "response_class": Response,
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "description": "A NIfTI file, a zip of a DICOM series, or a multi-frame DICOM file.",
            "content": {"application/octet-stream": _FILE},
        }
    },
    "responses": {
        200: {
            "description": "the label map, on the grid of the scan",
            "content": dict.fromkeys(MEDIA_TYPES.values(), _FILE),
            "headers": {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in _HEADERS.items()
            },
        },
        **{
            status: {"description": text, "content": {MEDIA_TYPE: _PROBLEM}}
            for status, text in _STATUSES.items()
        },
    },
}
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{text-align:left;padding:.2rem 1rem .2rem 0;vertical-align:top}"
    "code{white-space:nowrap;background:#8882;padding:.1rem .3rem}"
)


def add_pages(app: FastAPI) -> None:
    """Add the page to an application whose other routes are complete."""

    @app.get(DOCS, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse("".join(_page(app.openapi())))


def _page(document: dict[str, Any]) -> Iterator[str]:
    info = document["info"]
    title = html.escape(info["title"])
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
    yield f"<h1>{title} {html.escape(info['version'])}</h1><p>{html.escape(info.get('summary', ''))}"
    yield f"<p>The same for programs: <a href={OPENAPI}>{OPENAPI}</a>"
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            yield f"<h2>{method.upper()} <code>{html.escape(path)}</code></h2>"
            yield f"<p>{html.escape(route.get('description') or route.get('summary', ''))}"
            body = route.get("requestBody", {}).get("description")
            if body:
                yield f"<p>Body: {html.escape(body)}"
            yield from _table("Query parameter", _parameters(route))
            yield from _table("Response", _responses(route))


def _parameters(route: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for one in route.get("parameters", ()):
        schema = one.get("schema", {})
        choices = " | ".join(schema.get("enum", ()))
        default = schema.get("default")
        text = one.get("description") or schema.get("description", "")
        more = [choices and f"({choices})", f"Default: {default}." if default else ""]
        yield one["name"], " ".join([text, *filter(None, more)])


def _responses(route: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for status, response in route.get("responses", {}).items():
        yield status, response.get("description", "")
        for name, header in response.get("headers", {}).items():
            yield name, header.get("description", "")


def _table(head: str, rows: Iterator[tuple[str, str]]) -> Iterator[str]:
    listed = list(rows)
    if listed:
        yield f"<table><tr><th>{head}<th>"
        for name, text in listed:
            yield f"<tr><td><code>{html.escape(name)}</code><td>{html.escape(text)}"
        yield "</table>"
