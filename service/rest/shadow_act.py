"""`POST /shadow/act`: what the shadow answers to one state, so that people can see both policies side by side.

Nothing is counted as an inference, recorded or compared: these answers control nothing.
"""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from service.api import act
from service.api.problems import ProblemError
from service.rest import request_body
from service.rollout.reloader import Reloader
from service.settings import Settings

PATH = "/shadow/act"


def routes(settings: Settings, reloader: Reloader) -> list[BaseRoute]:
    """Return the route."""

    async def shadow_act(request: Request) -> Response:
        body = await request_body.read(request, settings.max_body)
        shadow = reloader.shadow
        if shadow is None:
            raise ProblemError(
                HTTPStatus.NOT_FOUND,
                "no-shadow",
                "No bundle is compared with the one served; --shadow names one",
            )
        content, headers, _ = act.act(shadow.policy, body, request.headers.get("if-match"))
        response = Response(content, media_type="application/json")
        response.raw_headers.extend(headers)
        return response

    return [Route(PATH, shadow_act, methods=["POST"])]
