"""The way in: varlink framing on a unix socket. `protocol` is sans-I/O, `server` speaks it in trio.

Imports nothing here: the thin client uses `protocol` alone.
"""
