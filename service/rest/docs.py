"""The pages that describe the service: its OpenAPI document, with what each door asks of a key, and /docs with all that it loads.

Nothing is loaded from another host, so /docs works without the internet, and its policy lets a browser run nothing but what is here.
"""

import base64
import re
from hashlib import sha256
from importlib import resources
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from service.api import problems
from service.endpoints import endpoint_of

PATH = "/docs"
FILES = {  # of the package fastapi_swagger, which holds Swagger UI as it is published
    "swagger-ui-bundle.js": "swagger-ui-bundle.js",
    "swagger-ui.css": "swagger-ui.css",
    "favicon.png": "favicon-32x32.png",
}
NO_SNIFFING = {"X-Content-Type-Options": "nosniff"}
SCHEME = "key"
INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


class Described(FastAPI):
    """An application whose OpenAPI document says what each door asks of a key."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        document = super().openapi()
        schemes = document["components"].setdefault("securitySchemes", {})
        schemes[SCHEME] = {
            "type": "http",
            "scheme": "bearer",
            "description": "asked for only where the service runs with --keys",
        }
        refusals = {
            "401": "The key is missing or not known here",
            "403": "The key is for something else",
        }
        problem = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        for path, operations in document["paths"].items():
            if (scope := endpoint_of(path).scope) is not None:
                for operation in operations.values():
                    operation["security"] = [{}, {SCHEME: [scope]}]
                    for status, text in refusals.items():
                        operation["responses"][status] = {"description": text, "content": problem}
        return document


def routes(app: FastAPI) -> list[BaseRoute]:
    """Return the routes of /docs."""
    page = get_swagger_ui_html(
        openapi_url=app.openapi_url or "",
        title=f"{app.title}: its doors",
        swagger_js_url=f"{PATH}/swagger-ui-bundle.js",
        swagger_css_url=f"{PATH}/swagger-ui.css",
        swagger_favicon_url=f"{PATH}/favicon.png",
        swagger_ui_parameters={
            "validatorUrl": None
        },  # Swagger UI would send the document's address to a host of its own makers
    ).body
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(
            ["'self'", *(f"'sha256-{_hash(script)}'" for script in INLINE.findall(page))]
        ),
        "style-src": "'self' 'unsafe-inline'",  # Swagger UI sets styles by itself
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    headers = NO_SNIFFING | {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
    }

    async def docs(_: Request) -> Response:
        return Response(page, headers=headers, media_type="text/html")

    return [
        Route(PATH, docs),
        *(Route(f"{PATH}/{name}", _file(source)) for name, source in FILES.items()),
    ]


def _file(source: str) -> Any:
    async def file(_: Request) -> Response:
        with resources.as_file(resources.files("fastapi_swagger") / "resources" / source) as path:
            return FileResponse(path, headers=NO_SNIFFING)

    return file


def _hash(script: bytes) -> str:
    return base64.b64encode(sha256(script).digest()).decode()
