"""All checks together.

Each check takes objects and returns a line for each thing that is wrong, so that a test can plant a
mistake and see it named.
"""

from collections.abc import Sequence

from tests.deploy.kserve_models import kserve_problems
from tests.deploy.objects import Object
from tests.deploy.schemas import kubernetes_problems, type_problems
from tests.deploy.service_code import code_problems


def problems(objects: Sequence[Object], metrics: set[str]) -> list[str]:
    """Return what is wrong with some objects: by the schemas, and if nothing is, by the code."""
    by_schema = [
        *kubernetes_problems(objects),
        *type_problems(objects),
        *kserve_problems(objects),
    ]
    return by_schema or list(code_problems(objects, metrics))
