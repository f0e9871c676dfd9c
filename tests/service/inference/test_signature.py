"""`--verify-key`: only a bundle that is signed by the key is served."""

import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.operations import bundles
from models.bundle import SIGNATURE, Bundle
from models.manifest import MANIFEST
from tests.support.project import ROOT
from tests.support.service import Start, refused


def make_key(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the files of a new private key and its public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


def sign(folder: Path, key: Path) -> None:
    """Sign a bundle as people do."""
    result = subprocess.run(
        ["make", "sign", f"BUNDLE={folder}", f"KEY={key}", "--old-file=setup"],  # noqa: S607 - make is where PATH says
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def signed(committed: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A signed bundle, the private key and the public key. Read only: tests take a copy."""
    folder = tmp_path_factory.mktemp("signed")
    private, public = make_key(folder, "ours")
    shutil.copytree(committed.folder, folder / "bundle")
    sign(folder / "bundle", private)
    return folder / "bundle", private, public


def test_what_is_signed_is_served_and_what_is_not_is_not_loaded_in_its_place(
    signed: tuple[Path, Path, Path], committed: Bundle, tmp_path: Path, start: Start
) -> None:
    source, _, key = signed
    other = bundles.relative(committed, tmp_path / "other", bundles.halved)
    folder = tmp_path / "bundle"
    shutil.copytree(source, folder)
    with start("--bundle", str(folder), "--verify-key", str(key)) as address:
        digest = httpx2.get(f"{address}/model").json()["digest"]
        for path in other.folder.iterdir():  # another bundle, beside the signature of the first
            shutil.copy(path, folder)
        load = f"{address}/v2/repository/models/cartpole-dqn/load"
        refusal = httpx2.post(load, timeout=30)
        assert refusal.status_code >= 400
        assert "is not signed by the key" in refusal.text
        (folder / SIGNATURE).unlink()
        refusal = httpx2.post(load, timeout=30)
        assert "is not signed: it has no model.sig" in refusal.text
        assert httpx2.get(f"{address}/model").json()["digest"] == digest


def test_a_start_without_the_right_signature_is_refused_with_what_to_do(
    signed: tuple[Path, Path, Path], committed: Bundle, tmp_path: Path
) -> None:
    source, _, key = signed
    unsigned = refused("--bundle", str(committed.folder), "--verify-key", str(key))
    assert unsigned[0] == 1
    assert "is not signed: it has no model.sig" in unsigned[1]
    assert "make sign" in unsigned[1]

    _, other = make_key(tmp_path, "foreign")
    foreign = refused("--bundle", str(source), "--verify-key", str(other))
    assert foreign[0] == 1
    assert f"is not signed by the key {other}" in foreign[1]
    assert "Traceback" not in foreign[1]


def test_a_bundle_is_signed_without_what_is_for_people(
    signed: tuple[Path, Path, Path], tmp_path: Path, start: Start
) -> None:
    source, _, key = signed
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in (MANIFEST, "policy.onnx", "policy.pt", SIGNATURE):
        shutil.copy(source / name, folder)
    with start("--bundle", str(folder), "--verify-key", str(key), "--workers", "2") as address:
        assert httpx2.get(f"{address}/health/live").status_code == 200


def test_a_whole_folder_that_was_signed_by_the_tool_itself_is_served_unless_a_file_was_changed(
    committed: Bundle, tmp_path: Path, start: Start
) -> None:
    private, public = make_key(tmp_path, "ours")
    folder = tmp_path / "bundle"
    shutil.copytree(committed.folder, folder)
    tool = Path(sys.executable).with_name("model_signing")
    subprocess.run(
        [tool, "sign", "key", folder, "--private_key", private, "--signature", folder / SIGNATURE],
        check=True,
        capture_output=True,
        timeout=60,
    )
    with start("--bundle", str(folder), "--verify-key", str(public)) as address:
        assert httpx2.get(f"{address}/health/live").status_code == 200
    with (folder / "README.md").open("a") as readme:
        readme.write("and more\n")
    code, error = refused("--bundle", str(folder), "--verify-key", str(public))
    assert (code, "README.md" in error) == (1, True)


@pytest.mark.parametrize("content", [None, b"no key", b""])
def test_a_key_that_is_none_is_named(content: bytes | None, tmp_path: Path) -> None:
    key = tmp_path / "key.pub"
    if content is not None:
        key.write_bytes(content)
    code, error = refused("--verify-key", str(key))
    assert code == 1
    assert error.startswith(f"upright: --verify-key {key}: ")
    assert len(error.splitlines()) == 1
