"""The application: settings and a loaded policy in, an ASGI application out. The one place that knows routes."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Header, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp

from models.bundle import Manifest
from service.api import act as answers
from service.api import problems
from service.api.act import Answer
from service.api.problems import ProblemError, RawHeader
from service.api.schemas import (
    ActRequest,
    ActResponse,
    BatchRequest,
    BatchResponse,
    Health,
    Problem,
)
from service.inference.policy import BackendName, Policy
from service.observability.metrics import EXPOSITION_TYPE
from service.observability.request_ids import RequestIds
from service.observability.request_log import RequestLog
from service.rest import admin as operations
from service.rest import docs as pages
from service.rest import request_body as bodies
from service.rest import shadow_act
from service.rest.auth_middleware import Guard
from service.rest.docs import Described
from service.rest.open_inference import HEADER_LENGTH, OpenInference
from service.rest.page import Page
from service.rest.request_body import ClientGoneError
from service.rest.stream import PATH, Stream
from service.rollout.bundle_store import Shelf
from service.rollout.reloader import Reloader
from service.server.fast_path import Lanes
from service.settings import Settings
from service.state import ServiceState


class ModelResponse(BaseModel):
    """The bundle that is being served."""

    digest: str
    backend: BackendName
    manifest: Manifest


PATH_SHOWN = 200  # characters
IfMatch = Annotated[
    str | None,
    Header(description='answer only if the bundle served has this digest, in quotes: "sha256:…"'),
]


def create_app(
    settings: Settings,
    service_state: ServiceState,
    *,
    shadow: Policy | None = None,
    bundle_store: Shelf | None = None,
) -> Lanes:
    """Return the service's ASGI application."""
    ids = RequestIds()
    log = RequestLog(
        lambda: service_state.policy.bundle.digest,
        every=settings.log_requests,
        states=settings.log_states,
    )
    reloader = Reloader(settings, service_state, shadow, bundle_store)
    app = Described(
        title="Upright",
        summary="Q-values and greedy actions of a CartPole policy.",
        version="1",
        docs_url=None,  # its own page loads its scripts from another host
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        # Traces, metrics and logs are the service's own; FastAPI's would know nothing of the fast lane.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        lifespan=lambda _: _living(settings, service_state, reloader, log),
    )
    app.add_exception_handler(ProblemError, _answer_problem)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(Exception, _answer_failure)
    app.add_exception_handler(ClientGoneError, _answer_nobody)  # type: ignore[arg-type] # Starlette sends nothing for None

    # Good requests to these two take the fast lane in `service.server.server.fast_path`; these routes are what it is documented by and held to.
    @app.post("/act", **_door(ActRequest, ActResponse))
    async def act(request: Request, if_match: IfMatch = None) -> Response:
        """Answer one state with the Q-values and the greedy action."""
        policy = service_state.policy  # this request's own, whatever replaces it meanwhile
        return _respond(
            request, answers.act(policy, await bodies.read(request, settings.max_body), if_match)
        )

    @app.post("/act/batch", **_door(BatchRequest, BatchResponse))
    async def act_batch(request: Request, if_match: IfMatch = None) -> Response:
        """Answer several states at once. Each row is what /act would have answered."""
        policy = service_state.policy
        body = await bodies.read(request, settings.max_batch_body)
        return _respond(
            request, answers.act_batch(policy, body, if_match, max_batch=settings.max_batch)
        )

    @app.get("/model")
    async def model(response: Response) -> ModelResponse:
        """Describe the bundle that is served: its manifest, its digest, the backend that runs it."""
        policy = service_state.policy
        response.headers["ETag"] = answers.etag(policy)
        return ModelResponse(
            digest=policy.bundle.digest,
            backend=policy.backend_name,
            manifest=policy.bundle.manifest,
        )

    @app.get("/health/live")
    async def live() -> Health:
        """Answer while the process is alive."""
        return Health(status="live")

    @app.get("/health/ready")
    async def ready() -> Health:
        """Answer while a self-tested policy is loaded and the service is not draining."""
        if service_state.draining:
            raise problems.not_ready(
                "The service is ending: it still answers, but send requests to another"
            )
        return Health(status="ready")

    @app.get("/metrics", response_class=PlainTextResponse)
    async def expose_metrics() -> Response:
        """Tell Prometheus what was answered, how fast, and which actions were chosen, by all processes together."""
        return Response(service_state.exposition(), media_type=EXPOSITION_TYPE)

    @app.get(PATH, include_in_schema=False)
    async def not_a_stream() -> None:
        """Tell a caller that did not ask for a WebSocket."""
        raise problems.upgrade_required(PATH)

    channels = Stream(settings, service_state, ids)
    app.include_router(operations.doors(service_state, reloader))
    app.router.routes.append(WebSocketRoute(PATH, channels))
    app.router.routes.extend(OpenInference(settings, service_state, reloader).routes())
    app.router.routes.extend(pages.routes(app))
    app.router.routes.extend(Page(settings, service_state, reloader).routes())
    app.router.routes.extend(shadow_act.routes(settings, reloader))
    guarded: ASGIApp = (
        app if service_state.keys is None else Guard(app, service_state.keys, service_state.metrics)
    )
    if (
        settings.cors_origin
    ):  # around the guard: a browser sends no key with its question whether it may
        guarded = CORSMiddleware(
            guarded,
            allow_origins=settings.cors_origin,
            allow_methods=["GET", "POST"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "If-Match",
                "X-Request-ID",
                HEADER_LENGTH,
            ],
            expose_headers=["ETag", "Server-Timing", "X-Request-ID", HEADER_LENGTH],
        )
    return Lanes(guarded, settings, service_state, ids, channels)


