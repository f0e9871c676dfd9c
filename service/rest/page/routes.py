"""The page at `/`: a cart-pole that asks this service for its actions, and evidence of the policy.

Its files lie in `static/`. They are read at the first request for them, so a service whose page
nobody opens pays nothing. They hold nothing that a key protects: what the page shows, it asks for
like any other caller.
"""

import gzip
import hashlib
import os
import re
import stat
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from models import bundle
from models.bundle import MANIFEST_BYTES_MAX, Bundle
from models.manifest import MANIFEST
from service.api.problems import ProblemError
from service.rest.docs import problem_responses
from service.rollout.reloader import Reloader
from service.settings import Settings
from service.state import ServiceState

STATIC = Path(__file__).parent / "static"
INDEX = "index.html"
MEDIA_TYPES = {
    ".css": "text/css",
    ".csv": "text/csv",
    ".gif": "image/gif",
    ".html": "text/html",
    ".js": "text/javascript",
    ".md": "text/markdown",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
EXTRA_FILE_SUFFIXES = (".csv", ".gif", ".md", ".png")  # of the bundle's files for people
EXTRA_FILE_BYTES_MAX = 1 << 24
# The address of a service: its origin, and the path below which a gateway shows it.
SERVICE_ADDRESS = re.compile(
    r"(https?://(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?)"
    r"((?:/[\w.~-]{1,99}){0,9})/?",
    re.ASCII,
)

EXTRA_FILE_RESPONSES = problem_responses(
    {404: "The bundle that is served has another digest, or no such file"}
)

HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
# What a browser may do with a file that is not the page's own: nothing but show it.
NOTHING_ALLOWED = "default-src 'none'; frame-ancestors 'none'; sandbox"

# What `/` tells programs: method, path and meaning, in the order in which people need them.
OVERVIEW = (
    ("POST", "/act", "one state in, Q-values and the greedy action out"),
    ("WS", "/act/stream", "the same for a control loop: one message a state"),
    ("POST", "/act/batch", "several states at once"),
    ("GET", "/model", "the manifest, the digest, the backend"),
    ("GET", "/health/live", "200 while the process is alive"),
    ("GET", "/health/ready", "200 while a self-tested policy is loaded"),
    ("GET", "/metrics", "what was answered and how fast, for Prometheus"),
    ("GET", "/v2", "the Open Inference Protocol, version 2"),
    ("POST", "/model/rollback", "serve again what was served before"),
    ("GET", "/docs", "the interface, to read and to try"),
    ("GET", "/openapi.json", "the interface, for programs"),
)
SHADOW_OVERVIEW = (
    ("GET", "/shadow", "how the shadow's answers compare with those that were given"),
    ("POST", "/shadow/act", "what the shadow answers to one state"),
    ("POST", "/shadow/promote", "let the shadow answer from now on"),
)


class StaticFile(NamedTuple):
    """A file of the page as it is sent."""

    content: bytes
    compressed: bytes
    etag: str
    media_type: str


class Page:
    """The routes of the page, of its files and of the bundle's files for people."""

    def __init__(self, settings: Settings, service_state: ServiceState, reloader: Reloader) -> None:
        self._settings = settings
        self._service_state = service_state
        self._reloader = reloader

    def router(self) -> APIRouter:
        """Return the routes."""
        router = APIRouter(tags=["Monitoring"])
        router.add_route("/", self._index, include_in_schema=False)
        router.add_route("/page/{name}", self._static, include_in_schema=False)
        router.add_api_route(
            "/model/files/{digest}/{name}",
            self._extra_file,
            response_class=Response,
            responses=EXTRA_FILE_RESPONSES,
            summary="Get a file that the bundle holds for people",
        )
        return router

    async def _index(self, request: Request) -> Response:
        """Answer people with the page, and programs with the addresses of the endpoints."""
        accepted = request.headers.get("accept", "")
        if "application/json" in accepted or "text/html" not in accepted:
            return JSONResponse(self._overview(request), headers={"Vary": "Accept"})
        return _static_response(request, INDEX)

    def _overview(self, request: Request) -> dict[str, object]:
        # Whether a shadow is loaded is for administrators to know: with keys, the list is whole.
        has_shadow = self._service_state.keys is not None or self._reloader.shadow is not None
        endpoints = OVERVIEW + (SHADOW_OVERVIEW if has_shadow else ())
        base = str(request.base_url).rstrip("/") + self._settings.root_path
        streams = re.sub("^http", "ws", base)
        return {
            "service": "upright",
            "endpoints": [
                {
                    "method": method,
                    "path": path,
                    "address": (streams if method == "WS" else base) + path,
                    "description": description,
                }
                for method, path, description in endpoints
            ],
        }

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not re.fullmatch(r"[a-z_]+\.(?:css|js|svg)", name) or not (STATIC / name).is_file():
            raise _not_found(f"The page has no file {name[:100]!r}")
        return _static_response(request, name)

    def _extra_file(self, digest: str, name: str) -> Response:
        """Return a picture or a table of the bundle that is served, which never changes."""
        # FastAPI calls it in a thread, since it is no coroutine: it reads the disk.
        served = self._service_state.policy.bundle
        if digest != served.digest or name not in served.manifest.extra_files:
            raise _not_found("The bundle that is served has another digest, or no such file")
        suffix = Path(name).suffix
        if suffix not in EXTRA_FILE_SUFFIXES:
            raise _not_found(
                f"Only files of these kinds are shown: {', '.join(EXTRA_FILE_SUFFIXES)}"
            )

        # Several processes keep the bundle without these files in a folder that they share.
        folders = dict.fromkeys((served.folder, self._settings.bundle))
        content = next(
            filter(None, (_read_beside(folder, served, name) for folder in folders)), None
        )
        if content is None:
            raise _not_found(f"The bundle's folder holds another bundle now, or no {name}")
        shared = "private" if self._service_state.keys is not None else "public"
        headers = HEADERS | {
            "Cache-Control": f"{shared}, max-age=31536000, immutable",
            "Content-Security-Policy": NOTHING_ALLOWED,
            "Vary": "Authorization",
        }
        return Response(content, headers=headers, media_type=MEDIA_TYPES[suffix])


def _not_found(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.NOT_FOUND, "not-found", detail)


def _static_response(request: Request, name: str) -> Response:
    file = _read_static(name)
    headers = HEADERS | {
        "Cache-Control": "no-cache",  # asked for again each time, and mostly answered with 304
        "Content-Security-Policy": _content_security_policy(request.query_params.get("compare")),
        "ETag": file.etag,
        "Vary": "Accept, Accept-Encoding" if name == INDEX else "Accept-Encoding",
    }
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(file.compressed, headers=headers, media_type=file.media_type)
    return Response(file.content, headers=headers, media_type=file.media_type)


def _content_security_policy(second_service: str | None) -> str:
    """Return what the page may load, run and call.

    That is this service, and the second one that the page's own address names.
    """
    connect = "'self'"
    if second_service is not None:
        match = SERVICE_ADDRESS.fullmatch(second_service)
        if match is None:
            raise ProblemError(
                HTTPStatus.BAD_REQUEST,
                "not-an-origin",
                "compare: expected the address of a service, as http://HOST:PORT",
            )
        # With a slash at its end, a source is all that is below it.
        source = f"{match[1]}{match[2]}/" if match[2] else match[1]
        connect += f" {source} {re.sub('^http', 'ws', source)}"
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:;"
        f" connect-src {connect}; worker-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )


@cache
def _read_static(name: str) -> StaticFile:
    content = (STATIC / name).read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return StaticFile(content, gzip.compress(content, 9), etag, MEDIA_TYPES[Path(name).suffix])


def _read_beside(folder: Path, served: Bundle, name: str) -> bytes | None:
    """Return a file of the folder, if the bundle that lies there is the one served; None if not.

    The manifest pins no hash of these files. Both are read through one descriptor of the folder, so
    another bundle that takes its name meanwhile changes nothing.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        manifest = _read_file(descriptor, MANIFEST, MANIFEST_BYTES_MAX)
        if manifest is None or bundle.digest(manifest) != served.digest:
            return None
        return _read_file(descriptor, name, EXTRA_FILE_BYTES_MAX)
    finally:
        os.close(descriptor)


def _read_file(folder: int, name: str, limit: int) -> bytes | None:
    """Return the bytes of a regular file of at most `limit` bytes; None if there is none."""
    try:
        # No link is followed out of the folder, and no pipe in the file's place holds the thread.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(name, flags, dir_fd=folder)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            return None
        return file.read(limit)
