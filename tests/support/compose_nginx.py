"""Writes nginx's configuration for deploy/compose from the one in deploy/nginx; a test compares.

`python -m tests.support.compose_nginx` after a change of deploy/nginx/upright.conf.
"""

from tests.support.project import ROOT

SOURCE = ROOT / "deploy" / "nginx" / "upright.conf"
FILE = ROOT / "deploy" / "compose" / "nginx.conf"
# In the containers' own network the processes are known by names, and nginx listens to all.
ADDRESSES = {
    "server 127.0.0.1:8001": "server upright-1:8000",
    "server 127.0.0.1:8002": "server upright-2:8000",
    "listen 127.0.0.1:8080": "listen 8080",
}
COMMENT = "# deploy/nginx/upright.conf with the names of compose.yaml in the place of addresses.\n"


def configuration() -> str:
    """Return the configuration as it must be."""
    lines = SOURCE.read_text().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    text = "".join(lines[first:])
    for address, name in ADDRESSES.items():
        if address not in text:
            raise ValueError(f"{SOURCE}: {address!r} is not there")
        text = text.replace(address, name)
    return COMMENT + text


if __name__ == "__main__":
    FILE.write_text(configuration())
