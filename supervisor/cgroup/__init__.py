"""Control groups: v2, v1 and hybrid behind one interface. Synchronous, and every call is short.

`layout` reads what the host has, `limits` what a user asks for, `translate` turns that into files,
`group` makes, limits, freezes, kills and removes; `stats` and `events` are what a group tells.
"""
