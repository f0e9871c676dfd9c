"""How the service describes itself: the OpenAPI document, and /docs with all that it loads.

Nothing is loaded from another host, so /docs works without the internet. Its security policy lets a
browser run nothing but what is served here.
"""

import base64
import re
from collections.abc import Callable, Coroutine, Mapping
from hashlib import sha256
from importlib import resources
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from service.api import problems
from service.api.open_inference.schemas import (
    InferRequest,
    LoadRequest,
    OpenInferenceErrorResponse,
    RepositoryRequest,
)
from service.endpoints import endpoint_of
from service.rest.beside import run_beside
from service.rest.responses import is_open_inference

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Responses = dict[int | str, dict[str, Any]]  # as FastAPI takes them

PATH = "/docs"
DOCUMENT_PATH = "/openapi.json"
FILES = {  # of the package fastapi_swagger, which holds Swagger UI as it is published
    "swagger-ui-bundle.js": "swagger-ui-bundle.js",
    "swagger-ui.css": "swagger-ui.css",
    "favicon.png": "favicon-32x32.png",
}
NO_SNIFFING = {"X-Content-Type-Options": "nosniff"}
TAGS = [
    {"name": "Actions", "description": "States in, Q-values and greedy actions out."},
    {"name": "Monitoring", "description": "What is served, how it is, and what it did."},
    {"name": "Operation", "description": "Changing what is served."},
    {
        "name": "Open Inference Protocol v2",
        "description": "What clients of Triton, KServe and MLServer speak.",
    },
]

_SCHEMAS = "#/components/schemas"
_PROBLEM_CONTENT = {problems.MEDIA_TYPE: {"schema": {"$ref": f"{_SCHEMAS}/Problem"}}}
_OPEN_INFERENCE_CONTENT = {
    "application/json": {"schema": {"$ref": f"{_SCHEMAS}/OpenInferenceErrorResponse"}}
}
_KEY_SCHEME = "key"
_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_REFERENCED_REQUESTS: list[type[BaseModel]] = [InferRequest, LoadRequest, RepositoryRequest]


class DocumentedRoute(Route):
    """A route whose handler takes the request and returns the response, with nothing between.

    What the OpenAPI document says of it is kept as the arguments of FastAPI's own route, which is
    made when the document is asked for: it costs a start some milliseconds, and a request 20 µs.
    """

    def __init__(
        self, path: str, handler: Handler, method: str, documentation: Mapping[str, Any]
    ) -> None:
        super().__init__(path, handler, methods=[method])
        self.methods = {method}  # without the HEAD that Starlette adds to GET
        self._documentation = documentation

    def documented(self) -> APIRoute:
        """Return the route as the OpenAPI document needs it."""
        return APIRoute(self.path, self.endpoint, methods=self.methods, **self._documentation)


class DescribedApp(FastAPI):
    """An application whose OpenAPI document says which key each endpoint needs."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self.openapi_schema is None:
            document = get_openapi(
                title=self.title,
                version=self.version,
                summary=self.summary,
                routes=[
                    route.documented() if isinstance(route, DocumentedRoute) else route
                    for route in self.routes
                ],
                tags=self.openapi_tags,
                servers=self.servers,
                separate_input_output_schemas=self.separate_input_output_schemas,
            )
            _add_request_schemas(document)
            _add_keys(document)
            self.openapi_schema = document
        return self.openapi_schema

    def document(self) -> bytes:
        """Return the OpenAPI document as JSON. It takes 0.1 s the first time."""
        return to_json(self.openapi())


def problem_responses(descriptions: Mapping[int, str]) -> Responses:
    """Return what a route's `responses` say of problems, by status."""
    return {
        status: {"description": text, "content": _PROBLEM_CONTENT}
        for status, text in descriptions.items()
    }


def open_inference_responses(descriptions: Mapping[int, str]) -> Responses:
    """Return what a route's `responses` say of Open Inference errors, by status."""
    return {
        status: {"description": text, "model": OpenInferenceErrorResponse}
        for status, text in descriptions.items()
    }


def request_body(schema: dict[str, Any], *, is_required: bool = True) -> dict[str, Any]:
    """Return what the OpenAPI document says of a route that reads its body by itself."""
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": is_required, "content": content}}


def reference(model: type[BaseModel]) -> dict[str, Any]:
    """Return a reference to the schema of a request, which the document holds once."""
    assert model in _REFERENCED_REQUESTS  # noqa: S101 - our own invariant: else it leads nowhere
    return {"$ref": f"{_SCHEMAS}/{model.__name__}"}


def docs_routes(app: DescribedApp) -> list[BaseRoute]:
    """Return the routes of the document and of /docs.

    The page names what it loads relative to itself, since a proxy may show it below a path.
    """
    page = get_swagger_ui_html(
        openapi_url=DOCUMENT_PATH[1:],
        title=f"{app.title}: its endpoints",
        swagger_js_url=f"{PATH[1:]}/swagger-ui-bundle.js",
        swagger_css_url=f"{PATH[1:]}/swagger-ui.css",
        swagger_favicon_url=f"{PATH[1:]}/favicon.png",
        # Swagger UI would send the document's address to a host of its own makers.
        swagger_ui_parameters={"validatorUrl": None},
    ).body
    headers = _page_headers(bytes(page))

    async def document(_: Request) -> Response:
        return Response(await run_beside(app.document), media_type="application/json")

    async def docs(_: Request) -> Response:
        return Response(page, headers=headers, media_type="text/html")

    return [
        Route(DOCUMENT_PATH, document),
        Route(PATH, docs),
        *(Route(f"{PATH}/{name}", _file_endpoint(source)) for name, source in FILES.items()),
    ]


def _add_request_schemas(document: dict[str, Any]) -> None:
    """Add the schemas of requests that routes refer to: FastAPI does not see them."""
    _, schemas = models_json_schema(
        [(model, "validation") for model in _REFERENCED_REQUESTS],
        ref_template=f"{_SCHEMAS}/{{model}}",
    )
    document["components"]["schemas"] |= schemas["$defs"]


def _add_keys(document: dict[str, Any]) -> None:
    """Say of each endpoint which scope a key needs for it, and how a request without is refused."""
    document["components"]["securitySchemes"] = {
        _KEY_SCHEME: {
            "type": "http",
            "scheme": "bearer",
            "description": "asked for only where the service runs with --keys",
        }
    }
    refusals = {
        "401": "The key is missing or not known here",
        "403": "The key is for something else",
    }
    for path, operations in document["paths"].items():
        scope = endpoint_of(path).scope
        if scope is None:
            continue
        content = _OPEN_INFERENCE_CONTENT if is_open_inference(path) else _PROBLEM_CONTENT
        for operation in operations.values():
            operation["security"] = [{}, {_KEY_SCHEME: [scope]}]
            for status, text in refusals.items():
                operation["responses"][status] = {"description": text, "content": content}


def _page_headers(page: bytes) -> dict[str, str]:
    """Return the headers of the page; they allow its own inline scripts, by their hashes."""
    hashes = [f"'sha256-{_hash(script)}'" for script in _INLINE_SCRIPT.findall(page)]
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(["'self'", *hashes]),
        "style-src": "'self' 'unsafe-inline'",  # Swagger UI sets styles by itself
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return NO_SNIFFING | {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
    }


def _file_endpoint(source: str) -> Handler:
    async def file(_: Request) -> Response:
        with resources.as_file(resources.files("fastapi_swagger") / "resources" / source) as path:
            return FileResponse(path, headers=NO_SNIFFING)

    return file


def _hash(script: bytes) -> str:
    return base64.b64encode(sha256(script).digest()).decode()
