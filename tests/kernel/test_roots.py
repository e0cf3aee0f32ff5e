"""Roots of containers: an overlay above a directory, the directory itself, what is mounted on them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import attrs
import pytest
from inside import build_tree, inside, output, picture, run, shell

from supervisor import Supervisor
from supervisor.errors import SpecError, StepFailed, SupError

pytestmark = pytest.mark.requires("containers")

ROOT = os.geteuid() == 0


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_tree(tmp_path_factory.mktemp("tree") / "root")


@pytest.fixture
def tree(built: str, tmp_path: Path) -> str:
    """A root of this test's own."""
    return shutil.copytree(built, tmp_path / "root", symlinks=True).__str__()


def fields(line: str) -> list[str]:
    return line.split()


# An overlay above a directory


def test_a_directory_is_seen_and_never_written(sup_root: str, tree: str) -> None:
    before = picture(tree)
    script = (
        "cat /etc/mark; echo changed > /etc/mark; rm /etc/group; mkdir /new /var; touch /new/file;"
        " rm -r /tmp; mkdir /tmp; ls -A /tmp; cat /etc/mark; test ! -e /etc/group"
    )
    assert inside(sup_root, script, rootfs=tree) == "from the tree\nchanged\n"
    assert picture(tree) == before


def test_each_replica_has_a_layer_of_its_own(sup_root: str, tree: str) -> None:
    before = picture(tree)
    script = "test ! -e /mine || exit 9; hostname > /mine; sleep 1; cat /mine /etc/hostname"

    async def body(sup: Supervisor) -> None:
        containers = await sup.launch(shell(script, rootfs=tree), 4, name="web")
        assert [container.error for container in containers] == [None] * 4
        for container in containers:
            assert await container.wait() == 0
            name = container.name.encode()
            seen = bytearray()
            with container.console.view() as viewer:
                while (chunk := await viewer.receive()) is not None:
                    seen += chunk.data
            assert seen.split() == [name, name]

    run(sup_root, body)
    assert picture(tree) == before


def test_it_is_a_whole_container(sup_root: str, tree: str) -> None:
    script = (
        "tty; echo $$; hostname; cat /etc/hosts /etc/hostname; test -f /etc/resolv.conf;"
        " stat -c '%F %n' /dev/console /dev/null /dev/ptmx /dev/shm /dev/mqueue /proc/self /sys/class;"
        " cat /proc/sys/kernel/hostname; echo > /dev/null; sleep 9 & kill %1; wait"
    )
    text = inside(sup_root, script, rootfs=tree, tty=True, hostname="box").replace("\r", "")
    assert text.startswith("/dev/pts/0\n")
    for expected in (
        "127.0.0.1\tlocalhost box\n",
        "character special file /dev/console",
        "character special file /dev/null",
        "symbolic link /dev/ptmx",
        "directory /dev/shm",
        "directory /dev/mqueue",
        "directory /sys/class",
    ):
        assert expected in text


def test_job_control_works_there(sup_root: str, tree: str) -> None:
    script = "set -m; sleep 50 & sleep 0.3; kill -TSTP %1; sleep 0.3; jobs; kill -9 %1"
    assert "Stopped" in inside(sup_root, script, rootfs=tree, tty=True)


