"""Whose a bundle is: its signature, verified by the key that the settings name.

Signatures are those of `model-signing`, which signs and verifies them: a file in the bundle's
folder with the SHA-256 of the files that it vouches for. What is verified are the very bytes that
were read to be served, whatever happens to the folder meanwhile: they are written to a folder of
their own, where nobody else writes.
"""

import tempfile
from pathlib import Path

from models.bundle import SIGNATURE, Bundle
from models.manifest import MANIFEST
from service.inference.errors import NotAdmittedError

SIGNATURE_BYTES_MAX = 1 << 20
EXTRA_FILE_BYTES_MAX = 1 << 25
REMEDY = "sign it with make sign"


class VerifyKeyError(Exception):
    """Raised when the key to verify bundles by cannot be used."""


def check_key(key: Path) -> None:
    """Check that bundles can be verified by a key. Raises `VerifyKeyError`."""
    try:
        key.read_bytes()
    except OSError as error:
        raise VerifyKeyError(f"--verify-key {key}: {error.strerror}") from error

    try:
        from model_signing.verifying import Config  # takes a second to import
    except ModuleNotFoundError as error:
        raise VerifyKeyError(
            "--verify-key needs model-signing, which is not installed:"
            " in a checkout, .venv/bin/pip install '.[signing]'"
        ) from error

    try:
        Config().use_elliptic_key_verifier(public_key=key)  # type: ignore[no-untyped-call] # it has no annotations
    except Exception as error:  # the libraries below have several for a key that is none
        raise VerifyKeyError(
            f"--verify-key {key}: is no public key in PEM of an elliptic curve"
        ) from error


def is_missing(folder: Path, key: Path | None) -> bool:
    """Return whether a bundle's signature is needed and has not come."""
    return key is not None and not (folder / SIGNATURE).exists()


def check(bundle: Bundle, key: Path | None) -> None:
    """Check that a bundle is signed by the key; without one, any bundle will do.

    Raises `NotAdmittedError`.
    """
    if key is None:
        return
    if is_missing(bundle.folder, key):
        raise NotAdmittedError(
            f"{bundle.folder}: is not signed: it has no {SIGNATURE}, and --verify-key asks for"
            f" one; {REMEDY}"
        )

    from model_signing.verifying import Config

    with tempfile.TemporaryDirectory(prefix="upright-verify-") as name:
        copy = Path(name)
        try:
            _copy(bundle, copy)
            verifier = Config().use_elliptic_key_verifier(public_key=key)  # type: ignore[no-untyped-call] # as above
            verifier.verify(copy, copy / SIGNATURE)
        except Exception as error:  # whatever it is: what is not verified is not admitted
            reason = " ".join(str(error).split()) or type(error).__name__
            raise NotAdmittedError(
                f"{bundle.folder}: is not signed by the key {key}, or was changed since: {reason}"
            ) from error


def _copy(bundle: Bundle, folder: Path) -> None:
    """Write a bundle's bytes as they were read, its signature, and the extra files."""
    manifest = bundle.manifest
    (folder / MANIFEST).write_bytes(bundle.manifest_bytes)
    for kind, content in bundle.artifacts.items():
        (folder / manifest.artifacts[kind].file).write_bytes(content)
    for name in manifest.extra_files:
        path = bundle.folder / name
        if path.is_file():  # a signature need not vouch for it
            (folder / name).write_bytes(_read(path, EXTRA_FILE_BYTES_MAX))
    (folder / SIGNATURE).write_bytes(_read(bundle.folder / SIGNATURE, SIGNATURE_BYTES_MAX))


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path.name} has more than {limit} bytes")
    return content
