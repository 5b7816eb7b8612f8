"""Where Kafka is and how it is spoken to: the one place that turns settings into options of a client."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

Security = Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@dataclass(frozen=True, slots=True)
class Brokers:
    """Kafka's addresses, `host:port[,host:port...]`, and what a client needs to be let in."""

    address: str
    security: Security = "plaintext"
    ca_file: str = ""
    """Who has signed the brokers' certificates; empty: whom this machine trusts."""
    cert_file: str = ""
    key_file: str = ""
    """This client's own certificate, where brokers ask for one."""
    username: str = ""
    password: str = field(default="", repr=False)
    mechanism: Mechanism = "SCRAM-SHA-512"

    def __str__(self) -> str:
        return self.address

    @property
    def uses_tls(self) -> bool:
        """Whether what is said is sealed, and the broker's name proven."""
        return self.security in ("ssl", "sasl_ssl")

    @property
    def uses_sasl(self) -> bool:
        """Whether the client says who it is by name and password."""
        return self.security.startswith("sasl")


def client_options(kafka: Brokers | str) -> dict[str, Any]:
    """What every client of aiokafka is made with. A plain address stands for brokers that ask for nothing.

    Raises OSError (a certificate's file cannot be read) and :class:`ssl.SSLError` (it is none).
    """
    if isinstance(kafka, str):
        return {"bootstrap_servers": kafka}
    options: dict[str, Any] = {
        "bootstrap_servers": kafka.address,
        "security_protocol": kafka.security.upper(),
    }
    if kafka.uses_tls:
        options["ssl_context"] = tls_context(kafka)
    if kafka.uses_sasl:
        options |= {
            "sasl_mechanism": kafka.mechanism,
            "sasl_plain_username": kafka.username,
            "sasl_plain_password": kafka.password,
        }
    return options


@cache
def tls_context(kafka: Brokers) -> ssl.SSLContext:
    """The TLS of a client: TLS 1.2 or newer, the broker's certificate and name are checked, always."""
    context = ssl.create_default_context(cafile=kafka.ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if kafka.cert_file:
        context.load_cert_chain(kafka.cert_file, kafka.key_file or None)
    return context
