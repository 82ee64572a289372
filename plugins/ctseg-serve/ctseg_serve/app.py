"""The service: its routes, and what becomes of a request."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from ctseg.engine.inference.model import Model
from ctseg.engine.prediction.case_job import as_error
from ctseg.errors import CtsegError, UnknownName
from ctseg.version import __version__
from ctseg_serve.jobs import Job, JobQueue, Stopped
from ctseg_serve.keys import Keys
from ctseg_serve.limits import Limits
from ctseg_serve.metrics import MEDIA_TYPE, Metrics
from ctseg_serve.pages import DOCS, OPENAPI, PREDICT, add_pages
from ctseg_serve.predict import MEDIA_TYPES, Predicted, Wanted, check_wanted, predict
from ctseg_serve.problems import Problem, problem_of, without_paths
from ctseg_serve.receive import receive
from ctseg_serve.send import MaskResponse, notes_header

CLIENT_GONE = 499
"""Status in metrics and log for clients that left before their response; no client sees it."""


@dataclass
class Service:
    """A model and what it needs to answer requests.

    Attributes:
        model: predicts one scan at a time.
        name: of the model, as clients see it.
        root: folder for uploads and results.
        keys: None if every client is served.
        on_say: called with one line about each request.
    """

    model: Model
    name: str
    root: Path
    limits: Limits = field(default_factory=Limits)
    keys: Keys | None = None
    on_say: Callable[[str], None] = print

    def __post_init__(self) -> None:
        self.queue = JobQueue(self.root, self.limits)
        runtime = self.model.runtime
        self.metrics = Metrics(
            {"version": __version__, "model": self.name, "device": str(runtime.device),
             "precision": runtime.precision}
        )  # fmt: skip

    async def answer(self, request: Request, wanted: Wanted) -> Response:
        """Receive, predict, and return the response that streams the label map.

        Raises:
            Problem: for whatever reason there is no label map.
        """
        try:
            check_wanted(self.model, wanted)
        except CtsegError as error:
            raise problem_of(error, self.root) from error
        job = self.queue.enter()
        try:
            made = await self._predict(job, request, wanted)
            notes = [without_paths(note, job.folder) for note in made.notes]
            self._say(job, "200", f"{job.seconds:.2f} s", f"{len(notes)} notes" if notes else "")
            return MaskResponse(
                job, made.path, MEDIA_TYPES[wanted.format], self._headers(job, notes), self.limits
            )
        except Problem as problem:
            self._say(job, str(problem.status), problem.detail if problem.status != 422 else "")
            response: Response = problem.response(job.id)
        except (Stopped, ClientDisconnect):
            self._say(job, str(CLIENT_GONE), "the client is gone")
            response = Response(status_code=CLIENT_GONE)
        except BaseException:
            job.leave()
            raise
        job.leave()
        return response

    async def _predict(self, job: Job, request: Request, wanted: Wanted) -> Predicted:
        try:
            upload = await receive(request, job.folder, self.limits)
            self.metrics.received_bytes += upload.stat().st_size
            work = partial(predict, self.model, upload, wanted, limits=self.limits, check=job.check)
            made = await self.queue.run(job, work, _disconnected(request))
        except (Problem, ClientDisconnect):
            raise
        except Exception as error:
            problem = problem_of(as_error(error, job.folder), job.folder)
            if problem.status >= 500:
                self._say(job, "".join(traceback.format_exception(error)))
            raise problem from error
        except asyncio.CancelledError:
            if job.future is not None or not self.queue.stopping:
                raise
            if job.task is not None:
                job.task.uncancel()  # by JobQueue.stop, while the scan was received
            raise self.queue.stopping_problem() from None
        self.metrics.predicted(job.seconds)
        return made

    def _headers(self, job: Job, notes: list[str]) -> dict[str, str]:
        model = quote(self.name, safe=" ._-+")  # headers are ASCII
        return {"Ctseg-Job": job.id, "Ctseg-Model": model, "Ctseg-Notes": notes_header(notes)}

    def _say(self, job: Job, *texts: str) -> None:
        self.on_say("  ".join([f"job {job.id}", *filter(None, texts)]))


def make_app(service: Service) -> FastAPI:
    """The application of a service."""
    app = FastAPI(
        title="ctseg serve", version=__version__, docs_url=None, redoc_url=None, openapi_url=OPENAPI,
        summary=f"Label maps of scans, predicted by {service.name}",
    )  # fmt: skip
    app.state.service = service
    app.add_middleware(_Counted, metrics=service.metrics)
    _handle_errors(app)

    @app.post("/predict", dependencies=[Depends(_authorise)], **PREDICT)
    async def predict(request: Request, wanted: Annotated[Wanted, Query()]) -> Response:
        """Predict a scan, which is the body of the request, and return its label map."""
        return await service.answer(request, wanted)

    @app.get("/health/live", tags=["health"])
    async def live() -> dict[str, bool]:
        """Whether the process answers."""
        return {"live": True}

    @app.get("/health/ready", tags=["health"], responses={503: {"description": "stopping"}})
    async def ready() -> JSONResponse:
        """Whether requests are admitted. A full queue is ready: it answers 503 with Retry-After."""
        ready = not service.queue.stopping
        return JSONResponse({"ready": ready, "model": service.name}, 200 if ready else 503)

    @app.get("/metrics", dependencies=[Depends(_authorise)], response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Counters in Prometheus' text format."""
        running = int(service.queue.running is not None)
        waiting = len(service.queue.jobs) - running
        text = service.metrics.text(waiting=max(waiting, 0), running=running)
        return PlainTextResponse(text, media_type=MEDIA_TYPE)

    add_pages(app)
    return app


_bearer = HTTPBearer(auto_error=False, description="A key of the server's key file, if it has one.")


def _authorise(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    keys = request.app.state.service.keys
    if keys is not None and (given is None or not keys.accept(given.credentials)):
        raise Problem(
            401,
            "The request has no key that this server accepts.",
            hint="Send the header Authorization: Bearer KEY",
            headers={"WWW-Authenticate": "Bearer"},
        )


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _handle_errors(app: FastAPI) -> None:
    """All errors as problems, in one form."""

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        known = {404: "There is no such page.", 405: "This page has no such method."}
        detail = known.get(error.status_code, str(error.detail))
        hint = f"The pages are listed at {DOCS} and {OPENAPI}."
        return Problem(error.status_code, detail, hint=hint, headers=error.headers).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first: dict[str, Any] = error.errors()[0]
        name = str(first["loc"][-1])
        if first["type"] == "extra_forbidden":
            unknown = UnknownName("query parameter", name, Wanted.model_fields)
            return Problem(400, unknown.message, hint=unknown.hint).response()
        return Problem(400, f"The query parameter {name} is wrong: {first['msg']}.").response()

    @app.exception_handler(Exception)
    async def internal(request: Request, _: Exception) -> Response:
        if request.url.path == "/predict":  # answered outside of `_Counted`
            request.app.state.service.metrics.responded(500)
        return Problem(500, "The server failed; the cause is in its log.").response()


class _Counted:
    """Counts responses of `/predict` by status."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.responded(message["status"])
            await send(message)

        counted = scope["type"] == "http" and scope["path"] == "/predict"
        await self._app(scope, receive, counting if counted else send)
