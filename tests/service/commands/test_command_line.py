"""What can be typed after `python -m service`, and what is said where it is wrong."""

import json
import re
from pathlib import Path

import pytest

from service.commands.command_line import COMMANDS, UsageError, parse, parse_settings
from service.settings import GROUP_STARTS
from tests.support.service import refused, run_program


@pytest.mark.parametrize("command", [(), ("serve",)])
def test_the_help_shows_the_commands_and_the_settings_in_their_groups(
    command: tuple[str, ...],
) -> None:
    result = run_program(*command, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", result.stdout, re.MULTILINE)
    titles = re.findall(r"^([A-Z][^:\n]*):$", result.stdout, re.MULTILINE)
    assert titles[-len(GROUP_STARTS) :] == list(GROUP_STARTS.values())
    for shown in ("--port PORT", "--bundle FOLDER", "--drain SECONDS", "--max-body BYTES"):
        assert f"  {shown} " in result.stdout
    # A switch has no value.
    assert re.search(r"^  --tracing, --no-tracing$", result.stdout, re.MULTILINE)


@pytest.mark.parametrize("command", ["key", "replay", "export"])
def test_each_command_has_a_help_of_its_own(command: str) -> None:
    result = run_program(command, "--help")
    assert result.returncode == 0
    assert f"python -m service {command}" in result.stdout
    assert "UPRIGHT_" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prot", "1"], "--prot is no flag; did you mean --port?"),
        (["--port=1", "--sahdow=x"], "--sahdow is no flag; did you mean --shadow?"),
        (["--zzzzzz"], "--zzzzzz is no flag"),
        (["--port"], "--port needs a value: --port PORT"),
        (["--tracing", "true"], "--tracing takes no value"),
        (["--tracing=true"], "--tracing takes no value"),
        (["--no-tracing", "1"], "--no-tracing takes no value"),
        (["--no-port"], "--no-port is no flag; did you mean --port?"),
        (["--version"], "--version is no flag\n"),
        (["--port", "1", "key"], "'key' is no flag"),
        (["replya", "x"], "'replya' is no command; did you mean replay?"),
        (["--port", "x"], "--port: should be a valid integer"),
        (["--grpc-port", "1", "--workers", "2"], "--grpc-port needs --workers 1"),
        (["key"], "missing: NAME"),
        (["key", "a"], "missing: --scope"),
        (["key", "a", "--scope", "all", "--keys", "k"], "--scope: should be 'act', 'admin' or"),
        (["replay"], "missing: FILE"),
        (["export", "a.sqlite"], "missing: --to"),
        (["export", "a.sqlite", "--too", "b.csv"], "--too is no flag; did you mean --to?"),
    ],
)
def test_what_is_typed_wrongly_is_told_in_one_line(arguments: list[str], message: str) -> None:
    result = run_program(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"upright: {message}")


def test_flags_win_over_the_environment_and_the_environment_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "service.toml"
    file.write_text(
        "port = 1\ndrain = 2.5\nlog-format = 'json'\nlog_requests = true\n"
        "cors-origin = ['https://a.example']\n"
    )
    monkeypatch.setenv("UPRIGHT_PORT", "2")
    monkeypatch.setenv("UPRIGHT_DRAIN", "3")
    settings = parse_settings(["--config", str(file), "--port", "4"])
    assert (settings.port, settings.drain, settings.log_format) == (4, 3, "json")
    assert (settings.log_requests, settings.cors_origin) == (True, ["https://a.example"])
    monkeypatch.setenv("UPRIGHT_CONFIG", str(file))
    assert parse_settings([]).log_format == "json"


def test_a_switch_that_the_environment_has_on_can_be_switched_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UPRIGHT_LOG_REQUESTS", "true")
    assert parse_settings([]).log_requests
    assert not parse_settings(["--no-log-requests"]).log_requests
    monkeypatch.setenv("UPRIGHT_LOG_REQUESTS", "false")
    assert parse_settings(["--log-requests"]).log_requests


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_the_help_is_for_terminals_of_any_encoding(encoding: str) -> None:
    result = run_program("--help", environment={"PYTHONIOENCODING": encoding})
    assert (result.returncode, result.stderr) == (0, "")
    dots = "…" if encoding == "utf-8" else "..."
    assert f"--host ADDRESS[,ADDRESS{dots}]" in result.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prot = 1", "service.toml: 'prot' is no setting; did you mean port?"),
        ("drain = 'x'", "service.toml: drain: should be a valid number"),
        ("log_format = 'x'", "service.toml: log-format: should be 'people' or 'json'"),
        ("[serve]\nport = 1", "service.toml: 'serve' is no setting"),
        ("config = 'another.toml'", "cannot name another one"),
        ("port = ", "is no TOML"),
        ('uds = "a\\u0000b"', "a path cannot hold a NUL character"),
        (f"port = {'9' * 5_000}", "is no TOML"),
        (f"port = {'[' * 5_000}", "is no TOML"),
        (b"\xff\xfe", "is no text"),
        (None, "No such file or directory"),
    ],
)
def test_a_wrong_file_of_settings_is_told_in_one_line(
    tmp_path: Path, content: str | bytes | None, message: str
) -> None:
    file = tmp_path / "service.toml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, error_text = refused("--config", str(file))
    assert (code, error_text.count("\n")) == (2, 1)
    assert message in error_text
    assert f"--config {file}: " in error_text


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--prot", "1"], {"UPRIGHT_LOG_FORMAT": "json"}),
        (["--prot", "1", "--log-format", "json"], {}),
        (["--log-format=json"], {"UPRIGHT_DRAIN": "x"}),
        ([], {"UPRIGHT_LOG_FORMAT": "json", "UPRIGHT_PORTT": "1"}),
        (["--grpc-port", "1", "--workers", "2"], {"UPRIGHT_LOG_FORMAT": "json"}),
    ],
)
def test_a_refusal_is_json_where_the_log_would_be(
    arguments: list[str], environment: dict[str, str]
) -> None:
    code, error_text = refused(*arguments, environment=environment)
    (line,) = error_text.splitlines()
    assert (code, json.loads(line)["level"]) == (2, "critical")


def test_variables_named_as_commands_are_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVE", "KEY", "REPLAY", "EXPORT", "NAME"):
        monkeypatch.setenv(name, "{")
    assert parse_settings([]).port == 8000
    with pytest.raises(UsageError, match="missing: NAME"):
        parse(["key"])
