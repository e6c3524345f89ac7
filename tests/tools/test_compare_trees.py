# SPDX-License-Identifier: Apache-2.0
"""The tree comparer is what other tests rest on, so it is tested on real trees."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

TOOLS = Path(__file__).resolve().parents[2] / "tools"
MTIME_NS = 1_700_000_000_123_456_789
KIB64 = 65536


def load(name: str) -> ModuleType:
    """Load a tool from its file; the tools are programs, not a package."""
    spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


compare = load("compare_trees")
demo = load("make_demo_tree")

needs_root = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


def settle(*paths: Path) -> None:
    """Give entries the one time that all entries have."""
    for path in paths:
        os.utime(path, ns=(MTIME_NS, MTIME_NS), follow_symlinks=False)


def make_tree(root: Path) -> Path:
    """A small tree; every call makes an equal one."""
    (root / "sub").mkdir(parents=True)
    (root / "file").write_bytes(b"some bytes")
    (root / "sub" / "linked").write_bytes(b"two names")
    (root / "also-linked").hardlink_to(root / "sub" / "linked")
    (root / "symlink").symlink_to("file")
    os.mkfifo(root / "fifo")
    with (root / "sparse").open("wb") as file:
        file.truncate(4 * KIB64)
        file.seek(KIB64)
        file.write(b"\x07" * KIB64)
    settle(*root.rglob("*"), root)
    return root


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal trees."""
    return make_tree(tmp_path / "a"), make_tree(tmp_path / "b")


