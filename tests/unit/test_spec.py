"""What a user may ask for: docker's notations, refusals that say what to do, round trips."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor import spec
from supervisor.errors import SpecError
from supervisor.spec import ContainerSpec, Rootfs, Tmpfs, Ulimit, Volume, check_name

make = ContainerSpec.from_mapping


def _refused(field: str, value: object) -> SpecError:
    with pytest.raises(SpecError) as caught:
        make({field: value})
    assert caught.value.remedy
    return caught.value


def test_the_default_is_a_login_shell_on_the_hosts_tree() -> None:
    default = make({})
    assert default == ContainerSpec()
    assert (default.command, default.rootfs, default.tty) == ((), Rootfs("", False), True)
    assert default.init
    assert not default.stdin
    assert (default.stop_timeout, default.timeout) == (10.0, None)


NOTATIONS: list[tuple[str, object, object]] = [
    ("command", "sh -c 'echo  hi'", ("sh", "-c", "echo  hi")),
    ("command", ["a", ""], ("a", "")),
    ("command", "", ()),
    ("hostname", "web{n}.local", "web{n}.local"),
    ("env", ["A=1", "B=x=y", "A=2"], (("A", "2"), ("B", "x=y"))),
    ("env", {"A": 1, "B": ""}, (("A", "1"), ("B", ""))),
    ("env", "A=1", (("A", "1"),)),
    ("env", [("A", "1")], (("A", "1"),)),
    ("workdir", "", ""),
    ("workdir", "/w", "/w"),
    ("user", 1000, "1000"),
    ("user", "nobody:0", "nobody:0"),
    ("user", "4294967294", "4294967294"),
    ("rootfs", "host", Rootfs()),
    ("rootfs", "/t:rw", Rootfs("/t", True)),
    ("rootfs", "/t:ro", Rootfs("/t", False)),
    ("rootfs", "/t:x", Rootfs("/t:x", False)),
    ("rootfs", {"path": "/a:rw"}, Rootfs("/a:rw", False)),
    ("volumes", "/a:/b", (Volume("/a", "/b"),)),
    ("volumes", ["/a:/b//c/:noexec,ro,nosuid"], (Volume("/a", "/b/c", True, ("nosuid", "noexec")),)),
    ("volumes", ["/a://b:rw"], (Volume("/a", "/b", False),)),
    ("volumes", [{"source": "/a:x", "target": "/b", "options": "ro"}], (Volume("/a:x", "/b", True),)),
    ("tmpfs", "/t", (Tmpfs("/t", 0, 0o1777),)),
    ("tmpfs", ["/t:size=1m,mode=700"], (Tmpfs("/t", 1 << 20, 0o700),)),
    ("tmpfs", {"target": "/t", "size": "2k"}, (Tmpfs("/t", 2048),)),
    ("share", "net,uts", frozenset({"net", "uts"})),
    ("share", ["pid"], frozenset({"pid"})),
    ("share", "", frozenset()),
    ("unshare", "user, time", frozenset({"user", "time"})),
    ("tty", "false", False),
    ("init", False, False),
    ("stop_signal", "SIGINT", 2),
    ("stop_signal", "int", 2),
    ("stop_signal", "2", 2),
    ("stop_signal", 2, 2),
    ("stop_signal", "0", 0),
    ("stop_timeout", "1m30s", 90.0),
    ("stop_timeout", 0, 0.0),
    ("log_max", "64m", 64 << 20),
    ("log_max", 1000, 1000),
    ("timeout", None, None),
    ("timeout", 2.5, 2.5),
    ("labels", ["a=b", "c"], (("a", "b"), ("c", ""))),
    ("ulimits", "nofile=1024:2048", (Ulimit.make("nofile", 1024, 2048),)),
    (
        "ulimits",
        {"nofile": 5, "core": "unlimited"},
        (Ulimit.make("nofile", 5, 5), Ulimit.make("core", -1, -1)),
    ),
    ("ulimits", ["nproc=1", "nproc=2:-1"], (Ulimit.make("nproc", 2, -1),)),
    ("sysctls", {"net.core.somaxconn": 5}, (("net.core.somaxconn", "5"),)),
    ("sysctls", "kernel.sem=1 2 3 4", (("kernel.sem", "1 2 3 4"),)),
    (
        "sysctls",
        ["kernel.domainname=x", "fs.mqueue.msg_max=5"],
        (("kernel.domainname", "x"), ("fs.mqueue.msg_max", "5")),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "expected"), NOTATIONS)
def test_notations(field: str, value: object, expected: object) -> None:
    made = make({field: value})
    assert getattr(made, field) == expected
    assert make(json.loads(json.dumps(made.to_mapping()))) == made


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("command", "echo 'open"),
        ("command", [""]),
        ("command", ["a", 1]),
        ("command", {"a": "b"}),
        ("command", None),
        ("hostname", "-a"),
        ("hostname", "a b"),
        ("hostname", "a{m}"),
        ("hostname", "a" * 65),
        ("hostname", "a" * 60 + "{n}"),
        ("env", ["A"]),
        ("env", ["=x"]),
        ("env", {"A=B": "x"}),
        ("env", {"A": True}),
        ("env", {"A": 1.5}),
        ("env", {"A": None}),
        ("env", {1: "x"}),
        ("env", 7),
        ("workdir", "w"),
        ("user", "+1"),
        ("user", " 1"),
        ("user", "-1"),
        ("user", "4294967295"),
        pytest.param("user", "9" * 5000, id="user-vast"),
        ("user", "1:"),
        ("user", ":1"),
        ("user", "1:2:3"),
        ("user", "a/b"),
        ("user", "٣"),
        ("user", "1abc"),
        ("user", -1),
        ("user", "nobody\n"),
        ("rootfs", ""),
        ("rootfs", "t"),
        ("rootfs", "host:rw"),
        ("rootfs", {"path": "", "writable": True}),
        ("rootfs", {"path": 1}),
        ("rootfs", {"path": "/a", "writable": 1}),
        ("rootfs", {"dir": "/a"}),
        ("rootfs", ["/a"]),
        ("volumes", "/a"),
        ("volumes", "a:/b"),
        ("volumes", "/a:b"),
        ("volumes", "/a:/"),
        ("volumes", "/a://."),
        ("volumes", "/a:/b/../.."),
        ("volumes", "/a:/b:rw,ro"),
        ("volumes", "/a:/b:suid"),
        ("volumes", "/a:/b:ro:ro"),
        ("volumes", [{"source": "/a"}]),
        ("volumes", [{"source": "/a", "target": "/b", "options": [[]]}]),
        ("volumes", [{"source": "/a", "target": "/b", "read_only": True, "options": "rw"}]),
        ("volumes", ["/a:/b", "/c:/b/"]),
        ("tmpfs", "t"),
        ("tmpfs", "/t:size"),
        ("tmpfs", "/t:size=x"),
        ("tmpfs", "/t:mode=8"),
        ("tmpfs", "/t:mode=17777"),
        ("tmpfs", "/t:uid=0"),
        ("tmpfs", {"target": "/t", "size": -1}),
        ("tmpfs", {"target": "/t", "size": True}),
        ("tmpfs", {"target": "/t", "size": 1 << 63}),
        ("share", "user"),
        ("share", ["network"]),
        ("share", [[]]),
        ("unshare", "net"),
        ("tty", 1),
        ("stdin", "yes"),
        ("init", None),
        ("stop_signal", "NOPE"),
        ("stop_signal", 65),
        ("stop_signal", -1),
        ("stop_signal", True),
        pytest.param("stop_signal", 10**6000, id="stop_signal-vast"),
        ("stop_timeout", "soon"),
        ("stop_timeout", -1),
        ("stop_timeout", float("nan")),
        ("stop_timeout", float("inf")),
        ("stop_timeout", None),
        ("log_max", "much"),
        ("log_max", -1),
        ("timeout", 0),
        ("timeout", True),
        ("labels", ["=x"]),
        ("ulimits", "nofile"),
        ("ulimits", "nofile="),
        ("ulimits", "nofile=2:1"),
        ("ulimits", "nofile=-1:5"),
        ("ulimits", "nofile=-2"),
        ("ulimits", "nofile=9999999999999999999"),
        ("ulimits", "nofil=1"),
        ("ulimits", [{"name": "nofile", "soft": 1}]),
        ("sysctls", {"kernel.hostname": "x"}),
        ("sysctls", {"kernel.panic": "1"}),
        ("sysctls", {"net/core/somaxconn": "1"}),
        ("sysctls", {"net.": "1"}),
        ("sysctls", {"net..x": "1"}),
        ("sysctls", {"fs.mqueue./../x": "1"}),
        ("sysctls", {"net.core.somaxconn": "1\n2"}),
    ],
)
def test_refusals(field: str, value: object) -> None:
    assert _refused(field, value).field.split()[0].removesuffix("s") == field.removesuffix("s")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("command", ["a\0"]),
        ("env", {"A": "\0"}),
        ("env", {"A\0": ""}),
        ("workdir", "/\0"),
        ("rootfs", "/\0"),
        ("volumes", "/\0:/b"),
        ("tmpfs", "/t\0"),
        ("labels", {"a": "\0"}),
        ("sysctls", {"net.a": "\0"}),
    ],
)
def test_nul_is_refused_everywhere(field: str, value: object) -> None:
    assert "NUL" in _refused(field, value).remedy


def test_a_surrogate_that_stands_for_a_byte_passes_and_no_other() -> None:
    made = make({"command": ["\udcff"]})
    assert make(json.loads(json.dumps(made.to_mapping()))) == made
    assert "surrogate" in _refused("command", ["\ud800"]).remedy


def test_one_string_is_bounded_by_what_the_kernel_takes() -> None:
    longest = "é" * 65535 + "x"  # 131071 bytes
    assert make({"command": [longest]}).command == (longest,)
    _refused("command", [longest + "x"])
    assert make({"env": {"A": longest[:-1][1:]}})
    _refused("env", {"A": longest})


def test_a_spec_is_bounded() -> None:
    field = "x" * 100_000
    assert make({"command": [field] * 10})
    with pytest.raises(SpecError, match=r"of 11.* bytes"):
        make({"command": [field] * 11})


def test_unknown_keys_name_the_nearest_and_errors_the_table() -> None:
    with pytest.raises(SpecError, match=r"^\[containers\.x\] key 'comand'.*did you mean command\?"):
        make({"comand": "x"}, "[containers.x]")
    with pytest.raises(SpecError, match=r"^\[containers\.x\] workdir 'w'.*absolute"):
        make({"workdir": "w"}, "[containers.x]")
    with pytest.raises(SpecError, match="use one of command, env"):
        make({"zzzzzzz": 1})


def test_the_values_shown_are_escaped_and_short() -> None:
    message = str(_refused("workdir", "\x1b[31m" + "x" * 1000))
    assert "\x1b" not in message
    assert len(message) < 200


@pytest.mark.parametrize(
    ("share", "field", "value"),
    [
        ("mnt", "volumes", "/a:/b"),
        ("mnt", "tmpfs", "/t"),
        ("mnt", "rootfs", "/r"),
        ("uts", "hostname", "h"),
        ("uts", "sysctls", "kernel.domainname=x"),
        ("ipc", "sysctls", "fs.mqueue.msg_max=5"),
        ("ipc", "sysctls", "kernel.shmmax=5"),
        ("net", "sysctls", "net.core.somaxconn=5"),
    ],
)
def test_nothing_of_the_hosts_is_changed_through_a_shared_namespace(
    share: str, field: str, value: str
) -> None:
    others = spec.NAMESPACES - {share}
    assert make({"share": sorted(others - {"mnt", "uts", "ipc", "net"}), field: value})
    with pytest.raises(SpecError, match=f"do not share {share}") as caught:
        make({"share": share, field: value})
    assert caught.value.field == field


def test_one_place_takes_one_mount() -> None:
    with pytest.raises(SpecError, match=r"tmpfs '/b'.*one thing"):
        make({"volumes": "/a:/b", "tmpfs": "/b/"})


def test_stop_signal_of_a_login_shell_and_of_a_command() -> None:
    assert make({}).effective_stop_signal == signal.SIGHUP
    assert make({"command": "sleep 1"}).effective_stop_signal == signal.SIGTERM
    assert make({"stop_signal": "INT"}).effective_stop_signal == signal.SIGINT


def test_tmpfs_has_a_size_always() -> None:
    assert Tmpfs("/t").effective_size == 64 << 20
    assert Tmpfs("/t", 4096).effective_size == 4096


def test_values_are_checked_when_made_directly() -> None:
    with pytest.raises(SpecError):
        Volume("a", "/b")
    with pytest.raises(SpecError):
        Ulimit("nofile", 0, 1, 1)
    with pytest.raises(SpecError):
        Tmpfs("/")


@pytest.mark.parametrize("name", ["a", "-", "+x", "_.", "web-1", "A.b+c", "x" * 64])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "a/b", "a b", "ä", "a\n", "x" * 65, "\x1b", None, 3, "{n}"]
)
def test_names_refused(name: object) -> None:
    with pytest.raises(SpecError, match=r"^name "):
        check_name(name)


# Round trips

_CHARS = st.characters(exclude_characters="\0", exclude_categories=("Cs",)) | st.characters(
    min_codepoint=0xDC80, max_codepoint=0xDCFF
)
_TEXT = st.text(_CHARS, max_size=20)
_KEYS = st.text(_CHARS, min_size=1, max_size=8).filter(lambda key: "=" not in key)
_PATHS = _TEXT.map(lambda text: "/" + text)
_TARGETS = st.lists(
    st.text(_CHARS, min_size=1, max_size=8).filter(lambda t: "/" not in t and t not in (".", "..")),
    min_size=1,
    max_size=3,
).map(lambda parts: "/" + "/".join(parts))
_LIMITS = st.integers(-1, (1 << 63) - 1)


def _ulimit(name: str, one: int, other: int) -> Ulimit:
    return Ulimit.make(name, *sorted((one, other), key=lambda n: (n == -1, n)))


_VOLUMES = st.builds(
    Volume,
    _PATHS,
    _TARGETS,
    st.booleans(),
    st.sets(st.sampled_from(sorted(spec.VOLUME_OPTIONS - {"noatime"}))),
)
_TMPFS = st.builds(Tmpfs, _TARGETS, st.integers(0, (1 << 63) - 1), st.integers(0, 0o7777))
_ROOTFS = st.just(Rootfs()) | st.builds(Rootfs, _PATHS, st.booleans())
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "command": st.lists(_TEXT, max_size=4).filter(lambda c: not c or c[0] != ""),
    "hostname": st.sampled_from(["", "a", "web-{n}"]),
    "env": st.dictionaries(_KEYS, _TEXT, max_size=3),
    "workdir": st.just("") | _PATHS,
    "user": st.sampled_from(["", "0", "nobody", "1:2", "a:b"]),
    "rootfs": _ROOTFS,
    "volumes": st.lists(_VOLUMES, max_size=2, unique_by=lambda v: v.target),
    "tmpfs": st.lists(_TMPFS, max_size=2, unique_by=lambda t: t.target),
    "share": st.sets(st.sampled_from(["pid", "cgroup", "ipc", "net"])),
    "unshare": st.sets(st.sampled_from(["time", "user"])),
    "tty": st.booleans(),
    "stdin": st.booleans(),
    "init": st.booleans(),
    "stop_signal": st.integers(0, 64),
    "stop_timeout": st.floats(0, 1e9),
    "labels": st.dictionaries(_KEYS, _TEXT, max_size=3),
    "ulimits": st.lists(st.builds(_ulimit, st.sampled_from(sorted(spec.RLIMITS)), _LIMITS, _LIMITS)),
    "sysctls": st.dictionaries(st.just("kernel.domainname"), st.sampled_from(["a", "b c"])),
    "log_max": st.integers(0, 1 << 62),
    "timeout": st.none() | st.floats(0.001, 1e9),
}  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.fixed_dictionaries({}, optional=_FIELDS))
def test_a_spec_survives_json(fields: dict[str, Any]) -> None:
    try:
        made = ContainerSpec(**fields)
    except SpecError as error:
        assert error.remedy == "mount one thing at a place"  # noqa: PT017
        return
    carried = json.loads(json.dumps(made.to_mapping()))
    assert make(carried) == made
    assert make(carried).to_mapping() == made.to_mapping()


def test_every_field_is_in_the_round_trip() -> None:
    assert set(_FIELDS) == set(ContainerSpec().to_mapping())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=6,
)  # fmt: skip
_NEARLY = st.sampled_from(
    ["", "/", "/a:/b", "a=b", "host", "nofile=1", "net", "15", "{n}", ":", "=", "/a:/b:ro,rw"]
)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(_FIELDS)), _JSON | _NEARLY | st.lists(_NEARLY)))
def test_whatever_json_comes_is_a_spec_or_a_spec_error(data: dict[str, Any]) -> None:
    try:
        made = make(data)
    except SpecError as error:
        assert error.remedy  # noqa: PT017
    else:
        assert make(made.to_mapping()) == made


def test_what_is_no_table_at_all_is_a_spec_error() -> None:
    for data in ([], None, "x", {1: 2}, {"command": _nested()}):
        with pytest.raises(SpecError):
            make(data)  # type: ignore[arg-type]


def _nested() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value
