"""What `helm test` asks of a release: SCHEME HOST PORT KEYS.

KEYS is yes or no: whether the release wants keys.
"""

import json
import ssl
import sys
import urllib.error
import urllib.request

scheme, host, port, keys = sys.argv[1:]
# The certificate may be of another name; what is asked here is nothing secret.
context = ssl._create_unverified_context() if scheme == "https" else None


def answer(path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Return the status and the body of an answer."""
    try:
        with urllib.request.urlopen(
            f"{scheme}://{host}:{port}{path}", body, timeout=5, context=context
        ) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


status, _ = answer("/health/ready")
assert status == 200, f"/health/ready: {status}"

status, content = answer("/act", b'{"state":[0,0,0.05,0]}')
if keys == "yes":
    assert status == 401, f"POST /act without a key: {status}"
else:
    assert status == 200, f"POST /act: {status} {content!r}"
    assert json.loads(content)["action"] in (0, 1), content
print(f"{host}:{port} answers")
