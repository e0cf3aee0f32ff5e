"""The reaper-init: clones containers, holds and reaps them, decides nothing.

Imports the standard library and `supervisor.linux`, nothing else; never starts a thread, and never
imports, dlopens or runs anything of its own after a child entered a root file system.
"""

# Started with: a symbol that is bound at its first use dirties a page in every clone that uses it.
ENVIRONMENT = {"LD_BIND_NOW": "1"}
