#!/bin/sh
# Makes the logins of the ledger's writer and readers when the database is made; `aura db migrate` grants their rights.
set -eu
psql --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
  --set write_password="$AURA_WRITE_PASSWORD" --set read_password="$AURA_READ_PASSWORD" \
  --set auth_password="$AURA_AUTH_PASSWORD" <<'SQL'
CREATE ROLE aura_write LOGIN PASSWORD :'write_password';
CREATE ROLE aura_read LOGIN PASSWORD :'read_password';
CREATE ROLE aura_auth LOGIN PASSWORD :'auth_password';
SQL