@asynccontextmanager
async def _living(
    settings: Settings, service_state: ServiceState, reloader: Reloader, log: RequestLog
) -> AsyncIterator[None]:
    """Hold what lives as long as the application does. What is named first ends last."""
    async with AsyncExitStack() as stack:
        if settings.tracing:
            from service.observability import (
                tracing,  # needs the extra, which most have not installed
            )

            await stack.enter_async_context(
                tracing.traced(
                    service_state.observers, log, "http" if settings.tls_cert is None else "https"
                )
            )
        else:
            service_state.observers.observe_requests(log, all_requests=settings.log_requests)
        if settings.record is not None:
            from service.records.recorder import (
                recording,  # needs SQLite, which takes time to import
            )

            stack.enter_context(recording(settings.record, settings, service_state.observers))
        await stack.enter_async_context(reloader.running())
        await stack.enter_async_context(grpc_door(settings, service_state, reloader))
        yield


@asynccontextmanager
async def grpc_door(
    settings: Settings, service_state: ServiceState, reloader: Reloader
) -> AsyncIterator[None]:
    """Answer gRPC too for as long as the application runs, if the settings name a port for it."""
    if settings.grpc_port is None:
        yield
        return
    from service.grpc import server as grpc_server  # needs the extra, which most have not installed

    async with grpc_server.serving(settings, service_state, reloader):
        yield


def _door(request: type[BaseModel], response: type[BaseModel]) -> dict[str, Any]:
    """Return what the OpenAPI document says of a door that reads its body by itself.

    The body is validated from its bytes, whatever its content type says: some clients of this service send none.
    """
    refusals = {
        400: "The body is not JSON",
        412: "Another bundle is served",
        413: "The body is too large",
        422: "The body is not of the schema",
    }
    problem = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        "response_model": response,
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": request.model_json_schema()}},
            },
        },
        "responses": {
            status: {"description": text, "content": problem} for status, text in refusals.items()
        }
        | {500: {"model": Problem}},
    }


def _respond(request: Request, answer: Answer) -> Response:
    body, headers, request.state.inference = (
        answer  # the lane counts the inference, once the answer is on its way
    )
    return _response(body, 200, headers, "application/json")


def _response(body: bytes, status: int, headers: Sequence[RawHeader], media_type: str) -> Response:
    return Response(
        body,
        status,
        {name.decode("latin-1"): value.decode("latin-1") for name, value in headers},
        media_type,
    )


async def _answer_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)  # noqa: S101 - registered for this class
    if error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        request.state.failure = error  # the lane logs it
    return _response(error.body, error.status, error.headers, problems.MEDIA_TYPE)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    status = HTTPStatus(error.status_code)
    detail = (
        f"{request.method} {request.url.path[:PATH_SHOWN]}: {status.description or status.phrase}"
    )
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in (error.headers or {}).items()
    ]
    return await _answer_problem(
        request,
        ProblemError(status, status.phrase.lower().replace(" ", "-"), detail, headers=headers),
    )


async def _answer_failure(_: Request, __: Exception) -> Response:
    error = problems.internal_error()  # Starlette raises again what it was, and the lane logs that
    return _response(error.body, error.status, error.headers, problems.MEDIA_TYPE)


async def _answer_nobody(_: Request, __: Exception) -> None:
    """Send nothing: the client has gone, and that is no failure of the service."""
