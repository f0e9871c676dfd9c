import json
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import bundle
from models.bundle import (
    ArtifactChangedError,
    Bundle,
    BundleInvalidError,
    BundleMissingError,
    BundleWriteError,
)
from models.manifest import MANIFEST, Manifest


def files_of(source: Bundle) -> dict[str, bytes]:
    names = [artifact.file for artifact in source.manifest.artifacts.values()] + list(
        source.manifest.extra_files
    )
    return {name: (source.folder / name).read_bytes() for name in names}


def copy(source: Bundle, folder: Path) -> Path:
    bundle.write(folder, source.manifest, files_of(source))
    return folder


def change_manifest(folder: Path, **changes: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_written_is_what_is_read(exported: Bundle, tmp_path: Path) -> None:
    folder = copy(exported, tmp_path / "b")
    again = bundle.read(folder)
    assert again.manifest == exported.manifest
    assert again.artifacts == exported.artifacts
    assert again.digest == exported.digest == bundle.digest((folder / MANIFEST).read_bytes())


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_changed_byte_of_an_artifact_is_found_and_both_hashes_are_named(
    exported: Bundle, tmp_path: Path, data: st.DataObject
) -> None:
    folder = tmp_path / "b"
    if not folder.exists():
        copy(exported, folder)
    kind = data.draw(st.sampled_from(sorted(exported.artifacts)))
    content = exported.artifacts[kind]
    place = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[place] ^= data.draw(st.integers(1, 255))
    path = folder / exported.manifest.artifacts[kind].file
    path.write_bytes(changed)
    try:
        with pytest.raises(ArtifactChangedError) as raised:
            bundle.read(folder)
        for part in (
            str(path),
            exported.manifest.artifacts[kind].sha256,
            bundle.describe("x", bytes(changed)).sha256,
            "python -m training",
        ):
            assert part in str(raised.value)
    finally:
        path.write_bytes(content)


def test_shorter_and_longer_artifacts_are_named_with_their_sizes(
    exported: Bundle, tmp_path: Path
) -> None:
    folder = copy(exported, tmp_path / "b")
    path = folder / "policy.onnx"
    content = path.read_bytes()
    for torn in (content[:-1], content + b"x"):
        path.write_bytes(torn)
        with pytest.raises(
            ArtifactChangedError, match=f"policy.onnx: size differs.*expected {len(content)} bytes"
        ):
            bundle.read(folder)


@pytest.mark.parametrize("name", ["policy.onnx", "manifest.json"])
def test_missing_file_is_named(exported: Bundle, tmp_path: Path, name: str) -> None:
    folder = copy(exported, tmp_path / "b")
    (folder / name).unlink()
    with pytest.raises(BundleMissingError, match=name):
        bundle.read(folder)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleMissingError, match="nowhere"):
        bundle.read(tmp_path / "nowhere")


def test_a_pipe_in_a_files_place_is_refused_and_does_not_block(
    exported: Bundle, tmp_path: Path
) -> None:
    folder = copy(exported, tmp_path / "b")
    (folder / "policy.pt").unlink()
    os.mkfifo(folder / "policy.pt")
    with pytest.raises(BundleMissingError, match=r"policy\.pt: not a regular file"):
        bundle.read(folder)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schema_version": 3}, "schema_version"),
        ({"surprise": 1}, "surprise"),
        ({"actions": ["left"]}, "2 Q-values|1 actions"),
        ({"actions": ["left", "right\n[error] all is lost"]}, r"actions\.1"),
        ({"actions": ["left", "\x1b[2J"]}, r"actions\.1"),
        ({"name": "policy\n"}, "name"),
        ({"version": "1\x1b[31m"}, "version"),
        ({"provenance": {"recipe": "robust\r"}}, r"provenance\.recipe"),
        ({"environment": {"id": "\u202egnp.exe"}}, r"environment\.id"),
        ({"gate": {"name": "robust", "passed": False, "failures": ["a\nb"]}}, r"failures\.0"),
        ({"golden_states": []}, "golden_states"),
        ({"golden_states": [{"state": [0, 0, 0], "q_values": [0, 0]}]}, "golden_states"),
        (
            {"artifacts": {"onnx": {"file": "../policy.onnx", "size": 1, "sha256": "0" * 64}}},
            "artifacts.onnx.file",
        ),
        (
            {"artifacts": {"onnx": {"file": "manifest.json", "size": 1, "sha256": "0" * 64}}},
            "same name",
        ),
        (
            {"artifacts": {"pickle": {"file": "policy.pkl", "size": 1, "sha256": "0" * 64}}},
            "artifacts.pickle",
        ),
    ],
)
def test_manifest_that_is_not_of_the_schema_is_refused_by_name(
    exported: Bundle, tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    folder = copy(exported, tmp_path / "b")
    change_manifest(folder, **changes)
    with pytest.raises(BundleInvalidError, match=f"manifest.json.*({named})") as refusal:
        bundle.read(folder)
    assert str(refusal.value).isprintable()


def test_manifest_of_schema_1_is_refused_by_name_with_what_to_do(
    exported: Bundle, tmp_path: Path
) -> None:
    folder = copy(exported, tmp_path / "b")
    change_manifest(folder, schema_version=1, companions=[])
    with pytest.raises(BundleInvalidError) as raised:
        bundle.read(folder)
    for part in (str(folder / MANIFEST), "schema 1", "export the policy again", "another folder"):
        assert part in str(raised.value)


def test_manifest_that_is_no_json_is_refused(exported: Bundle, tmp_path: Path) -> None:
    folder = copy(exported, tmp_path / "b")
    (folder / MANIFEST).write_bytes(b"{")
    with pytest.raises(BundleInvalidError, match=r"manifest\.json"):
        bundle.read(folder)


def test_a_write_that_fails_leaves_the_older_bundle_and_no_rest(
    exported: Bundle, tmp_path: Path
) -> None:
    folder = copy(exported, tmp_path / "b")
    files = files_of(exported) | {"policy.onnx": b"something else"}
    with pytest.raises(ArtifactChangedError):
        bundle.write(folder, exported.manifest, files)
    assert bundle.read(folder).digest == exported.digest
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]


