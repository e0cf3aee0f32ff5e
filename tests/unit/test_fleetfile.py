"""The fleet file: order, paths, refusals, and files that mean harm."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import NotFound, SpecError
from supervisor.fleetfile import TEXT_MAX, FleetEntry, load_fleet, parse
from supervisor.spec import ContainerSpec, Rootfs, Volume


def _names(text: str) -> list[str]:
    return [entry.name for entry in parse(text, "/base")]


def _one(body: str, base: str = "/base") -> FleetEntry:
    (entry,) = parse(f"[containers.a]\n{body}", base)
    return entry


def _refusal(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse(text, "/base")
    assert caught.value.remedy
    return str(caught.value)


def test_a_table_is_a_spec_and_its_replicas() -> None:
    (entry,) = parse(
        '[containers.web]\ncommand = ["httpd", "-f"]\nreplicas = 3\nstop-timeout = "1m"\n'
        'stop_signal = "INT"\n[containers.web.env]\nA = "1"\n',
        "/base",
    )
    spec = ContainerSpec(command=("httpd", "-f"), stop_timeout=60.0, stop_signal=2, env=(("A", "1"),))
    assert entry == FleetEntry("web", spec, 3, ())
    assert _one("").replicas is None


def test_order_is_that_of_the_file_save_for_dependencies() -> None:
    assert _names("[containers.c]\n[containers.a]\n[containers.b]") == ["c", "a", "b"]
    text = "[containers.c]\ndepends-on=['a', 'b']\n[containers.a]\ndepends_on='b'\n[containers.b]"
    assert _names(text) == ["b", "a", "c"]
    assert parse(text, "/base")[2].depends_on == ("a", "b")


@given(st.dictionaries(st.integers(0, 20), st.sets(st.integers(0, 20), max_size=4), max_size=15))
def test_everything_starts_after_what_it_depends_on(graph: dict[int, set[int]]) -> None:
    acyclic = {n: {m for m in others if m > n and m in graph} for n, others in graph.items()}
    text = "".join(
        f"[containers.c{n}]\ndepends-on={[f'c{m}' for m in sorted(others)]}\n"
        for n, others in acyclic.items()
    )
    names = _names(text) if text else []
    assert sorted(names) == sorted(f"c{n}" for n in graph)
    for n, others in acyclic.items():
        assert all(names.index(f"c{m}") < names.index(f"c{n}") for m in others)


@pytest.mark.parametrize(
    ("value", "rootfs"),
    [
        ('"tree"', Rootfs("/base/tree")),
        ('"./tree:rw"', Rootfs("/base/tree", True)),
        ('"../tree:ro"', Rootfs("/base/../tree")),
        ('"/tree:rw"', Rootfs("/tree", True)),
        ('"host"', Rootfs()),
        ('"./host"', Rootfs("/base/host")),
        ('{path = "a:rw", writable = true}', Rootfs("/base/a:rw", True)),
    ],
)
def test_a_relative_rootfs_is_below_the_base(value: str, rootfs: Rootfs) -> None:
    assert _one(f"rootfs = {value}").spec.rootfs == rootfs


@pytest.mark.parametrize(
    ("value", "volume"),
    [
        ('"src:/dst"', Volume("/base/src", "/dst")),
        ('["./src:/dst:ro,nosuid"]', Volume("/base/src", "/dst", True, ("nosuid",))),
        ('["/src:/dst"]', Volume("/src", "/dst")),
        ('[".:/dst:rw"]', Volume("/base/.", "/dst")),
        ('[{source = "a:b", target = "/dst"}]', Volume("/base/a:b", "/dst")),
        ('{source = "/a", target = "/dst", read_only = true}', Volume("/a", "/dst", True)),
    ],
)
def test_relative_volumes_are_below_the_base(value: str, volume: Volume) -> None:
    assert _one(f"volumes = {value}").spec.volumes == (volume,)


def test_a_base_with_a_colon_is_no_notation() -> None:
    entry = _one('rootfs = "t:rw"\nvolumes = ["s:/dst:ro"]', "/b:rw")
    assert entry.spec.rootfs == Rootfs("/b:rw/t", True)
    assert entry.spec.volumes == (Volume("/b:rw/s", "/dst", True),)


def test_the_base_is_absolute() -> None:
    with pytest.raises(SpecError, match="base_dir"):
        parse("[containers.a]", "relative")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("comand = 'x'", ["[containers.a] key 'comand'", "did you mean command?"]),
        ("workdir = 'x'", ["[containers.a] workdir 'x'", "absolute"]),
        ("stop-timeout = 1\nstop_timeout = 2", ["[containers.a] key 'stop_timeout'", "drop one"]),
        ("replicas = 0", ["[containers.a] replicas 0", "from 1"]),
        ("replicas = true", ["[containers.a] replicas True"]),
        ("replicas = '3'", ["[containers.a] replicas '3'"]),
        ("replicas = 100001", ["[containers.a] replicas 100001"]),
        ("replicas = [1]", ["[containers.a] replicas 'list'"]),
        ("depends-on = 'z'", ["[containers.a] depends_on 'z'", "no table [containers.z]"]),
        ("depends-on = [1]", ["[containers.a] depends_on"]),
        ("depends-on = 'a'", ["[containers.a] depends_on 'a'", "a -> a"]),
        ("volumes = ['s:/d:x']", ["[containers.a] volumes options 'x'"]),
        ("volumes = ['s:/d:ro,rw']", ["choose ro or rw"]),
        ("volumes = ['']", ["[containers.a] volumes ''"]),
        ("volumes = [{target = '/d'}]", ["[containers.a] volumes", "missing"]),
        ("volumes = 3", ["[containers.a] volumes 3"]),
        ("rootfs = 'host:rw'", ["[containers.a] rootfs", "never writable"]),
        ("rootfs = ''", ["[containers.a] rootfs ''"]),
        ("rootfs = {path = 1}", ["[containers.a] rootfs 1"]),
        ("env = 1979-05-27", ["[containers.a] env"]),
    ],
)
def test_refusals_name_table_key_value_and_remedy(body: str, words: list[str]) -> None:
    message = _refusal(f"[containers.a]\n{body}")
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "at least one table"),
        ("containers = 3", "at least one table"),
        ("containers.a = 3", "[containers.a] 'int'"),
        ("[container.a]", "table 'container'"),
        ("[containers.'a b']", "name 'a b'"),
        ("[containers.a", "correct the TOML"),
        ("[containers.a]\n[containers.a]", "correct the TOML"),
        ("[containers.a]\nreplicas=2\n[containers.a-2]", "a replica of a has that name"),
        (f"[containers.{'x' * 63}]\nreplicas=2", "use up to 64"),
        ("[containers.a]\ndepends-on='b'\n[containers.b]\ndepends-on='a'", "break the cycle"),
    ],
)
def test_refusals_of_the_whole(text: str, words: str) -> None:
    assert words in _refusal(text)


def test_a_name_beyond_the_replicas_is_free() -> None:
    assert _names("[containers.a]\nreplicas=2\n[containers.a-3]\n[containers.a-02]") == [
        "a",
        "a-3",
        "a-02",
    ]


def test_a_file_may_be_large_and_not_larger() -> None:
    line = "[containers.a]\n#"
    assert parse(line + "x" * (TEXT_MAX - len(line)), "/")
    assert "keep it below" in _refusal(line + "x" * (TEXT_MAX - len(line) + 1))
    assert "keep it below" in _refusal(line + "é" * (TEXT_MAX // 2))


# What tomllib itself takes quadratic memory for would end the supervisor, not the request.
HARMFUL = {
    "nested arrays": "x = " + "[" * 500_000,
    "nested tables": "x = " + "{a=" * 200_000,
    "dotted key": ".".join("a" * 400_000) + " = 1",
    "quoted dotted key": ".".join(["'a.'"] * 100_000) + " = 1",
    "dotted header": "[containers." + ".".join("a" * 400_000) + "]",
    "dotted inline key": "x = {" + "a . " * 200_000 + "a = 1}",
    "after a string": 'x = "\\""\n' + "a." * 400_000 + "a = 1",
    "after a long string": 'x = """\\""" ""\\\n"""\n' + "a." * 400_000 + "a = 1",
    "after a comment": "# it's \"\n" + "a." * 400_000 + "a = 1",
    "open strings": '"\\' * 500_000,
    "open literals": "'''" * 300_001,
    "words": "a " * 500_000,
    "a long int": "[containers.a]\nstop-signal = " + "9" * 500_000,
    "a long hex int": "[containers.a]\nstop-signal = 0x" + "f" * 500_000,
    "a long hex replicas": "[containers.a]\nreplicas = 0x" + "f" * 500_000,
    "lone surrogate": "[containers.a]\ncommand = '\ud800'",
}


