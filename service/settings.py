"""How the service runs: one frozen object, read once, at the entry.

A setting comes from a flag, else from the environment, else from a file, else from its default.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    CliDualFlag,
    CliSuppress,
    EnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

ENVIRONMENT_PREFIX = "UPRIGHT_"
KSERVE_NAME = "INFERENCE_SERVICE_NAME"  # the variable in which KServe says how callers name it

LogFormat = Literal["people", "json"]

# The first setting of each group; the help and docs/configuration.md show the settings by these.
GROUP_STARTS = {
    "host": "Listening",
    "bundle": "Bundle",
    "max_body": "Limits",
    "drain": "Running",
    "record": "Recording",
    "keys": "Keys, TLS and browsers",
    "log_format": "Observing",
}


class ConfigFileError(Exception):
    """Raised when the file that `--config` names cannot be read."""


@dataclass(frozen=True)
class Metavar:
    """What the help shows in the place of a setting's value."""

    name: str


def _check_path(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a path cannot hold a NUL character")
    return path


def _split_at_commas(value: object) -> object:
    """Return the parts of a text with commas between them, which variables and flags are."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return value


Port = Annotated[int, Field(ge=0, le=65_535), Metavar("PORT")]
Count = Annotated[int, Field(le=2**31 - 1), Metavar("N")]
Bytes = Annotated[int, Field(gt=0, le=2**40), Metavar("BYTES")]
# A hundred years: more than any wait, and less than what the system's timers overflow at.
Seconds = Annotated[int, Field(le=3_155_760_000), Metavar("SECONDS")]
FractionalSeconds = Annotated[
    float, Field(le=3_155_760_000, allow_inf_nan=False), Metavar("SECONDS")
]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False), Metavar("NUMBER")]
Folder = Annotated[Path, AfterValidator(_check_path), Metavar("FOLDER")]
File = Annotated[Path, AfterValidator(_check_path), Metavar("FILE")]
# As a browser sends it: no path, and never all.
Origin = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/*?#@]+$")]
Origins = Annotated[
    list[Origin], NoDecode, BeforeValidator(_split_at_commas), Metavar("ORIGIN[,ORIGIN…]")
]

HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$|^\[[0-9A-Fa-f:.]+\]$")]
HostNames = Annotated[
    list[HostName], NoDecode, BeforeValidator(_split_at_commas), Metavar("NAME[,NAME…]")
]

# As proxies are configured: with or without a slash at the end.
UrlPath = Annotated[
    str,
    BeforeValidator(lambda value: value.rstrip("/") if isinstance(value, str) else value),
    StringConstraints(pattern=r"^(/[A-Za-z0-9._~-]+)*$"),
    Metavar("PATH"),
]

Address = Annotated[str, StringConstraints(min_length=1)]
Addresses = Annotated[
    list[Address], NoDecode, BeforeValidator(_split_at_commas), Metavar("ADDRESS[,ADDRESS…]")
]

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
ModelNames = Annotated[
    list[ModelName], NoDecode, BeforeValidator(_split_at_commas), Metavar("NAME[,NAME…]")
]


def url_host(host: str) -> str:
    """Return a host as it stands in a URL: an address of IPv6 in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]" if ":" in host else host


