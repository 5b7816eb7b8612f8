"""All settings of the product: one frozen object, read and checked once at start.

Sources, the first that has a value wins: arguments, the environment (``AURA_*``), the file ``<home>/env``
that ``aura up`` writes, the default. Nothing else in the product reads the environment.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

import msgspec
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from aura_stream import SettingsError, SetupError
from aura_stream.brokers import Brokers, Mechanism, Security
from aura_stream.domain.lanes import bank, minter
from aura_stream.domain.state import SettlementRules

__all__ = ["Settings", "SettingsError", "SetupError", "load_settings", "read_env_file"]

PREFIX = "AURA_"
ENV_FILE = "env"
"""Name of the KEY=VALUE file inside ``home``."""

_TENANT = re.compile(r"[a-z0-9_-]{1,64}")
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")
_SANDBOX_SECRET = "known-to-everybody-and-good-for-play-money-only"  # noqa: S105 - refused outside the sandbox
_IDENTITY_SECRET_MIN = {"sandbox": 32, "live": 64}
_DSN_PASSWORD_MIN = 12
_DSNS = ("postgres_dsn", "postgres_write_dsn", "postgres_read_dsn", "postgres_identity_dsn")
_TELLTALE = re.compile(r"change-?me|known-to|secret|password|example|sandbox|(.)\1{7}", re.IGNORECASE)
"""What no random secret contains, and every placeholder does."""


class OidcIssuer(BaseModel):
    """An issuer whose access tokens are taken as logins of one tenant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: str = Field(min_length=1, max_length=512)
    tenant: str = Field(pattern=r"^[a-z0-9_-]{1,64}$")
    audience: str = Field(min_length=1, max_length=512)
    """What `aud`, or `client_id` of a token without `aud`, must be."""
    jwks_url: str = Field(pattern=r"^https?://[^\s]+$", max_length=1024)


class _StrictRules(SettlementRules, frozen=True, forbid_unknown_fields=True):
    """As they may be set: a name that is not known is a mistake."""


class _StrictBank(bank.Limits, frozen=True, forbid_unknown_fields=True):
    """As they may be set."""


class _StrictChain(minter.Limits, frozen=True, forbid_unknown_fields=True):
    """As they may be set."""


_STRUCTS: dict[str, Any] = {
    "settlement_rules": _StrictRules,
    "bank_limits": dict[str, _StrictBank],
    "chain_limits": _StrictChain,
}


class _EnvFile(PydanticBaseSettingsSource):
    """Reads ``<home>/env``. A source of its own because the file's place is itself a setting."""

    def __init__(self, settings_cls: type[BaseSettings], home: Path) -> None:
        super().__init__(settings_cls)
        self._values = read_env_file(home / ENV_FILE)

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self._values.get(PREFIX + field_name.upper()), field_name, False

    def __call__(self) -> dict[str, Any]:
        return {
            name: value
            for name, field in self.settings_cls.model_fields.items()
            if (value := self.get_field_value(field, name)[0]) is not None
        }


