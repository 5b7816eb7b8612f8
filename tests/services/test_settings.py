"""Settings: where values come from, what is refused, and what the refusal says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from aura_stream.settings import Settings, SettingsError, load_settings, read_env_file


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"AURA_{name.upper()}", raising=False)
    monkeypatch.setenv("AURA_HOME", str(tmp_path))
    return tmp_path


def test_defaults_are_a_complete_sandbox(home: Path) -> None:
    settings = load_settings()
    assert settings.mode == "sandbox" and settings.partitions == 8
    assert settings.tenants == ("default", "demo")
    assert (
        settings.postgres_read_dsn
        == settings.postgres_write_dsn
        == settings.postgres_dsn
        == settings.postgres_identity_dsn
    )
    assert settings.api_url == "http://127.0.0.1:8080"
    assert settings.state_dir == home / "state"
    assert settings.ready_file == home / "run" / "main-0.ready"
    assert all(field.description for field in Settings.model_fields.values())


def test_argument_over_environment_over_file_over_default(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "env").write_text(
        "# ours\nAURA_PARTITIONS=4\nAURA_API_PORT=9000\nAURA_EMBEDDED=kafka\n\nAURA_TENANTS=a, b\n"
    )
    assert load_settings().partitions == 4
    monkeypatch.setenv("AURA_PARTITIONS", "16")
    settings = load_settings(role="ledger", slot=2)
    assert (settings.partitions, settings.api_port, settings.tenants) == (16, 9000, ("a", "b"))
    assert settings.api_url == "http://127.0.0.1:9000"
    assert settings.worker_id == "ledger-2"
    assert load_settings(partitions=32).partitions == 32


def test_u27_a_secret_is_read_from_a_file_that_a_variable_names(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("0f1e2d3c4b5a69788796a5b4c3d2e1f0\n")
    (home / "env").write_text("AURA_API_KEY=of-the-env-file\n")
    monkeypatch.setenv("AURA_API_KEY_FILE", str(secret))
    key = load_settings().api_key
    assert key is not None and key.get_secret_value() == "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
    monkeypatch.setenv("AURA_API_KEY", "of-the-environment")
    key = load_settings().api_key
    assert key is not None and key.get_secret_value() == "of-the-environment"
    monkeypatch.setenv("AURA_API_KEY_FILE", str(tmp_path / "missing"))
    with pytest.raises(SettingsError, match="AURA_API_KEY_FILE"):
        load_settings()


def test_settings_cannot_be_changed_and_hide_the_key(home: Path) -> None:
    settings = load_settings(api_key="a-secret-of-some-length-x")
    with pytest.raises(ValidationError):
        settings.partitions = 9
    assert "a-secret" not in repr(settings)


@pytest.mark.parametrize(("name", "value", "why"), [
    ("AURA_PARTITIONS", "many", "integer"),
    ("AURA_PARTITIONS", "0", "greater than or equal to 1"),
    ("AURA_MODE", "prod", "'sandbox' or 'live'"),
    ("AURA_TENANTS", "default,Demo!", "a-z 0-9 _ -"),
    ("AURA_KAFKA_BOOTSTRAP", "localhost", "host:port"),
    ("AURA_POSTGRES_DSN", "mysql://x", "postgresql://"),
])  # fmt: skip
def test_a_bad_value_is_named_with_its_place(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert f"{name} in the environment" in caught.value.where
    assert why in caught.value.why
    assert name in caught.value.fix
    monkeypatch.delenv(name)
    (home / "env").write_text(f"{name}={value}\n")
    with pytest.raises(SettingsError, match="cannot be used") as caught:
        load_settings()
    assert f"{name} in {home / 'env'}" in caught.value.where


SECRET = "5f0c1b8e27d94a36b1c2d3e4f5061728394a5b6c7d8e9f00112a3b4c5d6e7f80"


KEY = "q8Vn2xLr7TzK4mWc9Yd3Hb6J"


@pytest.mark.parametrize("key", [None, "short", "k" * 24])
def test_live_refuses_a_missing_or_weak_api_key(home: Path, key: str | None) -> None:
    with pytest.raises(SettingsError, match="AURA_API_KEY"):
        load_settings(mode="live", api_key=key, identity_secret=SECRET)
    assert load_settings(mode="live", api_key=KEY, identity_secret=SECRET).mode == "live"


@pytest.mark.parametrize(
    "secret", [None, "short", SECRET[:63], "k" * 64, "change-me-" + SECRET, SECRET[:32] + "password" * 5]
)
def test_sec44_l97_live_refuses_a_missing_default_or_weak_identity_secret(home: Path, secret: str | None) -> None:
    given = {} if secret is None else {"identity_secret": secret}
    with pytest.raises(SettingsError, match="AURA_IDENTITY_SECRET") as caught:
        load_settings(mode="live", api_key=KEY, **given)
    assert secret is None or secret not in str(caught.value)


def test_l97_sandbox_takes_the_known_secret_but_no_short_one(home: Path) -> None:
    assert len(load_settings().identity_secret.get_secret_value()) >= 32
    with pytest.raises(SettingsError, match="AURA_IDENTITY_SECRET"):
        load_settings(identity_secret="s" * 31)


def test_s09_an_issuer_belongs_to_one_known_tenant(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"issuer": "https://a", "tenant": "demo", "audience": "x", "jwks_url": "https://a/jwks"}
    monkeypatch.setenv("AURA_OIDC_ISSUERS", json.dumps([one]))
    assert load_settings().oidc_issuers[0].tenant == "demo"
    for wrong in ([one, one | {"tenant": "default"}], [one | {"tenant": "nobody"}], [one | {"extra": 1}]):
        monkeypatch.setenv("AURA_OIDC_ISSUERS", json.dumps(wrong))
        with pytest.raises(SettingsError, match="AURA_OIDC_ISSUERS"):
            load_settings()


def test_a_damaged_env_file_is_refused_without_showing_secrets(home: Path) -> None:
    (home / "env").write_text("AURA_PARTITIONS=4\nnonsense\n")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert "line 2" in caught.value.where
    assert read_env_file(home / "absent") == {}
