"""The log of events: one table in Postgres that HTTP, streams and webhooks read, and the ways into it (ADR 19).

`writer` appends what the topics of events hold, once and in order; `relay` sends to Kafka what identity has to tell;
`reads` answers questions; `tail` tells those who listen. Nothing here knows of HTTP.
"""
