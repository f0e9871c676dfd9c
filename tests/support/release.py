"""Builds a release into dist/, and says what to push where; `make release` runs it.

Nothing is pushed, and nothing is built of what does not agree: the version stands in five places.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path

from tests.support.project import COMMITTED, ROOT
from tests.support.service import free_port, service

DIST = ROOT / "dist"
CHART = ROOT / "deploy" / "helm" / "upright"
# https://semver.org, without build metadata, which image tags cannot have
SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?")
ASK = """
import sys
from upright_client import PolicyClient
with PolicyClient(sys.argv[1], fallback=0, deadline=5) as client:
    assert client.ready(timeout=5)
    decision = client.act((0.0, 0.0, 0.05, 0.0))
assert (decision.action, decision.source) == (1, "policy"), decision
"""


class ReleaseError(Exception):
    """Raised where something does not agree, or cannot be built."""


def run(*command: str | Path) -> str:
    """Return what a command prints. Raises `ReleaseError` with its error."""
    result = subprocess.run(
        [*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if result.returncode:
        shown = " ".join(map(str, command))
        raise ReleaseError(f"{shown}:\n{result.stdout}{result.stderr}")
    return result.stdout


def disagreements(root: Path, version: str) -> Iterator[str]:
    """Give what stands against releasing a checkout as `version`."""
    if not SEMVER.fullmatch(version):
        yield f"{version}: is no version, such as 0.1.0 (https://semver.org)"
    for name in ("pyproject.toml", "client/pyproject.toml"):
        stated = tomllib.loads((root / name).read_text())["project"]["version"]
        if stated != version:
            yield f"{name}: says version {stated}, not {version}"
    chart = root / "deploy/helm/upright/Chart.yaml"
    for key in ("version", "appVersion") if chart.exists() else ():
        line = re.search(rf'^{key}:\s*"?([^"\s#]+)', chart.read_text(), re.MULTILINE)
        stated = None if line is None else line[1]
        if stated != version:
            yield f"{chart.relative_to(root)}: says {key} {stated}, not {version}"
    if not re.search(
        rf"^## {re.escape(version)}\b", (root / "CHANGELOG.md").read_text(), re.MULTILINE
    ):
        yield f"CHANGELOG.md: has no heading `## {version}`"


def build_client() -> None:
    """Build the client, check it, and use it from an environment that holds nothing else."""
    run(sys.executable, "-m", "build", "--outdir", DIST, "client")
    packages = [*DIST.glob("upright_client-*")]
    run(sys.executable, "-m", "twine", "check", "--strict", *packages)
    wheel = next(path for path in packages if path.suffix == ".whl")
    environment = DIST / ".client"
    venv.create(environment, clear=True, with_pip=True)
    python = environment / "bin" / "python"
    # Isolated: what PYTHONPATH names is no part of an empty environment.
    run(python, "-I", "-m", "pip", "install", "--quiet", "--no-index", wheel)
    port = free_port()
    with service(port):
        run(python, "-I", "-c", ASK, f"http://127.0.0.1:{port}")
    shutil.rmtree(environment)


def build_image(version: str, source: str, flags: str) -> str:
    """Build the service's image and check its label; return its digest."""
    if shutil.which("buildah") is None:
        raise ReleaseError("the image is built by buildah: apt-get install buildah")
    name = f"upright:{version}"
    labels = f"SOURCE={source}", f"BUILD_FLAGS={flags}", "FORMAT=oci"
    run("make", "image", f"IMAGE={name}", *labels)
    known = json.loads(run("buildah", "inspect", "--type", "image", name))
    label = known["OCIv1"]["config"]["Labels"]["org.opencontainers.image.version"]
    if label != version:
        raise ReleaseError(f"{name}: its label says version {label}")
    archive = DIST / f"upright-{version}.oci.tar"
    run("buildah", "push", "--quiet", name, f"oci-archive:{archive}:{version}")
    return str(known["FromImageDigest"])


def build_chart() -> None:
    """Package the chart, where it and helm are there."""
    if CHART.exists():
        helm = shutil.which("helm") or str(ROOT / ".venv/deploy/helm")
        run(helm, "package", CHART, "--destination", DIST)


def sign_bundle(version: str, key: Path | None) -> None:
    """Pack the committed bundle, signed where there is a key."""
    folder = DIST / COMMITTED.name
    shutil.copytree(COMMITTED, folder)
    if key is not None:
        run("make", "sign", "--old-file=setup", f"KEY={key.absolute()}", f"BUNDLE={folder}")
    with tarfile.open(DIST / f"{COMMITTED.name}-{version}.tar.gz", "w:gz") as archive:
        archive.add(folder, COMMITTED.name)
    shutil.rmtree(folder)


def notes(version: str, digest: str) -> str:
    """Return what to push where, and how whoever gets it can check it."""
    changes = (ROOT / "CHANGELOG.md").read_text().partition(f"## {version}")[2]
    changes = changes.partition("\n## ")[0].partition("\n")[2].strip()
    return f"""# Upright {version}

{changes}

## To push
```sh
git tag --sign v{version} && git push origin v{version}
twine upload dist/upright_client-{version}*
skopeo copy oci-archive:dist/upright-{version}.oci.tar docker://REGISTRY/upright:{version}
helm push dist/upright-{version}.tgz oci://REGISTRY/charts
```
The image is `{digest}`, which whoever builds it again gets too. A registry that compresses its
layers names it by another digest, which `skopeo inspect` shows; by that, never by the tag:
```sh
cosign sign --yes REGISTRY/upright@sha256:…
cosign attest --yes --type cyclonedx --predicate dist/upright-service.cdx.json \\
    REGISTRY/upright@sha256:…
```

## To check
```sh
sha256sum --check SHA256SUMS
cosign verify REGISTRY/upright@sha256:… --certificate-identity … --certificate-oidc-issuer …
tar xzf {COMMITTED.name}-{version}.tar.gz
python -m service --bundle {COMMITTED.name} --verify-key key.pub
```
"""


def release(version: str, source: str, key: Path | None, flags: str) -> None:
    """Build everything. Raises `ReleaseError`."""
    problems = [*disagreements(ROOT, version)]
    if run("git", "status", "--porcelain"):
        problems.append("the checkout has changes that are not committed")
    if problems:
        raise ReleaseError("\n".join(problems))

    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    build_client()
    sign_bundle(version, key)
    run("make", "sbom", "--old-file=.venv/.release")
    build_chart()
    digest = build_image(version, source, flags)
    (DIST / "RELEASE.md").write_text(notes(version, digest))
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(DIST.iterdir())
    ]
    (DIST / "SHA256SUMS").write_text("".join(sums))


def main() -> int:
    """Build a release, and print what it holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version")
    parser.add_argument("--source", default="unknown", help="the repository's address")
    parser.add_argument("--key", type=Path, help="private key that signs the bundle")
    parser.add_argument("--build-flags", default="", help="for the builder of the image")
    options = parser.parse_args()
    try:
        release(options.version, options.source, options.key, options.build_flags)
    except ReleaseError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write((DIST / "SHA256SUMS").read_text() + "dist/RELEASE.md says what to push\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