@pytest.mark.parametrize("text", HARMFUL.values(), ids=list(HARMFUL))
def test_harmful_files_are_refused_soon(text: str) -> None:
    began = time.monotonic()
    message = _refusal(text)
    assert len(message) < 400
    assert time.monotonic() - began < 10


def test_dots_in_values_and_comments_are_no_keys() -> None:
    dots = "a." * 200
    body = f"# {dots}\nworkdir = '/{dots}'\nhostname = \"h\"\nenv.A = '''\n{dots}'''\n"
    assert _one(body).spec.env == (("A", dots),)


def test_a_file_is_read_with_its_own_directory_as_base(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text('[containers.a]\nvolumes = "data:/data"\n')
    (entry,) = load_fleet(str(tmp_path / "fleet.toml"))
    assert entry.spec.volumes == (Volume(f"{tmp_path}/data", "/data"),)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.toml"):
        with pytest.raises(NotFound, match=f"{path}' cannot be read"):
            load_fleet(str(path))
    (tmp_path / "long.toml").write_text("#" * (TEXT_MAX + 1))
    with pytest.raises(SpecError, match="keep it below"):
        load_fleet(str(tmp_path / "long.toml"))
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n[containers.a]\n")
    assert load_fleet(str(tmp_path / "latin.toml"))[0].name == "a"
