"""Who someone is and what they may do: users, sessions, tokens, keys, tenants. Nothing here knows of HTTP.

`permissions` decides, purely. `service` has the use cases and their transactions, `repository` the SQL, always of one
tenant. `feed` makes a revocation hold on every API process before it is answered (ADR 14).
"""
