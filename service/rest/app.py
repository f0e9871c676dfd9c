"""The application: all routes, the middlewares around them, and how errors become responses."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp

from models.manifest import Manifest
from service.api import problems
from service.api.act import Answer, act, act_batch, etag
from service.api.open_inference.rest import HEADER_LENGTH
from service.api.schemas import (
    ActRequest,
    ActResponse,
    BatchRequest,
    BatchResponse,
    Health,
    Problem,
)
from service.auth.browsers import AllowedHosts
from service.inference.backends import BackendName
from service.observability.exposition import EXPOSITION_TYPE
from service.rest.admin import admin_router
from service.rest.beside import run_beside
from service.rest.docs import TAGS, DescribedApp, docs_routes, problem_responses, request_body
from service.rest.error_handlers import add_error_handlers
from service.rest.middleware.auth import AuthMiddleware
from service.rest.middleware.browsers import BrowserMiddleware
from service.rest.middleware.known_endpoints import KnownEndpointsMiddleware
from service.rest.open_inference import OpenInferenceEndpoints
from service.rest.page.routes import Page
from service.rest.request_body import read_body
from service.rest.responses import ObservedResponse, Outcome
from service.rest.shadow_act import shadow_act_router
from service.rest.stream import PATH as STREAM_PATH
from service.rest.stream import Stream
from service.rollout.reloader import Reloader
from service.settings import Settings
from service.state import ServiceState

Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]

IfMatch = Annotated[
    str | None,
    Header(description='answer only if the bundle served has this digest, in quotes: "sha256:…"'),
]


class ModelResponse(BaseModel):
    """The bundle that is being served."""

    digest: str
    backend: BackendName
    manifest: Manifest


def create_app(
    settings: Settings,
    service_state: ServiceState,
    reloader: Reloader,
    stream: Stream,
    lifespan: Lifespan,
    allowed_hosts: AllowedHosts,
) -> ASGIApp:
    """Return all endpoints as one ASGI application, which runs within `lifespan`."""
    app = DescribedApp(
        title="Upright",
        summary="Q-values and greedy actions of a CartPole policy.",
        version="1",
        openapi_tags=TAGS,
        # Else clients of the document, such as /docs, would ask beside a proxy's path.
        servers=[{"url": settings.root_path}] if settings.root_path else None,
        openapi_url=None,  # its own route makes the document beside the event loop
        docs_url=None,  # its own page loads its scripts from another host
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        # Traces, metrics and logs are the service's own: FastAPI's would miss the fast path.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        lifespan=lifespan,
    )
    add_error_handlers(app)

    # The routes themselves, for a router within the router costs each request 10 µs.
    app.router.routes.extend(
        [
            *_act_router(settings, service_state).routes,
            *OpenInferenceEndpoints(settings, service_state, reloader).routes(),
            *_monitoring_router(service_state).routes,
            *admin_router(service_state, reloader).routes,
            *shadow_act_router(settings, reloader).routes,
            *Page(settings, service_state, reloader).router().routes,
        ]
    )
    app.router.routes.append(WebSocketRoute(STREAM_PATH, stream))
    app.router.routes.extend(docs_routes(app))
    return BrowserMiddleware(
        _with_middleware(KnownEndpointsMiddleware(app), settings, service_state),
        settings,
        allowed_hosts,
    )


def _act_router(settings: Settings, service_state: ServiceState) -> APIRouter:
    """Return the routes that choose actions.

    Good requests to the two POSTs are answered by `service.server.fast_path`. These routes answer
    all others, and are what the fast path is held to.
    """
    router = APIRouter(tags=["Actions"])

    @router.post("/act", summary="Act on one state", **_documentation(ActRequest, ActResponse))
    async def act_on_state(request: Request, if_match: IfMatch = None) -> Response:
        """Answer one state with the Q-values and the greedy action."""
        policy = service_state.policy  # this request's own, whatever replaces it meanwhile
        body = await read_body(request, settings.max_body)
        return _answer_response(act(policy, body, if_match, strict=settings.refuse_out_of_range))

    @router.post(
        "/act/batch", summary="Act on several states", **_documentation(BatchRequest, BatchResponse)
    )
    async def act_on_states(request: Request, if_match: IfMatch = None) -> Response:
        """Answer several states at once. Each row is what /act would have answered."""
        policy = service_state.policy
        body = await read_body(request, settings.max_batch_body)
        return _answer_response(
            act_batch(
                policy,
                body,
                if_match,
                max_batch=settings.max_batch,
                strict=settings.refuse_out_of_range,
            )
        )

    @router.get(STREAM_PATH, include_in_schema=False)
    async def act_without_upgrade() -> None:
        """Answer a caller that did not ask for a WebSocket."""
        raise problems.upgrade_required(STREAM_PATH)

    return router


def _monitoring_router(service_state: ServiceState) -> APIRouter:
    """Return the routes that say what is served, how it is, and what it did."""
    router = APIRouter(tags=["Monitoring"])

    @router.get("/model", summary="Describe the bundle served")
    async def model(response: Response) -> ModelResponse:
        """Return the manifest of the bundle, its digest, and the backend that runs it."""
        policy = service_state.policy
        response.headers["ETag"] = etag(policy)
        return ModelResponse(
            digest=policy.bundle.digest,
            backend=policy.backend_name,
            manifest=policy.bundle.manifest,
        )

    @router.get("/health/live", summary="Is the process alive?")
    async def live() -> Health:
        """Answer while the process is alive."""
        return Health(status="live")

    @router.get(
        "/health/ready",
        responses=problem_responses({503: "The service is ending"}),
        summary="Does the service take requests?",
    )
    async def ready() -> Health:
        """Answer while a self-tested policy is loaded and the service is not draining."""
        if service_state.draining:
            raise problems.not_ready(
                "The service is ending: it still answers, but send requests to another"
            )
        return Health(status="ready")

    @router.get("/metrics", response_class=PlainTextResponse, summary="Metrics for Prometheus")
    async def metrics() -> Response:
        """Return what was answered, how fast, and which actions were chosen.

        The numbers are the sum over all processes of the service.
        """
        text = await run_beside(service_state.exposition)
        return Response(text, media_type=EXPOSITION_TYPE)

    return router


def _documentation(request: type[BaseModel], response: type[BaseModel]) -> dict[str, Any]:
    """Return what the OpenAPI document says of a route that reads its body by itself.

    The body is validated from its bytes, whatever its content type says: some clients of this
    service send none.
    """
    refusals = {
        400: "The body is not JSON",
        412: "Another bundle is served",
        413: "The body is too large",
        422: "The body is not of the schema, or a state is outside what training saw",
    }
    return {
        "response_model": response,
        "openapi_extra": request_body(request.model_json_schema()),
        "responses": problem_responses(refusals) | {500: {"model": Problem}},
    }


def _with_middleware(app: ASGIApp, settings: Settings, service_state: ServiceState) -> ASGIApp:
    if service_state.keys is not None:
        app = AuthMiddleware(app, service_state.keys, service_state.metrics)
    if not settings.cors_origin:
        return app

    # Around the keys: a browser sends no key when it asks whether a page may call.
    return CORSMiddleware(
        app,
        allow_origins=settings.cors_origin,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "If-Match", "X-Request-ID", HEADER_LENGTH],
        expose_headers=["ETag", "Server-Timing", "X-Request-ID", HEADER_LENGTH],
    )


def _answer_response(answer: Answer) -> Response:
    content, headers, inference = answer
    outcome = Outcome(inference)
    return ObservedResponse(content, HTTPStatus.OK, headers, problems.JSON, outcome)
