"""Code in a TorchScript archive that could run without end is refused before torch sees it."""

import dataclasses
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import bundle
from models.bundle import Bundle
from service.inference import admission
from service.inference.backends import TorchScriptBackend
from service.inference.errors import NotAdmittedError
from service.inference.loading import load
from service.inference.torchscript_code import CALLS_LIMIT, CodeError, checked_archive
from tests.support.project import COMMITTED

POLICY = bundle.read(COMMITTED).artifacts["torchscript"]
STATES = np.random.default_rng(3).uniform(-0.2, 0.2, (20, 4)).astype(np.float32)
NETWORK = "archive/code/__torch__/training/network.py"
RELU = "archive/code/__torch__/torch/nn/modules/activation.py"
REASON = r"holds the code '.*'; a policy calls torch\.linear and torch\.relu, and no more"


def files(content: bytes = POLICY) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def packed(changes: dict[str, bytes]) -> bytes:
    """Return the policy's archive with other files, or more."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in (files() | changes).items():
            archive.writestr(name, content)
    return buffer.getvalue()


def with_code(name: str, old: str, new: str) -> bytes:
    code = files()[name].decode()
    assert old in code
    return packed({name: code.replace(old, new).encode()})


def module(name: str, types: dict[str, str], *lines: str) -> str:
    annotations = "".join(f"  {attribute} : {kind}\n" for attribute, kind in types.items())
    body = "".join(f"    {line}\n" for line in lines)
    return (
        f"class {name}(Module):\n{annotations}  def forward(self: X, x: Tensor) -> Tensor:\n{body}"
    )


def scripted(module: torch.nn.Module) -> bytes:
    buffer = io.BytesIO()
    with pytest.warns(DeprecationWarning, match="deprecated"):
        torch.jit.save(torch.jit.script(module), buffer)
    return buffer.getvalue()


def q_values(content: bytes) -> np.ndarray:
    return TorchScriptBackend(content).q_values(STATES)


def test_the_committed_policy_is_what_a_policy_may_be() -> None:
    checked = checked_archive(POLICY)
    assert files(checked) == files()
    np.testing.assert_array_equal(q_values(checked), q_values(POLICY))


def small_network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))


def test_an_archive_that_torch_traced_by_itself_is_read() -> None:
    buffer = io.BytesIO()
    with pytest.warns(DeprecationWarning, match="deprecated"):
        torch.jit.save(torch.jit.trace(small_network(), torch.zeros(2, 4)), buffer)  # type: ignore[no-untyped-call]
    checked = checked_archive(buffer.getvalue())
    assert not [name for name in files(checked) if name.endswith(".debug_pkl")]
    np.testing.assert_array_equal(q_values(checked), q_values(buffer.getvalue()))


def test_an_archive_that_was_scripted_holds_more_than_a_policy_may() -> None:
    with pytest.raises(CodeError, match=REASON):
        checked_archive(scripted(small_network()))


class Endless(torch.nn.Module):
    def forward(self, states: torch.Tensor) -> torch.Tensor:
        while bool((states == states).all()):
            states = states + 0
        return states


def test_code_that_never_ends_is_refused() -> None:
    with pytest.raises(CodeError, match=REASON):
        checked_archive(scripted(Endless()))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("return torch.relu(argument_1)", "return torch.relu_(argument_1)", "torch.relu_"),
        ("return torch.relu(argument_1)", "return torch.relu(argument_1 + 1)", r"argument_1 \+ 1"),
        ("return torch.relu(argument_1)", "return ops.prim.rangelist(9)", "rangelist"),
        ("return torch.relu(argument_1)", 'return torch.from_file("/etc/x")', "from_file"),
        ("return torch.relu(argument_1)", "return torch.relu(*argument_1)", r"\*argument_1"),
        ("return torch.relu(argument_1)", "return torch.relu(input=argument_1)", "input=argument"),
        ("return torch.relu(argument_1)", "return (self).forward(argument_1, )", "self"),
        ("return torch.relu(argument_1)", "while True:\n      pass", "while True"),
        ("return torch.relu(argument_1)", "print(argument_1)\n    return argument_1", "print"),
        ("argument_1: Tensor)", "argument_1: Tensor=torch.zeros([9]))", "zeros"),
        ("  def forward", "  @ignore\n  def forward", "ignore"),
        ("  def forward", "  def __setstate__", "__setstate__"),
        ("class ReLU(Module)", "class ReLU(Interface)", "Interface"),
        ("class ReLU(Module)", "op_version_set = 1\nclass ReLU(Module)", "op_version_set"),
        ("__parameters__ = []", "__parameters__ = torch.zeros([9])", "__parameters__"),
        ("class ReLU", "class class", "SyntaxError"),
        ("class ReLU", "\0class ReLU", "cannot be read"),
        ("return torch.relu(argument_1)", "return " + "(" * 9_000, "SyntaxError|MemoryError"),
        ("return torch.relu(argument_1)", "return x" + " " * 100_001, "bytes of code"),
    ],
)
def test_what_no_policy_does_is_refused_by_its_text(old: str, new: str, reason: str) -> None:
    with pytest.raises(CodeError, match=reason):
        checked_archive(with_code(RELU, old, new))


def test_modules_that_call_each_other_twice_and_twice_again_are_refused() -> None:
    first = module("M0", {}, "return torch.relu(x)")
    others = [
        module(
            f"M{level}",
            {"a": f"__torch__.deep.M{level - 1}"},
            "_0 = self.a",
            "return (_0).forward((_0).forward(x, ), )",
        )
        for level in range(1, 40)
    ]
    code = "\n".join([first, *others]).encode()
    with pytest.raises(CodeError, match=f"calls more than {CALLS_LIMIT} operators"):
        checked_archive(packed({"archive/code/__torch__/deep.py": code}))


def test_a_name_that_is_given_to_another_module_is_counted_as_that_one() -> None:
    many = "\n    ".join(["x = torch.relu(x)"] * (CALLS_LIMIT - 10))
    code = "\n".join(
        [
            module("Costly", {}, many, "return x"),
            module("Cheap", {}, "return torch.relu(x)"),
            module(
                "Both",
                {"cheap": "__torch__.names.Cheap", "costly": "__torch__.names.Costly"},
                "_0 = self.cheap",
                "_1 = self.costly",
                "_0 = _1",
                "_2 = (_0).forward(x, )",
                "return (_0).forward(_2, )",
            ),
        ]
    )
    with pytest.raises(CodeError, match=f"calls more than {CALLS_LIMIT} operators"):
        checked_archive(packed({"archive/code/__torch__/names.py": code.encode()}))


@pytest.mark.parametrize("depth", [1, 3_000])
def test_modules_that_call_each_other_in_a_circle_or_too_deep_are_refused(depth: int) -> None:
    code = "\n".join(
        module(
            f"M{level}",
            {"a": f"__torch__.c.M{(level + 1) % depth}"},
            "_0 = self.a",
            "return (_0).forward(x, )",
        )
        for level in range(depth)
    )
    with pytest.raises(CodeError, match=r"which calls it|bytes of code"):
        checked_archive(packed({"archive/code/__torch__/c.py": code.encode()}))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no archive", "no ZIP archive"),
        (b"", "no ZIP archive"),
        (POLICY[:-40], "no ZIP archive"),
        (packed({"archive/extra/evil.so": b"x"}), "the file 'archive/extra/evil.so'"),
        (packed({"archive/code/../../x.py": b"x"}), r"the file 'archive/code/\.\./\.\./x\.py'"),
        (packed({"other/data.pkl": b"x"}), "more than one archive"),
        (packed({f"archive/data/{number}": b"x" for number in range(1_001)}), "more files"),
    ],
)
def test_an_archive_that_is_no_policys_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        checked_archive(content)


def test_a_file_that_is_there_twice_is_refused() -> None:
    buffer = io.BytesIO(POLICY)
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(NETWORK, files()[NETWORK])
    with pytest.raises(CodeError, match="twice"):
        checked_archive(buffer.getvalue())


def test_a_file_that_inflates_without_bound_is_not_inflated() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(200_000_000))
    with pytest.raises(CodeError, match="larger ones"):
        checked_archive(buffer.getvalue())


@given(st.lists(st.tuples(st.integers(0, len(POLICY) - 1), st.integers(0, 255)), max_size=8))
def test_spoiled_archives_are_refused_or_hold_what_was_checked(
    spoiled: list[tuple[int, int]],
) -> None:
    content = bytearray(POLICY)
    for place, value in spoiled:
        content[place] = value
    try:
        checked = checked_archive(bytes(content))
    except ValueError:
        return
    assert checked_archive(checked) == checked


def test_a_bundle_whose_code_never_ends_is_not_admitted(tmp_path: Path, committed: Bundle) -> None:
    content = scripted(Endless())
    manifest = committed.manifest.model_copy(
        update={
            "artifacts": {"torchscript": bundle.describe("policy.pt", content)},
            "extra_files": (),
        }
    )
    bundle.write(tmp_path / "endless", manifest, {"policy.pt": content})
    with pytest.raises(NotAdmittedError, match=r"policy\.pt: holds the code"):
        admission.admit(tmp_path / "endless", "torchscript", 0)


def test_a_torn_archive_is_told_with_its_file(committed: Bundle) -> None:
    torn = dataclasses.replace(
        committed, artifacts={**committed.artifacts, "torchscript": POLICY[:1_000]}
    )
    with pytest.raises(Exception, match=r"policy\.pt: the torchscript backend cannot load it"):
        load(torn, "torchscript")
