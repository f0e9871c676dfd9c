"""What a mistake most likely was, in half a sentence that is added to the problem of a request."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

from pydantic_core import ErrorDetails

from service.endpoints import ENDPOINTS, find_endpoint
from service.types import Body

LOOKED_AT = 1_000  # bytes of a body
LONGEST_GUESSED = 40  # characters of a path
_OF_TEXT = (
    (
        rb"np\.|array\(|tensor\(",
        "a number is written as 0.1: convert NumPy's and torch's by .tolist()",
    ),
    (rb"^[{[]?\s*'", "JSON has double quotes"),
    (
        rb"^\{\s*\w+\s*:",
        'the quotes around a name are lost, as PowerShell loses them: write \\" or send a file',
    ),
    (rb"\b(nan|inf|None|True|False)\b", "nan, inf, None, True and False are Python's, not JSON's"),
    (rb",\s*[\]}]", "a comma stands behind the last value"),
)
# What other services are asked by.
_OF_PATH = {
    **dict.fromkeys(
        ("/predict", "/predictions", "/infer", "/invocations", "/action"),
        "POST one state to /act, several to /act/batch",
    ),
    **dict.fromkeys(
        ("/health", "/healthz", "/livez", "/readyz", "/ping", "/status"),
        "GET /health/live and /health/ready are there",
    ),
}


def of_text(body: Body) -> str:
    """Return what a body that is no JSON looks like; nothing where it looks like nothing known."""
    beginning = bytes(body[:LOOKED_AT]).lstrip()
    for pattern, hint in _OF_TEXT:
        if re.search(pattern, beginning):
            return f"; {hint}"
    return ""


def of_values(details: Sequence[ErrorDetails], schema: str) -> str:
    """Return what a body that is JSON, but not of the schema of this name, was meant for."""
    is_batch = schema == "BatchRequest"
    first = details[0]
    if first["loc"] == () and isinstance(first["input"], list):
        name, value = ("states", "[[…], …]") if is_batch else ("state", "[…]")
        return f'; send {{"{name}": {value}}}'
    fields = {detail["loc"] for detail in details if detail["type"] == "extra_forbidden"}
    if is_batch:
        return "; POST /act answers one state" if ("state",) in fields else ""
    if ("states",) in fields:
        return "; POST /act/batch answers several states"
    if first["loc"] == ("state", 0) and isinstance(first["input"], list):
        if len(details) > 1 and isinstance(details[1]["input"], dict):
            return "; Gymnasium's reset returns a pair, of which the state is the first part"
        return "; POST /act answers one state of four numbers, POST /act/batch several"
    return ""


def of_path(path: str) -> str:
    """Return what there is in place of a path that is not found."""
    if hint := _OF_PATH.get(path.rstrip("/")):
        return f"; {hint}"
    if path.endswith("/") and find_endpoint(path.rstrip("/")):
        return f"; there is {path.rstrip('/')}, without the slash"
    if len(path) > LONGEST_GUESSED:
        return ""
    names = [endpoint.path for endpoint in ENDPOINTS if "{" not in endpoint.path]
    close = get_close_matches(path, [name for name in names if name.count("/") < 4], 1, 0.8)
    return f"; did you mean {close[0]}?" if close else ""