class _SecretFiles(_EnvFile):
    """Reads `AURA_<NAME>_FILE`: a secret that a file holds is in no list of processes and in no inspected container."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        PydanticBaseSettingsSource.__init__(self, settings_cls)
        self._values = {
            PREFIX + name.upper(): _content(variable, path)
            for name in settings_cls.model_fields
            # The chain's key has a setting of its own for its file, with rules of its own.
            if f"{name}_file" not in settings_cls.model_fields
            and (path := os.environ.get(variable := f"{PREFIX}{name.upper()}_FILE"))
        }


def _content(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            "A file with a setting cannot be read.",
            where=f"{variable} in the environment",
            why=str(error) if isinstance(error, OSError) else f"{path} is no text",
            fix="name a file that this user can read, or unset the variable",
        ) from error


class Settings(BaseSettings):
    """The settings of one process. Every field can be set as ``AURA_<NAME>``."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    mode: Literal["sandbox", "live"] = Field(
        "sandbox", description="`sandbox`: play money, simulated banks. `live` refuses unsafe defaults."
    )
    profile: Literal["all", "settlement"] = Field(
        "all",
        description="`settlement`: banks and chain alone. The API has no routes of the other systems (transfers, "
        "holds, webhooks, batches, privacy, their paths), and `aura up` does not start their role.",
    )
    home: Path = Field(Path(".aura"), description="Directory for data, logs, pid files and the env file.")
    kafka_bootstrap: str = Field(
        "", description="Kafka brokers, `host:port[,host:port...]`; default: 127.0.0.1:<kafka_port>."
    )
    kafka_security: Security = Field(
        "plaintext",
        description="How brokers are spoken to: `plaintext`, `ssl` (TLS), `sasl_plaintext`, `sasl_ssl` (with a "
        "name and password).",
    )
    kafka_ca_file: Path | None = Field(
        None, description="File with who has signed the brokers' certificates; default: whom this machine trusts."
    )
    kafka_cert_file: Path | None = Field(
        None, description="File with this client's certificate, where brokers ask for one."
    )
    kafka_key_file: Path | None = Field(None, description="File with its key; default: in the same file.")
    kafka_username: str = Field("", description="Name of this process at the brokers, with `sasl_...`.")
    kafka_password: SecretStr = Field(SecretStr(""), description="Its password.")
    kafka_mechanism: Mechanism = Field(
        "SCRAM-SHA-512", description="How the password is proven: `SCRAM-SHA-512`, `SCRAM-SHA-256`, `PLAIN`."
    )
    private_network: bool = Field(
        False,
        description="Says that Kafka and Postgres are reached over a network of their own, as in docker-compose.yml: "
        "else what is not on this machine needs TLS outside the sandbox.",
    )
    kafka_port: int = Field(9092, ge=1, le=65535, description="Port of the embedded Kafka that `aura up` starts.")
    postgres_dsn: str = Field(
        "",
        description="Postgres as the owner of the schema (migrations), `postgresql://user:password@host:port/db`; "
        "default: aura@127.0.0.1:<postgres_port>/aura.",
    )
    postgres_write_dsn: str = Field("", description="Postgres as the ledger's writer; default: the owner's DSN.")
    postgres_read_dsn: str = Field("", description="Postgres as a reader; default: the owner's DSN.")
    postgres_identity_dsn: str = Field(
        "", description="Postgres as the keeper of users, sessions and keys (the API); default: the owner's DSN."
    )
    pool_size: int = Field(
        10, ge=1, le=1000, description="Connections to Postgres, at most, of each pool of an API process (three)."
    )
    postgres_port: int = Field(5432, ge=1, le=65535, description="Port of the embedded Postgres.")
    api_host: str = Field("127.0.0.1", description="Address the HTTP API listens on.")
    api_port: int = Field(8080, ge=1, le=65535, description="Port the HTTP API listens on.")
    metrics_host: str = Field("127.0.0.1", description="Address of `/metrics`, which is not on the API's port.")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="Port of `/metrics`; default: AURA_API_PORT + 1000, or - 1000 beyond 65535."
    )
    api_url: str = Field("", description="Where clients reach the API; default: http://<api_host>:<api_port>.")
    api_key: SecretStr | None = Field(
        None,
        description="The first operator's key of the HTTP API, which makes tenants and users; "
        "24 characters or more outside the sandbox.",
    )
    identity_secret: SecretStr = Field(
        SecretStr(_SANDBOX_SECRET),
        description="Seals signing keys and mails in Postgres, the same on all API nodes; "
        "random, 64 characters or more outside the sandbox.",
    )
    identity_secret_next: SecretStr | None = Field(
        None,
        description="The next AURA_IDENTITY_SECRET, while it is being changed (`aura keys rotate`); of the same form.",
    )
    token_issuer: str = Field("aura", description="`iss` of the tokens made here; the same on all API nodes.")
    access_token_s: int = Field(900, ge=10, le=3600, description="Life of an access token, in seconds.")
    refresh_token_s: int = Field(604_800, ge=60, le=2_592_000, description="Life of a refresh token, in seconds.")
    session_s: int = Field(
        2_592_000,
        ge=60,
        le=31_536_000,
        description="Longest life of a login however often it is refreshed, in seconds.",
    )
    signing_key_days: int = Field(30, ge=1, le=365, description="Days after which a new signing key takes over.")
    password_threads: int = Field(2, ge=1, le=64, description="Passwords hashed at the same time by one API process.")
    password_queue: int = Field(
        32, ge=0, le=10_000, description="Logins that may wait for that; the next one is answered 503."
    )
    oidc_issuers: tuple[OidcIssuer, ...] = Field(
        (), description='External issuers, JSON: `[{"issuer", "tenant", "audience", "jwks_url"}]` (RS256).'
    )
    rate_limit: int = Field(
        100,
        ge=1,
        le=10**9,
        description="Requests per user or API key, and per address on open routes, in a window; "
        "a tenant may have its own. The first operator has none.",
    )
    rate_window_s: int = Field(60, ge=1, le=86_400, description="That window, in seconds.")
    command_limit: int = Field(
        100_000, ge=1, le=10**9, description="Commands in batches per user or API key in a window."
    )
    login_limit: int = Field(
        10, ge=1, le=10**9, description="Failed logins per e-mail address in a login window; a success costs nothing."
    )
    login_window_s: int = Field(300, ge=1, le=86_400, description="The login window, in seconds.")
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Proxies whose X-Forwarded-For is believed: networks, comma separated, as in 10.0.0.0/8."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose pages may call the API, comma separated, as in https://app.example.com."
    )
    header_timeout_s: float = Field(
        10.0, ge=0.1, le=300, description="Seconds in which the first request of a connection must have its headers."
    )
    body_timeout_s: float = Field(30.0, ge=0.1, le=300, description="Seconds in which a body must arrive.")
    stall_timeout_s: float = Field(
        30.0, ge=0.1, le=3600, description="Seconds after which a client that takes nothing of an answer is cut off."
    )
    idempotency_ttl_s: int = Field(
        86_400,
        ge=86_400,
        le=31_536_000,
        description="Seconds for which the answer of a write that moves no money is kept for its key. "
        "Money keeps its reference for ever.",
    )
    ended_keep_s: int = Field(
        2_592_000,
        ge=3600,
        le=315_360_000,
        description="Seconds for which ended sessions, spent tokens and finished outbox rows are kept.",
    )
    cleanup_interval_s: float = Field(
        300.0, ge=0.05, le=86_400, description="Seconds between two runs of the job that removes what has had its time."
    )
    seed_balance_eur_cents: int = Field(
        1_000_000,
        ge=0,
        le=10**12,
        description="What a new wallet starts with in the sandbox, in cents; nothing in live mode.",
    )
    smtp_url: SecretStr | None = Field(
        None,
        description="Mail server: `smtp://user:password@host:587` (STARTTLS is demanded) or `smtps://...:465`; in the "
        "sandbox also `smtp+plain://`. Default: in the sandbox a mailbox to look into, else mails wait.",
    )
    mail_from: str = Field(
        "Aura Stream <no-reply@localhost>",
        pattern=r"^[^\r\n]{1,200}$",
        description="Sender of mails, as in `Example Bank <no-reply@bank.example>`.",
    )
    mail_link: str = Field(
        "",
        max_length=1024,
        description="Page that takes what is in a mail, with `{template}` (verify_email, reset_password) and `{token}` "
        "in it; default: the mail shows the token.",
    )
    webhook_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts, or host:port, that webhooks may reach although they are not public, comma separated; "
        "sandbox only.",
    )
    streams_max: int = Field(
        1000, ge=1, le=100_000, description="Event streams that one API process serves at the same time."
    )
    api_wait_s: float = Field(2.0, ge=0, le=30, description="How long a request waits for its outcome, in seconds.")
    read_cache_mib: int = Field(
        16, ge=0, le=65_536, description="Memory of one API process for answers of reads, in MiB; 0: none are kept."
    )
    read_cache_s: float = Field(30.0, ge=0, le=3600, description="Longest life of such an answer, in seconds.")
    mock_bank_port: int = Field(8090, ge=1, le=65535, description="Loopback port of the mock bank (sandbox only).")
    mock_bank_secret: SecretStr | None = Field(
        None, description="From which the mock bank derives its secrets; default: made once and kept with its data."
    )
    partitions: int = Field(
        8, ge=1, le=1024, description="Partitions of every topic that moves money; fixed once the topics exist."
    )
    replication_factor: int = Field(1, ge=1, le=9, description="Replicas of every topic; 3 in production.")
    chain_rpc_url: str = Field("", description="JSON-RPC of the chain's node; default: the embedded one.")
    chain_port: int = Field(8545, ge=1, le=65535, description="Port of the embedded chain.")
    chain_confirmations: int = Field(
        3, ge=1, le=1000, description="Blocks, its own among them, after which a transaction on the chain counts."
    )
    chain_key: SecretStr | None = Field(None, description="Key that signs for the chain, 64 hexadecimal digits.")
    chain_key_file: Path | None = Field(
        None, description="File with that key, mode 600; default: <home>/chain/key, made once, in the sandbox only."
    )
    settlement: bool | None = Field(
        None,
        description="Whether `aura up` starts the roles `bank` and `chain`, in the sandbox with a mock bank and a "
        "local chain; default: in the sandbox yes, live no.",
    )
    settlement_rules: str = Field(
        "{}",
        description="What decisions on deposits by bank and withdrawals go by, JSON: `banks` (by rail), `chain`, "
        "`fees`, `approval_above`, `mint_hold_days` (by tenant), `review`, `denied` (names), `checker_lifts`, "
        "`day_limits` (by tenant and asset: `count`, `amount` that a customer may send per day).",
    )
    bank_limits: str = Field(
        "{}",
        description="What each bank allows and promises, JSON by bank: `tries`, `backoff_ms`, `calls_at_once`, "
        "`gap_ms`, `failures_to_open`, `open_ms`, `answer_ms`, `inquire_every_ms`, `inquiries`, `longest_delay_ms`, "
        "`window_ms`.",
    )
    chain_limits: str = Field(
        "{}",
        description="What the minters go by, JSON: `final_above`, `bump_after_blocks`, `bumps`, `fee_max` (wei per "
        "gas, default 2,000 gwei), `open_returns_max`, `statement_age_ms`, `supply_age_ms`, `backoff_ms`, "
        "`least_sweep` (by token, minor units: less waits at a deposit address for more to come; default one token). "
        "Confirmations are AURA_CHAIN_CONFIRMATIONS.",
    )
    banks_file: Path | None = Field(
        None,
        description="File with the banks' addresses and secrets, mode 600; default: the mock bank's "
        "<home>/mock-bank/credentials.json.",
    )
    bank_webhook_url: str = Field(
        "",
        description="Where banks send their events, with `{bank}` in it; default: <api_url>/v1/bank-webhooks/{bank}.",
    )
    bank_poll_s: float = Field(
        10.0,
        ge=0.1,
        le=3600,
        description="How often each bank is asked for events that no webhook has told, in seconds.",
    )
    bare_event_topics: bool = Field(
        False,
        description="Call the topics of events `transaction-events`, `account-events` and `auth-events` instead of "
        "`aura.<name>.v1`; the same for all processes, fixed once the topics exist.",
    )
    tenants: Annotated[tuple[str, ...], NoDecode] = Field(
        ("default", "demo"),
        description="Tenants to have from the start, comma separated; others are made over HTTP.",
    )
    sample_logins: bool = Field(
        False, description="Sandbox: makes alice@example.com and admin@example.com in the tenant `default`."
    )
    demo_tenant: str = Field(
        "", pattern=r"^[a-z0-9_-]{0,64}$", description="Sandbox: tenant of the demo people; all five are needed."
    )
    demo_admin_email: str = Field(
        "", max_length=254, description="Sandbox: e-mail address of the demo admin, who is an operator too."
    )
    demo_admin_password: SecretStr = Field(SecretStr(""), description="Sandbox: the demo admin's password.")
    demo_user_email: str = Field("", max_length=254, description="Sandbox: the demo user's e-mail address.")
    demo_user_password: SecretStr = Field(SecretStr(""), description="Sandbox: the demo user's password.")
    state_dir: Path | None = Field(None, description="Directory of the local state stores; default: <home>/state.")
    role: str = Field("main", description="Role of this process, a part of the default worker id.")
    slot: int = Field(0, ge=0, le=999, description="Number of this process among those of its role.")
    worker_id: str = Field(
        "", description="Name of this worker instance and of its state directory; default: <role>-<slot>."
    )
    faust_web_port: int = Field(6066, ge=1, le=65535, description="Loopback port of the worker's own status page.")
    session_timeout_s: float = Field(
        10.0, ge=6, le=300, description="Seconds without heartbeat after which Kafka gives a worker's partitions away."
    )
    app_id: str = Field("aura", description="Prefix of consumer groups and transactional ids.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe line logged.")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="Form of log lines; `auto`: text on a terminal, JSON elsewhere."
    )
    access_log: bool = Field(True, description="Whether the API logs one line per request.")

    @property
    def kafka(self) -> Brokers:
        """Where Kafka is, and how it is spoken to."""
        return Brokers(
            self.kafka_bootstrap,
            self.kafka_security,
            str(self.kafka_ca_file or ""),
            str(self.kafka_cert_file or ""),
            str(self.kafka_key_file or ""),
            self.kafka_username,
            self.kafka_password.get_secret_value(),
            self.kafka_mechanism,
        )

    @property
    def ready_file(self) -> Path:
        """The file that a worker writes when it does its work, and removes when it stops."""
        return self.home / "run" / f"{self.worker_id}.ready"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Which sources there are, the strongest first."""
        home = init_settings().get("home") or os.environ.get(PREFIX + "HOME") or ".aura"
        return init_settings, env_settings, _SecretFiles(settings_cls), _EnvFile(settings_cls, Path(home))

    @field_validator("tenants", "webhook_allow", "trusted_proxies", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("tenants")
    @classmethod
    def _known_form(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("at least one tenant is needed")
        for tenant in value:
            if not _TENANT.fullmatch(tenant):
                raise ValueError(f"tenant {tenant!r} must be 1 to 64 of a-z 0-9 _ -")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ip_network(network)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not an origin: scheme://host or scheme://host:port, no path, no *")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("kafka_bootstrap")
    @classmethod
    def _host_ports(cls, value: str) -> str:
        for part in value.split(","):
            host, _, port = part.strip().rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise ValueError(f"{part!r} is not host:port")
        return value

    @field_validator(*_DSNS)
    @classmethod
    def _is_dsn(cls, value: str) -> str:
        if value and not value.startswith(("postgresql://", "postgres://")):
            raise ValueError("a DSN must begin with postgresql://")
        return value

    @field_validator("chain_rpc_url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("the address of a node must begin with http:// or https://")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _is_mail_server(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parts = urlsplit(value.get_secret_value())
            if parts.scheme not in ("smtp", "smtps", "smtp+plain") or not parts.hostname:
                raise ValueError("a mail server is smtp://, smtps:// or (sandbox) smtp+plain://, then user, host, port")
        return value

    @field_validator("mail_link")
    @classmethod
    def _takes_a_token(cls, value: str) -> str:
        if value and "{token}" not in value:
            raise ValueError("a link must have {token} in it")
        return value

    @field_validator("settlement_rules", "bank_limits", "chain_limits")
    @classmethod
    def _is_struct(cls, value: str, info: ValidationInfo) -> str:
        try:
            msgspec.json.decode(value, type=_STRUCTS[info.field_name or ""])
        except msgspec.MsgspecError as error:
            raise ValueError(f"the JSON does not fit: {error}") from error
        return value

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Fill the defaults that follow from other settings, so that readers never have to."""
        default = {name: field.default for name, field in cls.model_fields.items()}
        have = {**default, **{name: value for name, value in values.items() if value not in (None, "")}}
        filled = dict(values)
        filled["kafka_bootstrap"] = have["kafka_bootstrap"] or f"127.0.0.1:{have['kafka_port']}"
        filled["postgres_dsn"] = have["postgres_dsn"] or f"postgresql://aura@127.0.0.1:{have['postgres_port']}/aura"
        for name in _DSNS[1:]:
            filled[name] = have[name] or filled["postgres_dsn"]
        filled["api_url"] = (have["api_url"] or f"http://{have['api_host']}:{have['api_port']}").rstrip("/")
        api_port = int(have["api_port"])
        filled["metrics_port"] = int(have["metrics_port"]) or api_port + (1000 if api_port <= 64_535 else -1000)
        filled["settlement"] = have["mode"] == "sandbox" if have["settlement"] is None else have["settlement"]
        filled["bank_webhook_url"] = have["bank_webhook_url"] or f"{filled['api_url']}/v1/bank-webhooks/{{bank}}"
        filled["chain_rpc_url"] = have["chain_rpc_url"] or f"http://127.0.0.1:{have['chain_port']}"
        filled["state_dir"] = have["state_dir"] or Path(have["home"]) / "state"
        filled["worker_id"] = have["worker_id"] or f"{have['role']}-{have['slot']}"
        return filled

    @model_validator(mode="after")
    def _let_in_by_kafka(self) -> Self:
        if self.kafka_security.startswith("sasl") and not (self.kafka_username and self.kafka_password):
            raise ValueError("kafka_username: with AURA_KAFKA_SECURITY=sasl_... a name and a password are needed")
        if self.mode == "sandbox" or self.private_network:
            return self
        hosts = [one.strip().rpartition(":")[0].strip("[]") for one in self.kafka_bootstrap.split(",")]
        if not self.kafka.uses_tls and not all(_is_here(host) for host in hosts):
            raise ValueError(
                "kafka_security: outside the sandbox brokers that are not on this machine need TLS (`ssl` or "
                "`sasl_ssl`), or AURA_PRIVATE_NETWORK=true"
            )
        for name in _DSNS:
            parts = urlsplit(getattr(self, name))
            modes = parse_qs(parts.query).get("sslmode", [""])
            if not _is_here(parts.hostname or "") and modes[-1] not in ("verify-ca", "verify-full"):
                raise ValueError(
                    f"{name}: outside the sandbox a database that is not on this machine needs `?sslmode=verify-full` "
                    "(with sslrootcert), or AURA_PRIVATE_NETWORK=true"
                )
        return self

    def require_sandbox(self, what: str, *, why: str, fix: str) -> None:
        """Raises :class:`SettingsError`, which begins with `what`, outside the sandbox."""
        if self.mode != "sandbox":
            raise SettingsError(what, where=f"AURA_MODE={self.mode}", why=why, fix=fix)

    @model_validator(mode="after")
    def _safe_in_live(self) -> Self:
        if self.mode != "sandbox" and self.webhook_allow:
            raise ValueError("webhook_allow: outside the sandbox webhooks reach public addresses only")
        if self.mode != "sandbox" and (self.api_key is None or len(self.api_key.get_secret_value()) < 24):
            raise ValueError("api_key: an API key of 24 characters or more must be set outside the sandbox")
        plain = self.smtp_url is not None and self.smtp_url.get_secret_value().startswith("smtp+plain:")
        if self.mode != "sandbox" and plain:
            raise ValueError("smtp_url: outside the sandbox mails travel by TLS, smtp:// or smtps://")
        least = _IDENTITY_SECRET_MIN[self.mode]
        for name, secret in self._identity_secrets():
            if len(secret) < least:
                raise ValueError(f"{name}: {least} characters or more are needed in mode {self.mode}")
            if self.mode != "sandbox" and _is_weak(secret):
                raise ValueError(f"{name}: outside the sandbox it must be random, as from `openssl rand -hex 32`")
        if self.mode != "sandbox":
            if self.api_key is not None and _is_weak(self.api_key.get_secret_value()):
                raise ValueError("api_key: outside the sandbox it must be random, as from `openssl rand -hex 32`")
            for name in _DSNS:
                password = urlsplit(getattr(self, name)).password
                if password is not None and (len(password) < _DSN_PASSWORD_MIN or _TELLTALE.search(password)):
                    raise ValueError(
                        f"{name}: outside the sandbox its password must be random and have "
                        f"{_DSN_PASSWORD_MIN} characters or more"
                    )
            if any(one.jwks_url.startswith("http:") for one in self.oidc_issuers):
                raise ValueError("oidc_issuers: outside the sandbox a jwks_url must begin with https://")
        for one in self.oidc_issuers:
            if one.tenant not in self.tenants:
                raise ValueError(f"oidc_issuers: tenant {one.tenant} is not in AURA_TENANTS")
        if len({one.issuer for one in self.oidc_issuers}) < len(self.oidc_issuers):
            raise ValueError("oidc_issuers: each issuer belongs to one tenant, and stands once")
        return self

    def _identity_secrets(self) -> list[tuple[str, str]]:
        named = {"identity_secret": self.identity_secret, "identity_secret_next": self.identity_secret_next}
        return [(name, one.get_secret_value()) for name, one in named.items() if one is not None]


