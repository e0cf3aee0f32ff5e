"""The fleet file: TOML tables `[containers.NAME]` to specs, in the order to start them.

[containers.db]
rootfs = "trees/db"            # relative paths are below the file's directory

[containers.web]
command = ["httpd", "-f"]
replicas = 3
depends-on = "db"
"""

from __future__ import annotations

import graphlib
import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Final

import attrs

from .errors import NotFound, SpecError
from .spec import ContainerSpec, check_name, nearest

TEXT_MAX: Final = 1 << 20
_KEYS: Final = frozenset(attrs.fields_dict(ContainerSpec)) | {"replicas", "depends_on"}
REPLICAS_MAX: Final = 100_000

_OPAQUE = re.compile(
    r'''"""(?:\\.|[^\\])*?(?:"""|\Z)|\'{3}.*?(?:\'{3}|\Z)|"(?:\\.|[^"\\\n])*"?|'[^'\n]*'?|#[^\n]*''',
    re.DOTALL,
)
"""Strings and comments; an open one runs to its end, so that the search stays linear."""
_LONG_KEY = re.compile(r"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){32}", re.ASCII)

_REPLICA = re.compile(r"(.+)-([1-9][0-9]{0,5})")


@attrs.frozen
class FleetEntry:
    """One table: a container, or with `replicas` a fleet NAME-1, NAME-2…"""

    name: str
    spec: ContainerSpec
    replicas: int | None = None
    depends_on: tuple[str, ...] = ()


def load_fleet(path: str) -> tuple[FleetEntry, ...]:
    """The entries of the fleet file at `path`. Raises SpecError, NotFound."""
    try:
        with open(path, "rb") as file:
            raw = file.read(TEXT_MAX + 1)
    except OSError as error:
        raise NotFound(
            f"the fleet file {path!a} cannot be read: {error.strerror}",
            remedy="give the path of a TOML file with tables [containers.NAME]",
        ) from None
    return parse(raw.decode(errors="surrogateescape"), os.path.dirname(os.path.abspath(path)))


def parse(text: str, base_dir: str) -> tuple[FleetEntry, ...]:
    """The entries of a fleet file, each after those that it depends on."""
    if not os.path.isabs(base_dir):
        raise SpecError("base_dir", base_dir, "give the absolute directory of the fleet file")
    tables = _tables(_load(text))
    entries = {name: _entry(name, table, base_dir) for name, table in tables.items()}
    _check_names(entries)
    return _in_order(entries)


