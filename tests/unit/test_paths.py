"""Where things live, and that nobody else can have put them there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from supervisor.errors import SupError
from supervisor.paths import SOCKET_PATH_MAX, Paths


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUP_ROOT", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)


def _as_user(monkeypatch: pytest.MonkeyPatch, uid: int = 4_000_123) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)


def test_root_option_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUP_ROOT", "/elsewhere")
    assert Paths.find("/x") == Paths("/x/run", "/x/state")
    assert Paths.find(None) == Paths("/elsewhere/run", "/elsewhere/state")


def test_a_relative_root_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Paths.find("r").run == str(tmp_path / "r" / "run")


def test_places_of_root_and_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    _as_user(monkeypatch, 0)
    assert Paths.find() == Paths("/run/sup", "/var/lib/sup")
    _as_user(monkeypatch)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", "/home/u")
    assert Paths.find() == Paths("/run/user/7/sup", "/home/u/.local/state/sup")
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert Paths.find().state == "/s/sup"


def test_a_user_without_runtime_directory_gets_one_in_tmp(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _as_user(monkeypatch)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert Paths.find().run == "/tmp/sup-4000123"


def test_names_below_the_directories() -> None:
    paths = Paths("/r", "/s")
    assert (paths.socket, paths.lock) == ("/r/api.sock", "/r/lock")
    assert (paths.skeleton, paths.stage) == ("/r/skeleton", "/r/stage")
    assert (paths.log, paths.containers) == ("/s/sup.log", "/s/containers")


def test_make_makes_private_directories_and_may_be_called_again(tmp_path: Path) -> None:
    paths = Paths.find(str(tmp_path / "new" / "root"))
    paths.make()
    paths.make()
    for path in (paths.run, paths.state, paths.containers, paths.skeleton, paths.stage):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700


def test_make_tightens_a_readable_directory(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o755)
    Paths.find(str(tmp_path)).make()
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


def test_make_refuses_a_directory_that_others_may_write(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o1777)
    with pytest.raises(SupError, match="may be written by others"):
        Paths.find(str(tmp_path)).make()


@pytest.mark.parametrize("name", ["run", "state"])
def test_make_refuses_a_symlink_and_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / name).symlink_to(tmp_path / "real")
    with pytest.raises(SupError, match="not a private directory"):
        Paths.find(str(tmp_path)).make()
    (tmp_path / name).unlink()
    (tmp_path / name).touch()
    with pytest.raises(SupError, match="not a private directory"):
        Paths.find(str(tmp_path)).make()


def test_make_refuses_a_directory_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    _as_user(monkeypatch)
    with pytest.raises(SupError, match=r"belongs to uid \d+, not 4000123"):
        Paths.find(str(tmp_path)).make()


def test_find_refuses_a_planted_directory_in_tmp(monkeypatch: pytest.MonkeyPatch) -> None:
    _as_user(monkeypatch)
    real = os.open
    monkeypatch.setattr(os.path, "lexists", lambda path: True)
    monkeypatch.setattr(os, "open", lambda path, flags: real("/", flags))
    with pytest.raises(SupError, match=r"sup-4000123.*not a private directory"):
        Paths.find()


def test_make_says_why_it_cannot(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SupError, match=r"cannot make .*: (Not a directory|File exists).*--root"):
        Paths.find(str(tmp_path / "file" / "below")).make()


def test_the_socket_path_may_be_just_short_enough(tmp_path: Path) -> None:
    spare = SOCKET_PATH_MAX - len(os.fsencode(str(tmp_path))) - len("//run/api.sock")
    assert spare > 1
    Paths.find(str(tmp_path / ("r" * spare))).make()
    with pytest.raises(SupError, match=r"108 bytes.*shorter --root"):
        Paths.find(str(tmp_path / ("r" * (spare + 1)))).make()
    assert not (tmp_path / ("r" * (spare + 1))).exists()
