"""Files are what the user says they are: read once, written whole or not at all, or straight into what is no file."""

import bz2
import gzip
import lzma
import os
import resource
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from rerankkit.collection import read_corpus, read_queries
from rerankkit.errors import InputError, RunError
from rerankkit.ranking import file_groups
from rerankkit.readers.jsonl import Jsonl
from rerankkit.trec import read_qrels, read_run, write_run

RUN = {"q": {"b": 2.0, "a": 1.0}}
WRITTEN = "q Q0 b 1 2.0 rerankkit\nq Q0 a 2 1.0 rerankkit\n"
DOCUMENTS = '{"_id": "a", "text": "one cat"}\n{"_id": "b", "text": "two cats"}\n'
TOPICS = "<top>\n<num> Number: q\n<title> cat\n</top>\n"
READ = {
    "queries as JSON Lines": (read_queries, '\n{"_id": "q", "text": "cat"}\n', {"q": "cat"}),
    "queries as TSV": (read_queries, "q\tcat\n", {"q": "cat"}),
    "queries as TREC topics": (read_queries, f"<xml>\n{TOPICS}", {"q": "cat"}),
    "documents as JSON Lines": (read_corpus, DOCUMENTS, {"a": "one cat", "b": "two cats"}),
    "documents as TREC's SGML": (read_corpus, "<DOC><DOCNO>a</DOCNO>\n<TEXT>x</TEXT></DOC>\n", {"a": "x"}),
    "a run": (read_run, WRITTEN, RUN),
    "judgements": (read_qrels, "query-id\tcorpus-id\tscore\nq\ta\t1\n", {"q": {"a": 1}}),
    "training rows": (
        lambda path: [(group.query, group.docs) for group in Jsonl(str(path))],
        '{"query": "q", "positive": "a"}\n{"query": "r", "positive": "b"}\n',
        [("q", ["a"]), ("r", ["b"])],
    ),
    "training rows as an array": (
        lambda path: [group.query for group in Jsonl(str(path))],
        ' [{"query": "q", "positive": "a"},\n{"query": "r", "positive": "b"}]\n',
        ["q", "r"],
    ),
}
ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
PACK = {"plain": bytes, "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}


@contextmanager
def slow_writer(pipe: Path, content: bytes) -> Iterator[None]:
    """Writes into a pipe in pieces that end inside of lines; who opens it a second time finds it empty."""
    done = threading.Event()

    def write() -> None:
        with suppress(BrokenPipeError), pipe.open("wb", buffering=0) as file:
            for begin in range(0, len(content), 13):
                file.write(content[begin : begin + 13])
                time.sleep(0.001)
        while not done.wait(0.02):
            with suppress(OSError):
                os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        done.set()
        end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # nobody waits for ever for a reader that failed
        thread.join()
        os.close(end)


@pytest.mark.parametrize(
    ("what", "packing"),
    [
        pytest.param(what, packing, marks=[] if (what, packing) == ("judgements", "plain") else pytest.mark.regression)
        for what in READ
        for packing in PACK
    ],
)
def test_a_pipe_is_read_as_the_file_would_be(tmp_path: Path, what: str, packing: str) -> None:
    read, text, expected = READ[what]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with slow_writer(pipe, PACK[packing](b"\xef\xbb\xbf" + text.encode())):
        assert read(pipe) == expected


@pytest.mark.parametrize(
    "packing", ["plain", "gzip", *(pytest.param(packing, marks=pytest.mark.regression) for packing in ("bzip2", "xz"))]
)
def test_the_first_bytes_say_how_a_file_is_packed(tmp_path: Path, packing: str) -> None:
    for what, (read, text, expected) in READ.items():
        file = tmp_path / f"{what}.txt"  # whatever its name
        file.write_bytes(PACK[packing](text.encode()))
        assert read(file) == expected, what


@pytest.mark.regression
def test_descriptors_as_a_shell_hands_them_out(tmp_path: Path) -> None:
    contents = "q\tcat\n", DOCUMENTS, "q Q0 b 1 2.0 x\nq Q0 a 2 1.0 x\n"
    ends = [os.pipe() for _ in contents]
    for (_, end), text in zip(ends, contents, strict=True):
        os.write(end, text.encode())
        os.close(end)
    queries, docs, run = (Path(f"/dev/fd/{end}") for end, _ in ends)
    (group,) = file_groups(queries, docs, run, 10)
    assert (group.query, group.doc_ids, group.docs) == ("cat", ["b", "a"], ["two cats", "one cat"])
    for end, _ in ends:
        os.close(end)


@pytest.mark.regression
@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_standard_input(name: str) -> None:
    code = f"from rerankkit.collection import read_queries; print(read_queries({name!r}))"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdin is not None
        for line in ('{"_id": "1", "te', 'xt": "a"}\n{"_id": "2", "text": "b"}\n', '{"_id": "3", "text": "c"}\n'):
            process.stdin.write(line)
            process.stdin.flush()
            time.sleep(0.02)
        out, err = process.communicate(timeout=60)
    assert out == "{'1': 'a', '2': 'b', '3': 'c'}\n", err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04\x14\x00", "is a zip archive; unpack it"),
        (b"\x28\xb5\x2f\xfd\x04\x00", "is packed by zstd; unpack it"),
        (b"PAR1\x15\x04", "is a parquet file"),
        (bz2.compress(b'{"_id": "q", "text": "a"}\n')[:-6], "the bzip2 data breaks off or is damaged after line"),
        (lzma.compress(b'{"_id": "q", "text": "a"}\n')[:-6], "the xz data breaks off or is damaged after line"),
        (b"BZh is where this begins", "is neither JSON"),
    ],
)
def test_what_cannot_be_unpacked_is_said(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_queries(tmp_path / "file")


def test_a_pipe_that_was_read_before_is_not_taken_for_an_empty_file() -> None:
    end, other = os.pipe()
    os.close(other)
    with pytest.raises(InputError, match="a pipe can be read once"):
        read_queries(f"/dev/fd/{end}")
    os.close(end)


@pytest.mark.regression
def test_a_pipe_gets_what_is_written_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    got: list[str] = []
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for name in (pipe, link):
        write_run(RUN, name)
        got.append(os.read(end, 1000).decode() if stat.S_ISFIFO(pipe.stat().st_mode) else "")
    os.close(end)
    assert got == [WRITTEN, WRITTEN]
    assert link.is_symlink() and stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


@pytest.mark.regression
def test_a_device_is_never_renamed_over(tmp_path: Path) -> None:
    node = tmp_path / "node"
    try:
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # a node of our own, which takes all and keeps nothing
        node.open("w").close()
    except OSError:
        pytest.skip("no node can be made here")
    write_run(RUN, node)
    assert stat.S_ISCHR(node.stat().st_mode)


@pytest.mark.regression
def test_links_are_followed_and_permissions_kept(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    file, link, other = tmp_path / "folder" / "run", tmp_path / "link", tmp_path / "other"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to("folder/run")
    other.symlink_to(link)
    write_run(RUN, other)
    assert other.is_symlink() and link.is_symlink()
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == (WRITTEN, 0o640)
    new = tmp_path / "new"
    new.symlink_to("folder/made")
    write_run(RUN, new)
    assert (tmp_path / "folder" / "made").read_text() == WRITTEN
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["made", "run"]


@pytest.mark.regression
@pytest.mark.parametrize("name", ["-", "a link", "/proc/self/fd/1"])
def test_standard_output_is_written_into_also_where_it_is_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "a link").symlink_to("/proc/self/fd/1")  # of our own, as /dev/stdout is one
    code = f"from rerankkit.trec import write_run; print('before'); write_run({RUN}, {name!r}); print('after')"
    out = tmp_path / "out"
    with out.open("w") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, cwd=tmp_path, env=ENVIRONMENT, check=True)
    assert out.read_text() == f"before\n{WRITTEN}after\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a link", "out"] and (tmp_path / "a link").is_symlink()


