"""Settings: flags and environment variables in, one frozen object out. Read once, at the entry."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import BaseSettings, CliSuppress, SettingsConfigDict

Origin = Annotated[
    str, StringConstraints(pattern=r"^https?://[^\s/*?#@]+$")
]  # as a browser sends it: no path, and never all

LogFormat = Literal["people", "json"]


class Settings(BaseSettings):
    """How the service runs. Each setting is a flag, and `UPRIGHT_<NAME>` in the environment; the flag wins."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="UPRIGHT_",
        cli_prog_name="python -m service",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_show_env_vars=True,
        env_ignore_empty=True,  # an empty line in a file of variables asks for nothing
    )

    host: str = Field(
        "127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 for all"
    )
    port: int = Field(
        8000, ge=0, le=65_535, description="TCP port to listen on; 0 for any that is free"
    )
    bundle: Path = Field(Path("models/cartpole-dqn"), description="folder of the bundle to serve")
    backend: Literal["onnx", "torchscript"] = Field(
        "onnx", description="what runs the policy; torchscript needs torch"
    )
    min_score: float = Field(
        0,
        ge=0,
        description="mean score, in steps, that the manifest's evaluation must reach for a bundle to be served",
    )
    watch: float | None = Field(
        None,
        ge=0.1,
        description="seconds between two looks whether another bundle lies in the folder",
    )
    shadow: Path | None = Field(
        None,
        description="folder of a second bundle that answers the same states unseen, to be compared",
    )
    shadow_margin: float = Field(
        1,
        ge=0,
        description="gap between the live Q-values from which on a disagreement counts as wide",
    )
    max_body: int = Field(16_384, gt=0, description="bytes that the body of /act may have")
    max_batch: int = Field(10_000, gt=0, description="states that one /act/batch may hold")
    max_batch_body: int = Field(
        2_097_152, gt=0, description="bytes that the body of /act/batch may have"
    )
    uds: Path | None = Field(None, description="Unix socket to listen on as well")
    uds_mode: str = Field(
        "660", pattern="^[0-7]{3}$", description="permissions of the Unix socket, in octal"
    )
    uds_only: bool = Field(False, description="true: listen on the Unix socket in place of TCP")
    grpc_port: int | None = Field(
        None, ge=0, le=65_535, description="TCP port of the gRPC door; needs the extra grpc"
    )
    keep_alive: int = Field(
        75,
        gt=0,
        description="seconds that an idle connection stays open; longer than a load balancer's own",
    )
    head_timeout: int = Field(
        10,
        gt=0,
        description="seconds in which the head of a request must come, from its first byte",
    )
    body_timeout: int = Field(
        30,
        gt=0,
        description="seconds in which a request must come whole, and a client take some of what waits for it",
    )
    max_concurrent_requests: int = Field(
        512,
        gt=0,
        description="requests under way at the same time; more get 503 and Retry-After, but for health and metrics",
    )
    stream_rate: int = Field(
        0,
        ge=0,
        description="messages that a stream may send in a second, more are refused; 0 for any number",
    )
    drain: float = Field(
        5,
        ge=0,
        description="seconds that the service goes on answering after SIGTERM, not ready any more, before it stops to listen",
    )
    shutdown: int = Field(
        10, ge=0, description="seconds that requests under way get when the service is told to stop"
    )
    record: Path | None = Field(None, description="SQLite file that every decision is recorded in")
    record_size: int = Field(
        268_435_456,
        gt=0,
        description="bytes from which on a record's file is set aside for a new one",
    )
    record_age: int = Field(
        86_400, gt=0, description="seconds after which a record's file is set aside for a new one"
    )
    record_keep: int = Field(
        10, ge=0, description="files set aside that are kept, for each process"
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="processes that share the port, to use more cores; their metrics add up",
    )

    keys: Path | None = Field(
        None, description="file of keys; without one, whoever reaches the service is answered"
    )
    cors_origin: list[Origin] = Field(
        [], description="origin whose pages may call the service; may be given more than once"
    )
    tls_cert: Path | None = Field(
        None, description="certificate chain in PEM: HTTP, streams and gRPC are then TLS only"
    )
    tls_key: Path | None = Field(
        None,
        description="private key of the certificate, in PEM; its password, if it has one, in UPRIGHT_TLS_KEY_PASSWORD",
    )
    tls_key_password: CliSuppress[SecretStr | None] = Field(
        None, description="password of the private key, from the environment only"
    )
    tls_client_ca: Path | None = Field(
        None, description="authority in PEM: only clients with a certificate of it are answered"
    )
    log_format: LogFormat = Field("people", description="lines for people, or JSON for programs")
    log_requests: bool = Field(
        False, description="true: log a line for each request, not only for those that failed"
    )
    log_states: bool = Field(False, description="true: those lines hold the states too")
    tracing: bool = Field(
        False, description="true: an OpenTelemetry span for each request; needs the extra tracing"
    )

    @model_validator(mode="after")
    def _listens_somewhere(self) -> Self:
        if self.uds_only and self.uds is None:
            raise ValueError("uds_only needs a path in uds, or the service would listen nowhere")
        if self.grpc_port is not None and self.workers > 1:
            raise ValueError("grpc_port needs workers to be 1: the gRPC port is one process's own")
        if self.log_states and not self.log_requests:
            raise ValueError(
                "log_states needs log_requests: its lines are what would hold the states"
            )
        return self

    @model_validator(mode="after")
    def _tls_fits_together(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError(
                "tls_cert and tls_key go together: a certificate is no use without its key"
            )
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError(
                "tls_client_ca needs tls_cert and tls_key: only over TLS does a client show a certificate"
            )
        if self.tls_cert is not None and self.uds is not None:
            raise ValueError(
                "uds and tls_cert do not go together: TLS is on all that a service listens on; let a second one have the socket"
            )
        if self.tls_key_password is not None and self.grpc_port is not None:
            raise ValueError(
                "grpc_port needs a tls_key that is not encrypted: gRPC takes no password"
            )
        return self