def _is_here(host: str) -> bool:
    """Whether it names this machine; nothing at all is a socket on it."""
    try:
        return host in ("", "localhost") or host.startswith("/") or ip_address(host).is_loopback
    except ValueError:
        return False


def _is_weak(secret: str) -> bool:
    """Whether it reads like a placeholder, or has too few different characters to be random (hex has 16 at most)."""
    return bool(_TELLTALE.search(secret)) or len(set(secret)) < min(12, len(secret) // 3)


def read_env_file(path: Path) -> dict[str, str]:
    """The KEY=VALUE lines of ``path``; empty when there is none. Comments and blank lines are skipped.

    Raises :class:`SettingsError` for a line that is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(
            "The settings file cannot be read.", where=str(path), why=str(error), fix=f"chmod u+r {path}"
        ) from error
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, separator, value = line.partition("=")
        if not separator or not key.strip().replace("_", "").isalnum():
            raise SettingsError(
                "The settings file has a line that is not KEY=VALUE.",
                where=f"{path}, line {number}",
                why=f"it reads {line.split('=')[0][:40]!r}",
                fix="correct the line, or run `aura down && aura up`, which writes the file anew",
            )
        values[key.strip()] = value.strip().strip("\"'")
    return values


def load_settings(**overrides: object) -> Settings:
    """The settings of this process; ``overrides`` win over the environment and the env file.

    Raises :class:`SettingsError`, which names each bad setting, where its value came from, why it is refused and
    how to set it.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # checked by the model itself
    except ValidationError as error:
        home = Path(str(overrides.get("home") or os.environ.get(PREFIX + "HOME") or ".aura"))
        file_values = read_env_file(home / ENV_FILE)
        lines, places, names = [], [], []
        for problem in error.errors():
            # A rule over several fields names the one to change first in its message.
            field = str(problem["loc"][0]) if problem["loc"] else problem["msg"].split(": ")[0].split(", ")[-1]
            name = PREFIX + field.upper()
            names.append(name)
            if name in os.environ:
                places.append(f"{name} in the environment")
            elif name in file_values:
                places.append(f"{name} in {home / ENV_FILE}")
            else:
                places.append(name)
            lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}")
        raise SettingsError(
            "A setting cannot be used." if len(lines) == 1 else f"{len(lines)} settings cannot be used.",
            where="; ".join(dict.fromkeys(places)),
            why="; ".join(lines),
            fix=f"set {', '.join(dict.fromkeys(names))} to a value of the right form, or unset it to use the default",
        ) from error