def _load(text: str) -> dict[str, Any]:
    # At most 4 bytes a character, so a long text need not be encoded to be found too long.
    if len(text) > TEXT_MAX or len(text.encode("utf-8", "surrogatepass")) > TEXT_MAX:
        raise SpecError("fleet file", text[:40], f"keep it below {TEXT_MAX} bytes")
    # tomllib takes time and memory by the square of a dotted key's parts.
    if _LONG_KEY.search(_OPAQUE.sub("s", text)):
        raise SpecError("fleet file", text[:40], "a key has too many parts: keep it below 32")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise SpecError("fleet file", text[:40], "its tables are nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, or an int of thousands of digits
        raise SpecError("fleet file", text[:40], f"correct the TOML: {error}") from None


def _tables(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    for key in document:
        if key != "containers":
            raise SpecError("table", key, "write [containers.NAME]")
    tables = document.get("containers", {})
    if not isinstance(tables, dict) or not tables:
        raise SpecError("containers", _kind(tables), "give at least one table [containers.NAME]")
    return tables


def _kind(value: object) -> str:
    return "" if value == {} else type(value).__name__


def _entry(name: str, table: object, base_dir: str) -> FleetEntry:
    check_name(name)
    where = f"[containers.{name}]"
    if not isinstance(table, dict):
        raise SpecError(where, _kind(table), "make it a table of fields")
    fields = _fields(where, table)
    replicas = _replicas(where, name, fields.pop("replicas", None))
    depends_on = _depends_on(where, fields.pop("depends_on", []))
    _resolve(fields, base_dir)
    return FleetEntry(name, ContainerSpec.from_mapping(fields, where), replicas, depends_on)


def _fields(where: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with `-` in its keys as `_`."""
    fields: dict[str, Any] = {}
    for key, value in table.items():
        field = key.replace("-", "_")
        if field not in _KEYS:
            raise SpecError(f"{where} key", key, nearest(key, _KEYS))
        if field in fields:
            raise SpecError(f"{where} key", key, f"it is the same as {field}: drop one")
        fields[field] = value
    return fields


def _replicas(where: str, name: str, value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= REPLICAS_MAX:
        shown = value if isinstance(value, (str, bool)) else _short(value)
        raise SpecError(f"{where} replicas", shown, f"give a number from 1 to {REPLICAS_MAX}")
    check_name(f"{name}-{value}")
    return value


def _short(value: object) -> object:
    """A number as it is, if it can be shown; otherwise its type."""
    if isinstance(value, int) and value.bit_length() > 64:
        return _kind(value)
    return value if isinstance(value, (int, float)) else _kind(value)


def _depends_on(where: str, value: object) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SpecError(f"{where} depends_on", _kind(value), "give names of other containers")
    return tuple(dict.fromkeys(names))


def _resolve(fields: dict[str, Any], base_dir: str) -> None:
    """Put relative sources below `base_dir`; what is malformed is left for the spec to refuse."""
    if "rootfs" in fields:
        fields["rootfs"] = _rootfs(fields["rootfs"], base_dir)
    volumes = fields.get("volumes")
    if isinstance(volumes, list):
        fields["volumes"] = [_volume(volume, base_dir) for volume in volumes]
    elif volumes is not None:
        fields["volumes"] = _volume(volumes, base_dir)


def _rootfs(value: object, base_dir: str) -> object:
    if isinstance(value, dict) and value.get("path"):
        return {**value, "path": _below(base_dir, value["path"])}
    if not isinstance(value, str) or value in ("", "host", "host:ro", "host:rw"):
        return value
    path, colon, mode = value.rpartition(":")
    if not colon or mode not in ("ro", "rw"):
        path, mode = value, "ro"
    return {"path": _below(base_dir, path), "writable": mode == "rw"}


def _volume(value: object, base_dir: str) -> object:
    if isinstance(value, dict) and value.get("source"):
        return {**value, "source": _below(base_dir, value["source"])}
    if not isinstance(value, str) or value.startswith("/") or value.count(":") not in (1, 2):
        return value
    # Structured, since the base directory may hold a colon.
    source, target, options = [*value.split(":"), ""][:3]
    chosen = [option for option in options.split(",") if option]
    return {"source": _below(base_dir, source), "target": target, "options": chosen}


def _below(base_dir: str, path: object) -> object:
    if not isinstance(path, str) or not path or path.startswith("/"):
        return path
    return os.path.join(base_dir, path.removeprefix("./"))


def _check_names(entries: Mapping[str, FleetEntry]) -> None:
    """No container may have the name of a replica of a fleet in the same file."""
    for name in entries:
        if match := _REPLICA.fullmatch(name):
            fleet = entries.get(match[1])
            if fleet and fleet.replicas and int(match[2]) <= fleet.replicas:
                remedy = f"rename it: a replica of {fleet.name} has that name"
                raise SpecError(f"[containers.{name}] name", name, remedy)


def _in_order(entries: Mapping[str, FleetEntry]) -> tuple[FleetEntry, ...]:
    sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter(
        {name: () for name in entries}  # all of them first: ties keep the order of the file
    )
    for name, entry in entries.items():
        for other in entry.depends_on:
            if other not in entries:
                remedy = f"there is no table [containers.{other[:64]}]"
                raise SpecError(f"[containers.{name}] depends_on", other, remedy)
        sorter.add(name, *entry.depends_on)
    try:
        return tuple(entries[name] for name in sorter.static_order())
    except graphlib.CycleError as error:
        ring = list(reversed(error.args[1]))
        remedy = f"break the cycle {' -> '.join(ring[:8])}{' ...' * (len(ring) > 8)}"
        raise SpecError(f"[containers.{ring[0]}] depends_on", ring[1], remedy) from None