class Settings(BaseSettings):
    """Serve a bundle."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENVIRONMENT_PREFIX,
        env_ignore_empty=True,  # an empty line in a file of variables asks for nothing
    )

    # Listening
    host: Addresses = Field(
        ["127.0.0.1"],
        min_length=1,
        description="address to listen on, by HTTP and gRPC; 0.0.0.0 for all of IPv4, :: for all;"
        " may be given more than once",
    )
    port: Port = Field(8000, description="TCP port to listen on; 0 for any that is free")
    uds: File | None = Field(None, description="Unix socket to listen on as well")
    uds_mode: Annotated[str, Metavar("MODE")] = Field(
        "660", pattern="^[0-7]{3}$", description="permissions of the Unix socket, in octal"
    )
    uds_only: CliDualFlag[bool] = Field(
        False, description="listen on the Unix socket in place of TCP"
    )
    grpc_port: Port | None = Field(
        None, description="TCP port to answer gRPC on; needs the extra grpc"
    )
    root_path: UrlPath = Field(
        "/",
        validate_default=True,
        description="path below which a proxy, which takes it away, shows the service, as in"
        " /policy",
    )

    # Bundle
    bundle: Folder = Field(Path("models/cartpole-dqn"), description="folder of the bundle to serve")
    backend: Literal["onnx", "torchscript"] = Field(
        "onnx", description="what runs the policy; torchscript needs torch"
    )
    bundle_wait: FractionalSeconds = Field(
        0,
        ge=0,
        description="seconds that a start waits, alive and not ready, for a bundle that has not"
        " come; 0 to end at once",
    )
    model_name: ModelNames = Field(
        [],
        description="name of the model below /v2 and over gRPC, in place of the bundle's, and of"
        f" what KServe says in {KSERVE_NAME}; may be given more than once: the others are aliases",
    )
    min_score: Annotated[Number, Metavar("STEPS")] = Field(
        0,
        description="mean score, in steps, that the manifest's evaluation must reach for a bundle"
        " to be served",
    )
    verify_key: File | None = Field(
        None,
        description="public key in PEM by which a bundle must be signed to be served; needs the"
        " extra signing",
    )
    watch: FractionalSeconds | None = Field(
        None,
        ge=0.1,
        description="seconds between two looks whether another bundle lies in the folder, or the"
        " files of keys and certificates are others",
    )
    shadow: Folder | None = Field(
        None,
        description="folder of a second bundle that answers the same states unseen, to be compared",
    )
    shadow_margin: Number = Field(
        0.1, description="gap between the live Q-values from which on a disagreement counts as wide"
    )

    # Limits
    max_body: Bytes = Field(16_384, description="bytes that the body of /act may have")
    max_batch: Count = Field(10_000, gt=0, description="states that one /act/batch may hold")
    max_batch_body: Bytes = Field(
        2_097_152, description="bytes that the body of /act/batch may have"
    )
    keep_alive: Seconds = Field(
        75,
        gt=0,
        description="seconds that an idle connection stays open; longer than a load balancer's own",
    )
    max_connection_age: Seconds = Field(
        0,
        ge=0,
        description="seconds after which a connection is ended, give or take a tenth, once it owes"
        " no answer, so that callers find new servers; 0 for never",
    )
    header_timeout: Seconds = Field(
        10,
        gt=0,
        description="seconds in which the headers of a request must come, from its first byte",
    )
    body_timeout: Seconds = Field(
        30,
        gt=0,
        description="seconds in which a request must come whole, and a client take some of what"
        " waits for it",
    )
    max_concurrent_requests: Count = Field(
        512,
        gt=0,
        description="requests in flight at the same time; more get 503 and Retry-After, but for"
        " health and metrics",
    )
    stream_rate: Count = Field(
        0,
        ge=0,
        description="messages that a stream may send in a second, more are refused; 0 for any"
        " number",
    )

    refuse_out_of_range: CliDualFlag[bool] = Field(
        False,
        description="refuse states outside what training saw (422), in place of an action; a"
        ' request can ask for it by "strict": true',
    )

    # Running
    drain: FractionalSeconds = Field(
        5,
        ge=0,
        description="seconds that the service goes on answering after SIGTERM, not ready any more,"
        " before it stops to listen",
    )
    shutdown: Seconds = Field(
        10,
        ge=0,
        description="seconds that requests in flight get once a stop has drained the service",
    )
    workers: Annotated[int, Metavar("N")] = Field(
        1,
        ge=1,
        le=64,
        description="processes that share the port, to use more cores; their metrics add up",
    )
    config: File | None = Field(
        None,
        description="TOML file of settings, named as the flags are; flags and the environment win",
    )

    # Recording
    record: File | None = Field(None, description="SQLite file that every decision is recorded in")
    record_size: Bytes = Field(
        268_435_456,
        description="bytes, with the journal, from which on a record's file is set aside for a new"
        " one",
    )
    record_age: Seconds = Field(
        86_400, gt=0, description="seconds after which a record's file is set aside for a new one"
    )
    record_keep: Count = Field(
        10, ge=0, description="files set aside that are kept, for each process"
    )

    # Keys, TLS and browsers
    keys: File | None = Field(
        None, description="file of keys; without one, whoever reaches the service is answered"
    )
    cors_origin: Origins = Field(
        [], description="origin whose pages may call the service; may be given more than once"
    )
    allowed_host: HostNames = Field(
        [],
        description="name by which the service may be called; may be given more than once. Without"
        " one, a service on loopback is called by loopback's names, and others by any",
    )
    tls_cert: File | None = Field(
        None, description="certificate chain in PEM: HTTP, streams and gRPC are then TLS only"
    )
    tls_key: File | None = Field(
        None,
        description="private key of the certificate, in PEM; its password, if it has one, in"
        " UPRIGHT_TLS_KEY_PASSWORD",
    )
    tls_key_password: CliSuppress[SecretStr | None] = Field(
        None, description="password of the private key, never a flag"
    )
    tls_client_ca: File | None = Field(
        None, description="authority in PEM: only clients with a certificate of it are answered"
    )

    # Observing
    log_format: LogFormat = Field("people", description="lines for people, or JSON for programs")
    log_requests: CliDualFlag[bool] = Field(
        False, description="log a line for each request, not only for those that failed"
    )
    log_states: CliDualFlag[bool] = Field(False, description="those lines hold the states too")
    tracing: CliDualFlag[bool] = Field(
        False, description="an OpenTelemetry span for each request; needs the extra tracing"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings passes it
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where settings come from, the strongest source first."""
        assert isinstance(env_settings, EnvSettingsSource)  # noqa: S101 - as BaseSettings makes it
        from_environment = env_settings.env_vars.get(variable("config").lower())
        path = init_settings().get("config") or from_environment
        model_name = env_settings.env_vars.get(KSERVE_NAME.lower())
        from_kserve = InitSettingsSource(
            settings_cls, {"model_name": [model_name]} if model_name else {}
        )
        if not path:
            return init_settings, env_settings, from_kserve

        config_file = InitSettingsSource(settings_cls, read_config_file(Path(path)))
        return init_settings, env_settings, config_file, from_kserve

    @model_validator(mode="after")
    def _check_listening(self) -> Self:
        if self.uds_only and self.uds is None:
            raise ValueError("--uds-only needs --uds FILE, or the service would listen nowhere")
        if self.grpc_port is not None and self.workers > 1:
            raise ValueError("--grpc-port needs --workers 1: one process alone can have the port")
        if self.log_states and not self.log_requests:
            raise ValueError("--log-states needs --log-requests, whose lines would hold the states")
        return self

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError(
                "--tls-cert and --tls-key go together: a certificate is no use without its key"
            )
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError(
                "--tls-client-ca needs --tls-cert and --tls-key: only over TLS does a client show"
                " a certificate"
            )
        if self.tls_cert is not None and self.uds is not None:
            raise ValueError(
                "--uds and --tls-cert do not go together: TLS is on all that a service listens on;"
                " start a second service for the socket"
            )
        if self.tls_key_password is not None and self.grpc_port is not None:
            raise ValueError(
                "--grpc-port needs a --tls-key that is not encrypted: gRPC takes no password"
            )
        return self


def read_config_file(path: Path) -> dict[str, Any]:
    """Return the settings in a TOML file, by their names in `Settings`.

    The file may name a setting as its flag (`log-format`) or as its field (`log_format`). Raises
    `ConfigFileError`.
    """
    from models.toml import TomlError, read_toml  # only those who have such a file wait for it

    try:
        content = read_toml(path)
    except TomlError as error:
        raise ConfigFileError(f"--config {path}: {error}") from error

    if "config" in content:
        raise ConfigFileError(f"--config {path}: a file of settings cannot name another one")
    return {name.replace("-", "_"): value for name, value in content.items()}


def flag(name: str) -> str:
    """Return a setting's flag."""
    return f"--{name.replace('_', '-')}"


def variable(name: str) -> str:
    """Return a setting's environment variable."""
    return f"{ENVIRONMENT_PREFIX}{name.upper()}"


def grouped(fields: Mapping[str, FieldInfo]) -> Iterator[tuple[str, str, FieldInfo]]:
    """Give each setting of `Settings` after the title of its group."""
    title = ""
    for name, field in fields.items():
        title = GROUP_STARTS.get(name, title)
        yield title, name, field