def test_the_umask_decides_who_may_read_a_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_run(RUN, tmp_path / "run")
        os.umask(0o022)
        (tmp_path / "run2").write_text("")
        write_run(RUN, tmp_path / "run2")
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("run", "run2")] == [0o640, 0o644]


def full_disk(write: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """A process whose files may not grow beyond some bytes."""
    return subprocess.run(
        [sys.executable, "-c", write],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("old")
    code = "from rerankkit.trec import write_run; write_run({'q': {f'd{i}': 1.0 for i in range(999)}}, 'run')"
    done = full_disk(code, tmp_path)
    assert "RunError: run: cannot be written: " in done.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"run": "old"}


@pytest.mark.regression
def test_of_two_writers_at_once_one_wins(tmp_path: Path) -> None:
    failed: list[Exception] = []
    runs = [{"q": {f"d{i}": 1.0 for i in range(count)}} for count in (300, 500)]

    def write(run: dict[str, dict[str, float]]) -> None:
        try:
            for _ in range(20):
                write_run(run, tmp_path / "run")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    seen = set()
    while any(thread.is_alive() for thread in threads):
        if (tmp_path / "run").exists():
            seen.add(len((tmp_path / "run").read_text().splitlines()))
    for thread in threads:
        thread.join()
    assert failed == [] and seen <= {300, 500}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_cannot_be_written_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rerankkit import files

    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to("no/folder")
    end, other = os.pipe()
    cases: list[tuple[Path, type[Exception], str]] = [
        (tmp_path, InputError, "is a folder"),
        (tmp_path / "file" / "run", RunError, "its folder cannot be made: "),
        (tmp_path / "nowhere", RunError, "whose folder does not exist"),
        (Path(f"/dev/fd/{end}"), RunError, "cannot be written: "),  # the end for reading
    ]
    for path, kind, says in cases:
        with pytest.raises(kind, match=says):
            files.require_place(path)
    files.require_place(f"/dev/fd/{other}")
    files.require_place(tmp_path / "a" / "b")
    assert (tmp_path / "a").is_dir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "file")
    with pytest.raises(RunError, match="read-only or not yours"):
        files.require_place(tmp_path / "file")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(RunError, match="nothing can be written to its folder"):
        files.require_place(tmp_path / "run")
    os.close(end)
    os.close(other)