def test_a_bundle_can_be_read_by_all_or_by_those_who_could_read_the_one_before(
    exported: Bundle, tmp_path: Path
) -> None:
    before = os.umask(0o077)
    try:
        folder = copy(exported, tmp_path / "b")
        assert permissions(folder) == {0o755, 0o644}
        folder.chmod(0o750)
        copy(exported, folder)
    finally:
        os.umask(before)
    assert permissions(folder) == {0o750, 0o640}


def permissions(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}


def test_who_may_not_read_a_bundle_is_not_told_to_export_it_again(
    exported: Bundle, tmp_path: Path
) -> None:
    folder = copy(exported, tmp_path / "b")
    for path in (folder / "policy.onnx", folder):
        path.chmod(0)
        with as_another_user(), pytest.raises(BundleMissingError) as refusal:
            bundle.read(folder)
        assert "Permission denied" in str(refusal.value)
        assert "let this user read it" in str(refusal.value)
        assert "export it again" not in str(refusal.value)
    folder.chmod(0o755)


@contextmanager
def as_another_user() -> Iterator[None]:
    """Give up root's permission to read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_files_and_manifest_must_name_the_same(exported: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleWriteError, match="lists"):
        bundle.write(tmp_path / "b", exported.manifest, {})


def test_a_folder_with_other_peoples_files_is_never_replaced(
    exported: Bundle, tmp_path: Path
) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleWriteError, match="documents"):
        copy(exported, documents)
    kept = copy(exported, tmp_path / "b")
    (kept / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleWriteError, match=r"thesis\.txt"):
        copy(exported, kept)
    assert (documents / "thesis.txt").exists()
    assert (kept / "thesis.txt").exists()


def test_a_reader_sees_the_old_bundle_or_the_new_one_whole(
    exported: Bundle, tmp_path: Path
) -> None:
    folder = copy(exported, tmp_path / "b")
    other = exported.manifest.model_copy(update={"version": "2"})
    content = {
        name: data if name != "policy.pt" else b"x" * 1000
        for name, data in files_of(exported).items()
    }
    artifacts = {
        **other.artifacts,
        "torchscript": bundle.describe("policy.pt", content["policy.pt"]),
    }
    other = Manifest.model_validate(other.model_copy(update={"artifacts": artifacts}).model_dump())
    stop = threading.Event()
    seen: set[str] = set()
    failures: list[Exception] = []

    def reads() -> None:
        while not stop.is_set():
            try:
                found = bundle.read(folder)
                expected = (
                    b"x" * 1000
                    if found.manifest.version == "2"
                    else exported.artifacts["torchscript"]
                )
                assert found.artifacts["torchscript"] == expected
                seen.add(found.manifest.version)
            except Exception as error:
                failures.append(error)
                return

    reader = threading.Thread(target=reads)
    reader.start()
    for _ in range(50):
        bundle.write(folder, other, content)
        bundle.write(folder, exported.manifest, files_of(exported))
    stop.set()
    reader.join()
    assert failures == []
    assert seen == {"1", "2"}