Run = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the program; returns its exit status and the lines that it printed."""

    def call(*args: str | Path) -> tuple[int, list[str]]:
        capsys.readouterr()
        status: int = compare.main([os.fspath(arg) for arg in args])
        return status, capsys.readouterr().out.splitlines()

    return call


def try_xattr(path: Path, key: str, value: bytes) -> None:
    """Set an attribute, or skip the test where there are none."""
    try:
        os.setxattr(path, key, value)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        pytest.skip("no extended attributes on this file system")


def try_holes(path: Path) -> None:
    """Skip the test where holes are not reported."""
    with path.open("rb") as file:
        if os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0:
            pytest.skip("no holes are reported on this file system")


# --- equal trees ----------------------------------------------------------------


def test_equal_trees_are_equal(pair: tuple[Path, Path], run: Run) -> None:
    assert run(*pair) == (0, ["compared 8 entries, 0 differences"])


def test_atime_is_neither_compared_nor_changed(pair: tuple[Path, Path], run: Run) -> None:
    file = pair[0] / "file"
    os.utime(file, ns=(1, MTIME_NS))
    assert run(*pair)[0] == 0
    assert file.stat().st_atime_ns == 1


def test_roots_may_be_symbolic_links(pair: tuple[Path, Path], run: Run, tmp_path: Path) -> None:
    (tmp_path / "to-b").symlink_to(pair[1])
    assert run(pair[0], tmp_path / "to-b")[0] == 0


# --- each kind of difference ----------------------------------------------------


def spoil_content(root: Path) -> None:
    with (root / "file").open("r+b") as file:
        file.write(b"S")


def spoil_size(root: Path) -> None:
    with (root / "file").open("ab") as file:
        file.write(b"!")


def spoil_links(root: Path) -> None:
    (root / "also-linked").unlink()
    shutil.copy2(root / "sub" / "linked", root / "also-linked")


def spoil_links_by_joining(root: Path) -> None:
    (root / "file").rename(root / "sub" / "x")
    (root / "sub" / "x").unlink()
    (root / "file").hardlink_to(root / "sub" / "linked")


def spoil_hole(root: Path) -> None:
    try_holes(root / "sparse")
    data = (root / "sparse").read_bytes()
    with (root / "sparse").open("r+b") as file:
        file.write(data)


def spoil_type(root: Path) -> None:
    (root / "file").unlink()
    (root / "file").symlink_to("nothing")


def spoil_target(root: Path) -> None:
    (root / "symlink").unlink()
    (root / "symlink").symlink_to("filf")


def spoil_owner(uid: int, gid: int) -> Callable[[Path], None]:
    return lambda root: os.chown(root / "file", uid, gid)


def spoil_mode(name: str, bits: int) -> Callable[[Path], None]:
    return lambda root: (root / name).chmod(stat.S_IMODE((root / name).lstat().st_mode) ^ bits)


SPOILERS = [
    pytest.param("content file", spoil_content, id="content"),
    pytest.param("content file", spoil_size, id="size"),
    pytest.param("mode file", spoil_mode("file", 0o001), id="permission"),
    pytest.param("mode file", spoil_mode("file", stat.S_ISUID), id="setuid"),
    pytest.param("mode file", spoil_mode("file", stat.S_ISGID), id="setgid"),
    pytest.param("mode sub", spoil_mode("sub", stat.S_ISVTX), id="sticky"),
    pytest.param("mode fifo", spoil_mode("fifo", 0o100), id="mode-of-fifo"),
    pytest.param("mode .", spoil_mode(".", 0o001), id="mode-of-root"),
    pytest.param("owner file", spoil_owner(os.getuid() + 1, -1), id="uid", marks=needs_root),
    pytest.param("owner file", spoil_owner(-1, os.getgid() + 1), id="gid", marks=needs_root),
    pytest.param(
        "xattr file", lambda root: try_xattr(root / "file", "user.x", b""), id="xattr-of-file"
    ),
    pytest.param(
        "xattr sub", lambda root: try_xattr(root / "sub", "user.x", b"1"), id="xattr-of-directory"
    ),
    pytest.param("xattr .", lambda root: try_xattr(root, "user.x", b"1"), id="xattr-of-root"),
    pytest.param("link-group sub/linked", spoil_links, id="link-lost"),
    pytest.param("hole sparse", spoil_hole, id="hole"),
    pytest.param("extra sub/new", lambda root: (root / "sub" / "new").touch(), id="extra"),
    pytest.param("missing fifo", lambda root: (root / "fifo").unlink(), id="missing"),
    pytest.param("type file", spoil_type, id="type"),
    pytest.param("target symlink", spoil_target, id="target"),
]


@pytest.mark.parametrize(("expected", "spoil"), SPOILERS)
def test_reports_exactly_this_difference(
    pair: tuple[Path, Path], run: Run, expected: str, spoil: Callable[[Path], None]
) -> None:
    spoil(pair[1])
    settle(*pair[1].rglob("*"), pair[1])
    status, lines = run(*pair)
    assert status == 1
    assert len(lines) == 2
    assert lines[0].startswith(f"{expected}: ")
    assert lines[1].endswith(" entries, 1 differences")


@pytest.mark.parametrize("name", ["file", "sub", "symlink", "fifo", "."])
def test_reports_a_nanosecond(pair: tuple[Path, Path], run: Run, name: str) -> None:
    times = (MTIME_NS, MTIME_NS + 1)
    os.utime(pair[1] / name, ns=times, follow_symlinks=False)
    if (pair[1] / name).lstat().st_mtime_ns != MTIME_NS + 1:
        pytest.skip("coarser times on this file system")
    assert run(*pair) == (
        1,
        [
            f"time {name}: {MTIME_NS} ns in A, {MTIME_NS + 1} ns in B",
            "compared 8 entries, 1 differences",
        ],
    )


def test_reports_joined_links(pair: tuple[Path, Path], run: Run) -> None:
    spoil_links_by_joining(pair[1])
    settle(*pair[1].rglob("*"), pair[1])
    line = 'link-group file: linked to no earlier path in A, to "also-linked" in B'
    assert line in run(*pair)[1]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_reports_device_numbers(pair: tuple[Path, Path], run: Run) -> None:
    for root, minor in zip(pair, (3, 5), strict=True):
        try:
            os.mknod(root / "node", stat.S_IFCHR | 0o600, os.makedev(1, minor))
        except PermissionError:
            pytest.skip("device nodes are not permitted here")
        settle(root / "node", root)
    assert run(*pair)[1][0] == "device node: 1:3 in A, 1:5 in B"


@pytest.mark.parametrize(("swap", "kind"), [(False, "extra"), (True, "missing")])
def test_reports_all_that_is_below(
    pair: tuple[Path, Path], run: Run, swap: bool, kind: str
) -> None:
    (pair[1] / "new" / "deep").mkdir(parents=True)
    (pair[1] / "new" / "deep" / "file").touch()
    settle(pair[1])
    status, lines = run(*(reversed(pair) if swap else pair))
    assert status == 1
    assert lines[:3] == [
        f"{kind} new: directory",
        f"{kind} new/deep: directory",
        f"{kind} new/deep/file: file",
    ]


def test_data_where_the_other_side_has_a_hole(pair: tuple[Path, Path], run: Run) -> None:
    try_holes(pair[0] / "sparse")
    for where in pair:
        with (pair[1] / "sparse").open("r+b") as file:
            file.seek(3 * KIB64 + 5)
            file.write(b"x")
        settle(pair[1] / "sparse")
        other = pair[0] if where == pair[1] else pair[1]
        lines = run(where, other)[1]
        assert [line.split(":")[0] for line in lines[:2]] == ["hole sparse", "content sparse"]
        assert lines[1].endswith(f"offset {3 * KIB64 + 5}")


# --- options --------------------------------------------------------------------


def test_ignored_names_are_ignored_at_the_root_only(pair: tuple[Path, Path], run: Run) -> None:
    (pair[0] / "lost+found").mkdir()
    (pair[1] / "other").mkdir()
    (pair[1] / "sub" / "other").mkdir()
    settle(pair[0], pair[1], pair[1] / "sub")
    options = ("--ignore", "lost+found", "--ignore", "other")
    assert run(*options, *pair)[1][:-1] == ["extra sub/other: directory"]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_owners_can_be_ignored(pair: tuple[Path, Path], run: Run) -> None:
    os.chown(pair[1] / "file", 4711, 4712)
    assert run(*pair)[0] == 1
    assert run("--ignore-owner", *pair)[0] == 0


@pytest.mark.parametrize("args", [[], ["a"], ["--self-test", "a", "b"], ["a", "b", "c"]])
def test_wrong_usage_is_status_two(args: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        compare.main(args)
    assert caught.value.code == 2


def test_a_root_that_cannot_be_opened_is_status_two(pair: tuple[Path, Path], run: Run) -> None:
    assert run(pair[0], pair[1] / "nothing") == (2, [])
    assert run(pair[0] / "file", pair[1]) == (2, [])


def test_an_entry_that_cannot_be_read_is_status_two(
    pair: tuple[Path, Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: bytes, dir_fd: int) -> int:
        raise PermissionError(errno.EACCES, "refused")

    monkeypatch.setattr(compare, "open_file", refuse)
    status, lines = run(*pair)
    assert status == 2
    assert "error file: EACCES, refused" in lines
    assert lines[-1].endswith(" 0 differences, 4 errors")


# --- names, depth and size ------------------------------------------------------


@given(st.binary())
def test_escape_is_reversible_and_plain(raw: bytes) -> None:
    text = compare.escape(raw)
    assert compare.unescape(text) == raw
    assert text.isascii()
    assert not text or text.isprintable()
    assert ": " not in text


@given(st.binary().filter(lambda raw: b"/" not in raw), st.text(min_size=1))
def test_a_line_can_be_taken_apart(path: bytes, detail: str) -> None:
    line = compare.Difference(compare.Kind.MODE, path, detail).line()
    kind, rest = line.split(" ", 1)
    assert kind == "mode"
    assert compare.unescape(rest.split(": ", 1)[0]) == (path or b".")


@pytest.mark.parametrize("text", ["\\", "\\q", "\\x", "\\xg0", "\u00e9"])
def test_unescape_refuses_other_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        compare.unescape(text)


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        (b"new\nline", "new\\nline"),
        (b"\xff\xfe", "\\xff\\xfe"),
        (b"a: b", "a:\\x20b"),
        (b"-x", "-x"),
        (b"caf\xc3\xa9", "caf\\xc3\\xa9"),
        (b"n" * 255, "n" * 255),
    ],
)
def test_strange_names(pair: tuple[Path, Path], run: Run, name: bytes, printed: str) -> None:
    try:
        (pair[0] / os.fsdecode(name)).write_bytes(b"1")
    except OSError as error:
        pytest.skip(f"not a name on this file system: {error.strerror}")
    (pair[1] / os.fsdecode(name)).write_bytes(b"2")
    settle(*(root / os.fsdecode(name) for root in pair), *pair)
    lines = run(*pair)[1]
    assert lines[:-1] == [f"content {printed}: first different byte at offset 0"]


def make_deep(root: Path, depth: int, data: bytes) -> None:
    """Nest directories deeper than any one path can name."""
    root.mkdir()
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d" * 200, dir_fd=fd)
        deeper = os.open("d" * 200, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    file = os.open("bottom", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd)
    os.write(file, data)
    os.close(file)
    os.close(fd)


def test_paths_longer_than_the_kernel_takes(tmp_path: Path, run: Run) -> None:
    make_deep(tmp_path / "a", 50, b"1")
    make_deep(tmp_path / "b", 50, b"2")
    lines = run(tmp_path / "a", tmp_path / "b")[1]
    assert lines[-1].startswith("compared 52 entries")
    path = ("d" * 200 + "/") * 50 + "bottom"
    assert f"content {path}: first different byte at offset 0" in lines
    (tmp_path / "none").mkdir()
    assert run(tmp_path / "none", tmp_path / "b")[1][-2] == f"extra {path}: file"


def test_huge_sparse_files_are_quick(tmp_path: Path, run: Run) -> None:
    size, data = 4 << 40, 3 << 40
    for name, byte in (("a", b"1"), ("b", b"2")):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "huge").open("wb") as file:
            try:
                file.truncate(size)
            except OSError as error:
                pytest.skip(f"too large for this file system: {error.strerror}")
            file.seek(data)
            file.write(byte)
        settle(tmp_path / name / "huge", tmp_path / name)
    try_holes(tmp_path / "a" / "huge")
    lines = run(tmp_path / "a", tmp_path / "b")[1]
    assert lines[:-1] == [f"content huge: first different byte at offset {data}"]


# --- the self-test --------------------------------------------------------------

KINDS = [kind for kind in compare.Kind if kind is not compare.Kind.ERROR]


def test_self_test_passes(run: Run, tmp_path: Path) -> None:
    status, lines = run("--self-test", "--self-test-dir", tmp_path)
    assert status == 0
    assert lines[0] == "equal trees compare equal: yes"
    assert [line for line in lines if line.startswith("detects")] == [
        f"detects {kind}: yes" for kind in KINDS
    ]
    assert list(tmp_path.iterdir()) == []


def test_self_test_without_root(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    status, lines = run("--self-test", "--self-test-dir", tmp_path)
    assert status == 0
    assert any(line.startswith("owner: cannot be tested without root") for line in lines)
    assert "detects owner: yes" in lines


def test_self_test_without_attributes_and_holes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    monkeypatch.setattr(os, "removexattr", refuse)
    monkeypatch.setattr(compare, "seek_extents", lambda fd, size: iter([(0, size)]))
    status, lines = run("--self-test", "--self-test-dir", tmp_path)
    assert status == 0
    for kind in ("xattr", "hole"):
        assert any(line.startswith(f"{kind}: cannot be tested in this dir") for line in lines)
        assert f"detects {kind}: yes" in lines


@pytest.mark.parametrize("kind", KINDS)
def test_self_test_fails_when_a_kind_is_not_seen(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    report = compare.Comparer._report

    def blind(self: object, what: str, path: bytes, detail: str) -> None:
        if what != kind:
            report(self, what, path, detail)

    monkeypatch.setattr(compare.Comparer, "_report", blind)
    status, lines = run("--self-test", "--self-test-dir", tmp_path)
    assert status == 1
    assert [line for line in lines if line.endswith("NO")] == [f"detects {kind}: NO"]


# --- the demo tree --------------------------------------------------------------


def copy_of(source: Path, destination: Path) -> Path:
    """A copy with everything that cp can keep."""
    subprocess.run(["cp", "-a", "--", source, destination], check=True, timeout=300)
    return destination


def test_a_faithful_copy_of_the_demo_tree_is_equal(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = tmp_path / "demo"
    original.mkdir()
    assert demo.main([str(original), "--files", "400"]) == 0
    summary = capsys.readouterr().out.splitlines()[-1]
    assert summary.startswith("made ")
    status, lines = run(original, copy_of(original, tmp_path / "copy"))
    assert lines[:-1] == []
    assert status == 0


def test_the_demo_tree_is_odd(tmp_path: Path) -> None:
    assert demo.main([str(tmp_path), "--files", "20"]) == 0
    odd = tmp_path / "odd"
    assert (odd / "links-a" / "one").samefile(odd / "links-b" / "three")
    assert (odd / "links-a" / "one").stat().st_nlink == 3
    assert (odd / "empty").stat().st_mtime_ns < 0
    assert stat.S_ISFIFO((odd / "fifo").stat().st_mode)
    assert stat.S_ISSOCK((odd / "socket").stat().st_mode)
    assert (odd / "setuid").stat().st_mode & stat.S_ISUID
    assert not (odd / "symlinks" / "dangling").exists()
    names = set(os.listdir(os.fsencode(odd / "names")))
    assert {b"new\nline", b"-rf", b"n" * 255, "caf\u00e9".encode(), b"cafe\xcc\x81"} <= names
    assert (odd / "random").lstat().st_mtime_ns % 1000


def test_the_odd_entries_are_the_same_each_time(run: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        assert demo.main([str(tmp_path / name), "--files", "0"]) == 0
    settle(*(tmp_path / name for name in "ab"), *(tmp_path / name / "real" for name in "ab"))
    assert run(tmp_path / "a", tmp_path / "b")[1][:-1] == []


def test_a_directory_is_filled_once_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main([str(tmp_path), "--files", "0"]) == 0
    assert demo.main([str(tmp_path), "--files", "0"]) == 2
    assert "File exists" in capsys.readouterr().err
