"""The business, pure: what a command means, decided from state, command and the record's time.

No IO, no clock, no random, no float.
"""
