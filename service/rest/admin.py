"""Operations: the doors by which an operator changes what is served. What may be served is said by `admission`."""

from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Header
from pydantic import BaseModel, Field

from service.api import act as answers
from service.api import problems
from service.api.problems import ProblemError
from service.rollout.reloader import Reload, Reloader
from service.rollout.shadow import ShadowReport
from service.state import ServiceState

IfMatch = Annotated[
    str | None,
    Header(description='do it only if the bundle served has this digest, in quotes: "sha256:…"'),
]
PROBLEM = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
REFUSALS: dict[int | str, dict[str, object]] = {
    409: {
        "description": "Another bundle cannot be served; the one served stays",
        "content": PROBLEM,
    },
    412: {"description": "Another bundle is served", "content": PROBLEM},
}


class ReloadResponse(BaseModel):
    """What became of a change of the bundle."""

    outcome: Literal["loaded", "unchanged"]
    digest: str = Field(description="identity of the bundle that is served now")


def doors(service_state: ServiceState, reloader: Reloader) -> APIRouter:
    """Return the operator's doors."""
    router = APIRouter()

    @router.post("/model/rollback", responses=REFUSALS)
    async def rollback(if_match: IfMatch = None) -> ReloadResponse:
        """Return to the bundle that was served before the last change. It was kept, so nothing is read anew."""
        answers.check_digest(service_state.policy, if_match)
        return _told(await reloader.rollback(), "no-rollback")

    @router.get(
        "/shadow", responses={404: {"description": "There is no shadow", "content": PROBLEM}}
    )
    async def shadow() -> ShadowReport:
        """Tell how the shadow's answers compare with those that were given."""
        if reloader.shadow is None:
            raise ProblemError(
                HTTPStatus.NOT_FOUND,
                "no-shadow",
                "No bundle is compared with the one served; --shadow names one",
            )
        return reloader.shadow.report()

    @router.post("/shadow/promote", responses=REFUSALS)
    async def promote(if_match: IfMatch = None) -> ReloadResponse:
        """Let the shadow answer from now on; the bundle that answered before is what a rollback returns to."""
        answers.check_digest(service_state.policy, if_match)
        return _told(await reloader.promote(), "not-promoted")

    return router


def _told(reload: Reload, kind: str) -> ReloadResponse:
    if reload.outcome == "refused":
        raise ProblemError(
            HTTPStatus.CONFLICT, kind, f"{reload.digest} is served on: {reload.reason}"
        )
    return ReloadResponse(outcome=reload.outcome, digest=reload.digest)