def test_a_folder_takes_no_place_of_a_pipe(tmp_path: Path) -> None:
    from rerankkit.files import require_free

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="already exists"):
        require_free(tmp_path / "pipe")


def test_a_file_that_is_mounted_by_itself_is_written_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*names: object) -> None:
        raise OSError(16, "Device or resource busy")

    (tmp_path / "run").write_text("an old and longer text than the new one" * 9)
    monkeypatch.setattr(os, "replace", busy)
    write_run(RUN, tmp_path / "run")
    assert (tmp_path / "run").read_text() == WRITTEN
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def unfinished(folder: Path, fill: Callable[[Path], None]) -> list[str]:
    """What lies beside a folder after filling it failed."""
    from rerankkit.files import new_folder

    with pytest.raises(ZeroDivisionError), new_folder(folder, replace=True) as beside:
        (beside / "new").write_text("new")
        fill(beside)
    return sorted(str(path.relative_to(folder.parent)) for path in folder.parent.rglob("*"))


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    from rerankkit.files import new_folder

    folder = tmp_path / "model"
    with new_folder(folder) as beside:
        (beside / "old").write_text("old")
    assert unfinished(folder, lambda beside: None if 1 / 0 else None) == ["model", "model/old"]
    with new_folder(folder, replace=True) as beside:
        (beside / "new").write_text("new")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["model", "model/new"]
