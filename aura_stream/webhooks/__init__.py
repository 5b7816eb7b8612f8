"""Webhooks by the Standard Webhooks specification: who wants which events, and how they are brought there (ADR 19).

`signatures` signs, `schedule` says when to try again, `guard` keeps requests away from what is ours, `endpoints` is the
API's side, `delivery` the worker's. The log of events makes the deliveries; nothing here knows of HTTP's routes.
"""
