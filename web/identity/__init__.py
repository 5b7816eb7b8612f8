"""Handlers of users, logins, keys and tenants: thin, each one use case of `aura_stream.identity`."""
