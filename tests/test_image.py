"""The images: their locks hold what is tested, and the Dockerfile what orchestrators rely on.

That they build, run as any user and are equal when built twice is proven by `make image-proof`.
"""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.project import ROOT

EXTRAS = {"service": ("grpc", "tracing", "signing"), "training": ("train", "torchscript")}
PIN = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)
CONSTRAINTS = {
    canonicalize_name(name): version
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE
    )
}


def lock(name: str) -> str:
    return (ROOT / "deploy/image" / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", EXTRAS)
def test_a_lock_has_the_versions_that_are_tested_by_their_hashes_and_from_anywhere(
    name: str,
) -> None:
    text = lock(name)
    pins = dict(PIN.findall(text))
    # What only the image's platform asks for, such as CUDA, is in no environment that tests run in.
    assert {each: pins[each] for each in pins if each in CONSTRAINTS} == {
        each: CONSTRAINTS[each] for each in pins if each in CONSTRAINTS
    }
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) == len(pins)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
    assert "://" not in text
    assert "--index" not in text


@pytest.mark.parametrize("name", EXTRAS)
def test_a_lock_has_all_that_is_asked_for(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(each for extra in EXTRAS[name] for each in extras[extra])]
    names = {canonicalize_name(Requirement(each).name) for each in asked} - {"upright"}
    assert names - set(dict(PIN.findall(lock(name)))) == set()


def test_what_stands_behind_the_images_name_are_flags_and_its_user_is_a_number() -> None:
    service = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    instructions = [line for line in service.splitlines() if re.match("[A-Z]+ ", line)]
    assert 'ENTRYPOINT ["python", "-m", "service"]' in instructions
    assert "USER 10001:0" in instructions
    assert "STOPSIGNAL SIGTERM" in instructions
    assert not [line for line in instructions if line.startswith("CMD")]
    assert 'CMD ["python", "-m", "service", "health"]' in service  # the health check's


def test_what_differs_from_build_to_build_is_no_instruction_which_a_cache_would_keep() -> None:
    arguments = re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert set(arguments) & {"VERSION", "REVISION", "SOURCE"} == set()