def test_nothing_of_the_host_can_be_seen(sup_root: str, tree: str) -> None:
    text = inside(sup_root, "cat /proc/self/mountinfo; ls -A /", rootfs=tree)
    for line in text.splitlines():  # the place within its file system says where a bind came from
        assert sup_root not in " ".join(word for n, word in enumerate(fields(line)) if n != 3)
    points = {fields(line)[4] for line in text.splitlines() if " - " in line}
    own = {"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}
    kernel = {"/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"}
    nodes = {f"/dev/{name}" for name in "null zero full random urandom tty".split()}
    assert points - nodes == kernel | own
    assert {"lower", "layer", "layers", "root"}.isdisjoint(text.rpartition(" - ")[2].split())


def test_devices_in_the_directory_do_not_work(sup_root: str, tree: str) -> None:
    text = inside(sup_root, "cat /proc/self/mountinfo", rootfs=tree)
    [root] = [fields(line) for line in text.splitlines() if fields(line)[4] == "/"]
    assert "nodev" in root[5].split(",")
    if ROOT:
        os.mknod(f"{tree}/null", 0o666 | 0o020000, os.makedev(1, 3))
        script = "cat < /null && exit 1; cat < /dev/null"
        assert "Permission denied" in inside(sup_root, script, rootfs=tree)


def test_a_restart_begins_with_the_directory_again(sup_root: str, tree: str) -> None:
    async def body(sup: Supervisor) -> None:
        [container] = await sup.launch(shell("test ! -e /mine; s=$?; : > /mine; exit $s", rootfs=tree))
        assert await container.wait() == 0
        await container.restart()
        assert await container.wait() == 0

    run(sup_root, body)


def test_paths_with_all_that_overlayfs_parses(sup_root: str, built: str, tmp_path: Path) -> None:
    odd = shutil.copytree(built, tmp_path / "a:b,c\\d e=f", symlinks=True)
    assert inside(sup_root, "cat /etc/mark", rootfs={"path": str(odd)}) == "from the tree\n"
    text = inside(sup_root, "cat /etc/mark", rootfs={"path": str(odd), "writable": True})
    assert text == "from the tree\n"


def test_the_directory_may_be_shared_in_the_open(sup_root: str, tree: str) -> None:
    async def body(sup: Supervisor) -> None:
        spec = shell("hostname > /by-$(hostname); cat /etc/mark; tty", rootfs=f"{tree}:rw", tty=True)
        containers = await sup.launch(spec, 3, name="web")
        assert [container.error for container in containers] == [None] * 3
        assert [await container.wait() for container in containers] == [0] * 3

    run(sup_root, body)
    for number in (1, 2, 3):
        assert Path(tree, f"by-web-{number}").read_text() == f"web-{number}\n"


def test_a_layer_on_the_hosts_disk(sup_root: str, tree: str) -> None:
    """As with a kernel whose tmpfs has no user attributes."""
    before = picture(tree)

    async def body(sup: Supervisor) -> None:
        sup.host = attrs.evolve(sup.host, layers=sup.paths.layers)
        script = "rm -r /tmp; mkdir -m 0 /tmp; mkdir /x; chmod 0 /x; : > /etc/mark; sleep 1"
        fields = {"rootfs": tree, "unshare": ["user"]}
        containers = await sup.launch(shell(script, **fields), 3, name="web")
        assert [container.error for container in containers] == [None] * 3
        assert len(os.listdir(sup.paths.layers)) == 3
        assert [await container.wait() for container in containers] == [0] * 3
        await containers[0].restart()
        assert await containers[0].wait() == 0
        await sup.down()
        assert os.listdir(sup.paths.layers) == []

    run(sup_root, body)
    assert picture(tree) == before


@pytest.mark.parametrize("path", ["/no/such/tree", "/etc/passwd", "/proc/self/mem/x"])
def test_an_unusable_directory_is_refused_by_name(sup_root: str, path: str) -> None:
    async def body(sup: Supervisor) -> None:
        for n in (None, 4):
            with pytest.raises(SupError, match=path) as caught:
                await sup.launch(shell("true", rootfs=path), n)
            assert caught.value.remedy
            assert not sup.containers

    run(sup_root, body)


def test_the_hosts_own_root(sup_root: str) -> None:
    """An overlay sees one file system only; what it would uncover below mounts is root's to see."""

    async def body(sup: Supervisor) -> None:
        spec = shell("ls -A /proc/self/fd /sys; touch /usr/mine", rootfs="/")
        if ROOT:
            assert (await output(sup, spec))[0] == 0
            assert not os.path.exists("/usr/mine")
            return
        for n in (None, 3):
            try:
                [container] = await sup.launch(spec, n)
                error: SupError | None = container.error
            except SupError as raised:
                error = raised
            assert isinstance(error, StepFailed)
            assert "cannot leave out what is mounted below it" in str(error)

    run(sup_root, body)


# A hostile directory


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A directory of the host that links in a root point to."""
    path = tmp_path / "canary"
    path.mkdir()
    (path / "resolv.conf").write_text("untouched\n")
    return path


@pytest.mark.parametrize("mode", ["", ":rw"])
@pytest.mark.parametrize("up", ["", "../../../../../../.."])
def test_links_lead_nowhere_but_into_the_root(
    sup_root: str, tree: str, canary: Path, up: str, mode: str
) -> None:
    for name in ("proc", "sys", "dev"):
        os.symlink(f"{up}{canary}/{name}", f"{tree}/{name}")
    os.symlink(f"{up}{canary}/resolv.conf", f"{tree}/etc/resolv.conf")
    os.symlink(f"{up}{canary}/made", f"{tree}/etc/hosts")
    before = picture(str(canary))
    script = "tty; echo $$; hostname; cat /etc/hosts; test -d /sys/class; echo > /dev/null"
    text = inside(sup_root, script, rootfs=tree + mode, tty=True)
    assert text.split()[0].endswith("/dev/pts/0")
    assert "localhost" in text
    assert picture(str(canary)) == before


def test_etc_may_be_a_link(sup_root: str, tree: str) -> None:
    os.mkdir(f"{tree}/usr")
    os.rename(f"{tree}/etc", f"{tree}/usr/etc")
    os.symlink("usr/etc", f"{tree}/etc")
    os.symlink("../run/resolve/stub.conf", f"{tree}/usr/etc/resolv.conf")
    script = "test -f /etc/resolv.conf; test -f /usr/run/resolve/stub.conf; cat /usr/etc/hosts"
    assert "localhost" in inside(sup_root, script, rootfs=tree)


@pytest.mark.parametrize("name", ["proc", "sys", "dev", "etc/hosts", "etc"])
def test_what_is_of_the_wrong_kind_is_refused(sup_root: str, tree: str, name: str) -> None:
    shutil.rmtree(f"{tree}/{name}", ignore_errors=True)
    if name == "etc/hosts":
        os.mkdir(f"{tree}/{name}")
    else:
        Path(tree, name).write_text("a file\n")

    async def body(sup: Supervisor) -> None:
        with pytest.raises(StepFailed, match=f"/{name}") as caught:
            await output(sup, shell("true", rootfs=tree))
        assert caught.value.errno in (20, 21)

    run(sup_root, body)


def test_a_chain_of_links_and_a_loop(sup_root: str, tree: str) -> None:
    for number in range(10):
        os.symlink(f"/link{number + 1}", f"{tree}/link{number}")
    os.symlink("loop2", f"{tree}/loop1")
    os.symlink("loop1", f"{tree}/loop2")

    async def body(sup: Supervisor) -> None:
        assert await output(sup, shell("test -d /link10", rootfs=tree, tmpfs=["/link0"])) == (0, "")
        with pytest.raises(StepFailed, match="links without end"):
            await output(sup, shell("true", rootfs=tree, tmpfs=["/loop1"]))

    run(sup_root, body)


def test_magic_links_are_not_followed(sup_root: str, tree: str) -> None:
    async def body(sup: Supervisor) -> None:
        for target in ("/proc/self/root/etc", "/proc/self/cwd/x"):
            with pytest.raises(StepFailed, match="links without end"):
                await output(sup, shell("true", rootfs=tree, tmpfs=[target]))
        with pytest.raises(StepFailed, match="chdir"):
            await output(sup, shell("true", rootfs=tree, workdir="/proc/self/fd/3"))

    run(sup_root, body)


# Volumes, tmpfs, the working directory


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    (path / "sub").mkdir(parents=True)
    (path / "file").write_text("from the host\n")
    return path


@pytest.fixture(params=["host", "overlay", "rw"])
def root(request: pytest.FixtureRequest) -> str:
    """A notation for --rootfs, of each kind."""
    if request.param == "host":
        return "host"
    tree: str = request.getfixturevalue("tree")
    return tree + (":rw" if request.param == "rw" else "")


def test_a_file_on_a_file_and_a_directory_on_a_directory(
    sup_root: str, root: str, source: Path
) -> None:
    script = "cat /etc/hosts /mnt/a/file /tmp/x/file; echo out > /mnt/a/new; echo over > /etc/hosts"
    volumes = [f"{source}/file:/etc/hosts", f"{source}:/mnt/a", f"{source}:/tmp/x"]
    assert inside(sup_root, script, rootfs=root, volumes=volumes) == "from the host\n" * 3
    assert (source / "new").read_text() == "out\n"
    assert (source / "file").read_text() == "over\n"


@pytest.mark.parametrize(
    ("what", "target", "word"),
    [("file", "/tmp", "file on a file"), ("sub", "/etc/passwd", "directory")],
)
def test_a_volume_of_the_wrong_kind_is_refused(
    sup_root: str, root: str, source: Path, what: str, target: str, word: str
) -> None:
    async def body(sup: Supervisor) -> None:
        with pytest.raises(StepFailed, match=word):
            await output(sup, shell("true", rootfs=root, volumes=[f"{source}/{what}:{target}"]))

    run(sup_root, body)


def test_new_files_below_etc(sup_root: str, root: str, source: Path) -> None:
    script = "cat /etc/my.conf /etc/conf.d/own/file /etc/passwd; echo x > /etc/my.conf"
    volumes = [f"{source}/file:/etc/my.conf:ro", f"{source}:/etc/conf.d/own"]

    async def body(sup: Supervisor) -> None:
        status, text = await output(sup, shell(script, rootfs=root, volumes=volumes))
        assert status != 0
        assert text.count("from the host\n") == 2
        assert "root:x:0:0" in text

    run(sup_root, body)


def test_the_outer_is_mounted_before_the_inner(sup_root: str, root: str, source: Path) -> None:
    volumes = [f"{source}:/data/cache/in", f"{source}:/srv/out", f"{source}/file:/tmp/deep/file"]
    tmpfs = ["/srv/out/sub", "/data/cache", "/tmp/deep"]
    script = "cat /data/cache/in/file /tmp/deep/file; touch /srv/out/sub/x /data/cache/y; ls /srv/out"
    text = inside(sup_root, script, rootfs=root, volumes=volumes, tmpfs=tmpfs)
    assert text == "from the host\nfrom the host\nfile\nsub\n"
    assert os.listdir(source / "sub") == []


def test_a_target_through_a_link_stays_below_the_root(
    sup_root: str, tree: str, canary: Path, source: Path
) -> None:
    os.symlink(canary, f"{tree}/out")
    os.symlink("/etc", f"{tree}/conf")
    before = picture(str(canary))
    volumes = [f"{source}:/out/here", f"{source}/file:/conf/passwd"]
    script = f"cat {canary}/here/file /etc/passwd"
    text = inside(sup_root, script, rootfs=tree, volumes=volumes, tmpfs=["/out/there/deep"])
    assert text == "from the host\n" * 2
    assert picture(str(canary)) == before


def options_of(sup_root: str, root: str, source: Path, options: str) -> set[str]:
    text = inside(
        sup_root, "cat /proc/self/mountinfo", rootfs=root, volumes=[f"{source}:/mnt/x:{options}"]
    )
    [line] = [fields(line) for line in text.splitlines() if fields(line)[4] == "/mnt/x"]
    return set(line[5].split(","))


@pytest.mark.parametrize("option", ["ro", "nosuid", "nodev", "noexec", "nosymfollow"])
def test_each_option_is_applied(sup_root: str, root: str, source: Path, option: str) -> None:
    assert option in options_of(sup_root, root, source, option)


@pytest.mark.requires("root")
@pytest.mark.parametrize("option", ["noatime", "nodiratime", "relatime"])
def test_access_times(sup_root: str, root: str, source: Path, option: str) -> None:
    found = options_of(sup_root, root, source, option)
    assert option in found
    assert len(found & {"noatime", "relatime"}) == 1


@pytest.mark.requires("user")
@pytest.mark.parametrize("option", ["noatime", "nodiratime"])
def test_access_times_that_are_locked(sup_root: str, root: str, source: Path, option: str) -> None:
    """mount_namespaces(7): in a less privileged namespace they are the mount's owner's."""

    async def body(sup: Supervisor) -> None:
        with pytest.raises(StepFailed, match="leave out the options on access times"):
            await output(sup, shell("true", rootfs=root, volumes=[f"{source}:/mnt/x:{option}"]))

    run(sup_root, body)


def test_contradicting_access_times_are_refused() -> None:
    with pytest.raises(SpecError, match="choose noatime or relatime"):
        shell("true", volumes=["/a:/b:noatime,relatime"])


def test_nosymfollow_and_noexec_are_what_they_say(sup_root: str, root: str, source: Path) -> None:
    os.symlink("file", source / "link")
    shutil.copy("/bin/true", source / "true")
    script = "cat /mnt/a/link; cat /mnt/b/link && exit 1; /mnt/a/true && ! /mnt/c/true"
    volumes = [f"{source}:/mnt/a", f"{source}:/mnt/b:nosymfollow", f"{source}:/mnt/c:noexec"]
    assert inside(sup_root, script, rootfs=root, volumes=volumes).startswith("from the host\n")


def test_read_only_is_so_below_too(sup_root: str, root: str) -> None:
    """/dev has other file systems below it: /dev/shm may be written to on the host."""
    name = f"/dev/shm/sup-{os.getpid()}"
    script = f"test -d /mnt/d/shm && ! touch /mnt/d/shm/{os.path.basename(name)}"
    inside(sup_root, script, rootfs=root, volumes=["/dev:/mnt/d:ro"])
    assert not os.path.exists(name)


def test_the_working_directory(sup_root: str, tree: str, source: Path) -> None:
    os.symlink("/mnt/a", f"{tree}/work")
    script = "readlink /proc/self/cwd; pwd -P; cat file"
    text = inside(sup_root, script, rootfs=tree, workdir="/work/", volumes=[f"{source}:/mnt/a"])
    assert text == "/mnt/a\n/mnt/a\nfrom the host\n"


def test_tmpfs_size_and_mode(sup_root: str, root: str) -> None:
    script = "stat -c %a /scratch; stat -f -c '%b %S' /scratch"
    mode, blocks, size = inside(
        sup_root, script, rootfs=root, tmpfs=["/scratch:size=1m,mode=750"]
    ).split()
    assert (mode, int(blocks) * int(size)) == ("750", 1 << 20)


def test_a_device_of_the_host_by_volume(sup_root: str, root: str) -> None:
    volumes = ["/dev/zero:/dev/again"]
    assert inside(sup_root, "stat -c '%t:%T' /dev/again", rootfs=root, volumes=volumes) == "1:5\n"


# What a container finds, whatever its root is


def test_what_a_fleet_shares_is_sealed(sup_root: str, root: str) -> None:
    """Else one replica could put a file of its own in the place of the others' /dev/null."""
    script = (
        "touch /dev/x /dev/null/x /dev/pts/x; rm -f /dev/null; chmod 0 /dev/null;"
        " mkdir /dev/y; ln -s x /dev/z; rm /dev/ptmx; echo fine > /dev/null; stat -c %A /dev/null"
    )

    async def body(sup: Supervisor) -> None:
        one, two, three = await sup.launch(shell(f"{script}; ls /dev", rootfs=root), 3, name="web")
        for container in (one, two, three):
            assert container.error is None
            assert await container.wait() == 0
            with container.console.view() as viewer:
                seen = b""
                while (chunk := await viewer.receive()) is not None:
                    seen += chunk.data
            assert b"crw-rw-rw-" in seen
            assert {b"x", b"y", b"z"}.isdisjoint(seen.split())
            assert b"ptmx" in seen.split()

    run(sup_root, body)


def test_no_descriptor_is_leaked(sup_root: str, root: str) -> None:
    for tty in (True, False):
        assert inside(sup_root, "ls /proc/self/fd", rootfs=root, tty=tty).split() == list("0123")


def test_init_cannot_be_looked_into(sup_root: str, root: str) -> None:
    script = "for f in root exe cwd fd/0; do readlink /proc/1/$f && exit 1; done; cat /proc/1/environ"

    async def body(sup: Supervisor) -> None:
        status, text = await output(sup, shell(script, rootfs=root))
        assert status != 0
        assert sup_root not in text
        assert "PATH=" not in text

    run(sup_root, body)


def test_etc_of_the_host_holds_no_secret(sup_root: str) -> None:
    text = inside(sup_root, "ls /etc; cat /etc/passwd; ls -l /etc/passwd /etc/hosts")
    names = set(text.split())
    assert {"passwd", "group", "hosts", "hostname", "resolv.conf"} <= names
    assert names.isdisjoint({"shadow", "gshadow", "sudoers", "ssh", "machine-id", "subuid", "fstab"})
    for line in text.splitlines():
        if line.count(":") == 6:
            assert line.split(":")[1] == "x"


def test_modes_do_not_follow_the_callers_umask(sup_root: str, root: str) -> None:
    before = os.umask(0o077)
    try:
        script = "stat -L -c '%a' /etc/hosts /etc/hostname / /dev; umask"
        assert inside(sup_root, script, rootfs=root).split() == ["644", "644", "755", "755", "0022"]
    finally:
        os.umask(before)


def test_sys_is_read_only(sup_root: str, root: str) -> None:
    text = inside(sup_root, "cat /proc/self/mountinfo", rootfs=root)
    flags = {fields(line)[4]: set(fields(line)[5].split(",")) for line in text.splitlines()}
    assert {"ro", "nosuid", "nodev", "noexec"} <= flags["/sys"]
    assert {"nosuid", "nodev", "noexec"} <= flags["/proc"]


@pytest.mark.parametrize("kind", ["host", "own layer", "writable"])
def test_proc_of_every_replica_is_its_own(sup_root: str, tree: str, kind: str) -> None:
    rootfs = {"host": "host", "own layer": tree, "writable": f"{tree}:rw"}[kind]

    async def body(sup: Supervisor) -> None:
        script = "set -- /proc/[0-9]*; read own rest </proc/self/stat; echo $# $own"
        made = await sup.launch(shell(script, rootfs=rootfs, tty=False), 4)
        assert [container.error for container in made] == [None] * 4
        for container in made:
            await container.wait()
            with container.console.view() as viewer:
                chunk = await viewer.receive()
            assert chunk is not None
            processes, own = chunk.data.split()
            assert int(processes) <= 5
            assert int(own) < 20

    run(sup_root, body)
