"""Downloads against a server on this machine: checked, atomic, by mirrors, and never without need."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from bench import data
from bench.contracts.dataset import DATASETS, Dataset, File, Splits
from bench.contracts.images import Images
from bench.data import data_root, fetch, load, parse, status
from bench.util.errors import DataError, UnknownName, UsageError
from bench.util.places import cache_dir

CONTENT = bytes(range(256)) * 40


@dataclass
class Server:
    """Files by path, where each may answer with something else; `asked` has the paths of all requests."""

    address: str
    answers: dict[str, tuple[int, bytes, int | None]] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def url(self, path: str) -> str:
        return self.address + path

    def serve(self, path: str, content: bytes, *, code: int = 200, length: int | None = None) -> str:
        self.answers[path] = (code, content, length)
        return self.url(path)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    known = Server("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known.asked.append(self.path)
            if self.path in known.redirects:
                self.send_response(302)
                self.send_header("Location", known.redirects[self.path])
                self.end_headers()
                return
            code, content, length = known.answers.get(self.path, (404, b"", None))
            self.send_response(code)
            self.send_header("Content-Length", str(len(content) if length is None else length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known.address = f"http://127.0.0.1:{running.server_address[1]}"
    thread = Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield known
    running.shutdown()
    running.server_close()
    thread.join()


def dataset(*files: File) -> Dataset:
    class Fake(Dataset):
        def load(self, root: Path) -> Splits:
            pixels = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1)
            return Splits(Images(pixels[:15]), Images(pixels[15:]))

    Fake.files = files
    return Fake()


def wanted(*urls: str, path: str = "Set/raw/a.bin", content: bytes = CONTENT) -> File:
    return File(path, urls, hashlib.sha256(content).hexdigest(), len(content))


def left_over(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file())


def test_a_good_file_arrives_whole_and_reports_its_progress(server: Server, tmp_path: Path) -> None:
    reports: list[tuple[str, int, int]] = []
    file = wanted(server.serve("/a", CONTENT))
    got = fetch(dataset(file), tmp_path, lambda *report: reports.append(report))
    assert got == [tmp_path / "Set/raw/a.bin"]
    assert got[0].read_bytes() == CONTENT
    assert left_over(tmp_path) == ["a.bin"]
    assert reports[-1] == ("downloading Set/raw/a.bin", len(CONTENT), len(CONTENT))


def test_a_file_that_is_there_is_used_without_any_network(server: Server, tmp_path: Path) -> None:
    file = wanted(server.serve("/a", CONTENT))
    (tmp_path / "Set/raw").mkdir(parents=True)
    (tmp_path / file.path).write_bytes(b"the user's own")
    assert fetch(dataset(file), tmp_path) == []
    assert server.asked == []
    assert (tmp_path / file.path).read_bytes() == b"the user's own"


def test_only_what_is_missing_is_downloaded(server: Server, tmp_path: Path) -> None:
    there, lacking = (
        wanted(server.serve("/a", CONTENT), path="a"),
        wanted(server.serve("/b", CONTENT), path="b"),
    )
    (tmp_path / "a").write_bytes(CONTENT)
    assert fetch(dataset(there, lacking), tmp_path) == [tmp_path / "b"]
    assert server.asked == ["/b"]


def test_a_dataset_that_is_ready_in_another_form_needs_nothing(server: Server, tmp_path: Path) -> None:
    class Ready(Dataset):
        files = (wanted(server.serve("/a", CONTENT)),)

        def ready(self, root: Path) -> bool:
            return True

        def load(self, root: Path) -> Splits:
            raise NotImplementedError

    assert fetch(Ready(), tmp_path) == []
    assert server.asked == []
    assert status(Ready(), tmp_path).ready


@pytest.mark.fault(25, "a download with another checksum or size", "refused, removed; the file and its place are named")
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (CONTENT[:-1] + b"!", "wrong checksum"),
        (CONTENT[:-1], "wrong size"),
        (CONTENT + b"!", "wrong size"),
        (b"", "wrong size"),
    ],
)
def test_a_wrong_file_is_refused_and_leaves_nothing(
    server: Server, tmp_path: Path, content: bytes, complaint: str
) -> None:
    file = wanted(server.serve("/a", content))
    with pytest.raises(DataError) as refused:
        fetch(dataset(file), tmp_path)
    message = str(refused.value)
    assert complaint in message
    assert "Set/raw/a.bin" in message
    assert str(tmp_path / "Set/raw") in message
    assert "--data-root" in message
    assert "BENCH_DATA" in message
    assert left_over(tmp_path) == []


def test_more_than_the_file_is_not_downloaded(server: Server, tmp_path: Path) -> None:
    reports: list[int] = []
    file = wanted(server.serve("/a", CONTENT * 200))
    with pytest.raises(DataError, match="more than the expected 10,240 bytes"):
        fetch(dataset(file), tmp_path, lambda _, got, __: reports.append(got))
    assert max(reports, default=0) <= len(CONTENT)


@pytest.mark.fault(25, "a connection breaks off", "refused, removed")
def test_a_connection_that_breaks_off_is_a_failure(server: Server, tmp_path: Path) -> None:
    file = wanted(server.serve("/a", CONTENT[:100], length=len(CONTENT)))
    with pytest.raises(DataError, match=r"could not be downloaded"):
        fetch(dataset(file), tmp_path)
    assert left_over(tmp_path) == []


def test_the_mirror_is_tried_where_the_first_address_fails(server: Server, tmp_path: Path) -> None:
    urls = server.url("/gone"), server.serve("/damaged", b"!" * len(CONTENT)), server.serve("/good", CONTENT)
    assert fetch(dataset(wanted(*urls)), tmp_path)[0].read_bytes() == CONTENT
    assert server.asked == ["/gone", "/damaged", "/good"]


def test_every_failed_address_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        fetch(dataset(wanted(server.url("/gone"), server.serve("/bad", b"x"))), tmp_path)
    assert "404" in str(refused.value)
    assert "/bad: wrong size" in str(refused.value)


def test_nobody_answering_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="refused"):
        fetch(dataset(wanted("http://127.0.0.1:9/a")), tmp_path)


@pytest.mark.parametrize("url", ["http://example.org/a", "file:///etc/hostname", "ftp://example.org/a", "data:,x"])
def test_nothing_but_https_is_asked(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data._opener, "open", lambda *_, **__: pytest.fail("it was asked"))
    with pytest.raises(DataError, match="not https"):
        fetch(dataset(wanted(url)), tmp_path)


@pytest.mark.fault(25, "a redirect to plain http", "refused")
@pytest.mark.parametrize("to", ["http://example.org/a", "file:///etc/hostname"])
def test_a_redirect_never_leaves_https(server: Server, to: str, tmp_path: Path) -> None:
    server.redirects["/a"] = to
    with pytest.raises(DataError, match=r"which isn't https|is not allowed"):
        fetch(dataset(wanted(server.url("/a"))), tmp_path)
    assert left_over(tmp_path) == []


def test_from_https_not_even_to_this_machine() -> None:
    request = data.Request("https://example.org/a")
    with pytest.raises(OSError, match="isn't https"):
        data._NoDowngrade().redirect_request(request, None, 302, "", {}, "http://127.0.0.1/a")  # type: ignore[arg-type]


def test_a_file_without_an_address_says_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        fetch(dataset(wanted()), tmp_path)
    assert "browser" in str(refused.value)
    assert str(tmp_path / "Set/raw") in str(refused.value)


def test_a_folder_that_cannot_be_written_is_said_before_asking(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = wanted(server.serve("/a", CONTENT))

    def deny(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", deny)  # the tests may run as root, whom no mode stops
    with pytest.raises(DataError, match=r"can't write Set/raw/a\.bin") as refused:
        fetch(dataset(file), tmp_path)
    assert "Permission denied" in str(refused.value)
    assert server.asked == []


def test_a_root_that_is_a_file_is_an_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    with pytest.raises(DataError, match="can't write"):
        fetch(dataset(wanted(server.serve("/a", CONTENT))), tmp_path / "root")


def test_status_tells_present_missing_and_wrong_size(tmp_path: Path) -> None:
    files = [wanted(path=name) for name in ("here", "gone", "short")]
    (tmp_path / "here").write_bytes(CONTENT)
    (tmp_path / "short").write_bytes(b"x")
    found = status(dataset(*files), tmp_path)
    assert [entry.state for entry in found.files] == ["present", "missing", "wrong size"]
    assert [entry.size for entry in found.files] == [len(CONTENT), 0, 1]
    assert found.files[1].path == tmp_path / "gone"
    assert found.size == 3 * len(CONTENT)
    assert not found.ready


def test_the_data_root_is_the_option_then_the_variable_then_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BENCH_DATA", "/from/variable")
    assert data_root("/from/option") == Path("/from/option")
    assert data_root(None) == Path("/from/variable")
    monkeypatch.setenv("BENCH_DATA", "")
    monkeypatch.setenv("BENCH_CACHE", "/cache")
    assert data_root(None) == Path("/cache/data")
    assert cache_dir() == Path("/cache")
    monkeypatch.delenv("BENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir().name == "vaebench"


def test_load_downloads_what_is_missing_and_not_when_told_so(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = type(dataset(wanted(server.serve("/a", CONTENT))))
    monkeypatch.setattr(DATASETS, "load", lambda name: cls)
    with pytest.raises(DataError, match=r"Set/raw/a\.bin is missing"):
        load("fake", tmp_path, download=False)
    assert server.asked == []
    assert len(load("fake", tmp_path).train) == 15
    assert len(load("fake", tmp_path, download=False).test) == 5
    assert server.asked == ["/a"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("mnst", UnknownName, "'mnist'"),
        ("foldr:/some/where", UnknownName, "'folder'"),
        ("nobody:digits", UnknownName, "nobody"),
        ("digits[widht=3]", UnknownName, "widht"),
        ("folder[image_sise=3]:x", UnknownName, "'image_size'"),
        ("folder[image_size=big]:x", UsageError, "a whole number"),
        ("folder[image_size=0]:x", UsageError, "out of range"),
        ("folder", UsageError, "folder:PATH"),
        ("folder:", UsageError, "folder:PATH"),
        ("digits:8", UsageError, "nothing behind a colon"),
        ("digits[", UsageError, "isn't a dataset"),
        ("", UnknownName, "no dataset"),
        ("../digits", UsageError, "folder:../digits"),
    ],
)
def test_a_request_that_makes_no_sense_is_answered(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as refused:
        parse(text)
    assert message in str(refused.value)
    assert str(refused.value).count("\n") < 5


def test_a_path_is_taken_as_it_stands() -> None:
    for path in ("/a:b", "/a[b=1]", "a,b", "/a\nb", "-x", "[", "/x/[2020]/é\udcff"):
        assert str(parse(f"folder[image_size=8]:{path}").path) == path  # type: ignore[attr-defined]


def test_a_distribution_may_stand_before_the_name() -> None:
    assert type(parse("vaebench:digits")) is type(parse("digits"))
    assert parse("vaebench:folder[image_size=9]:/x:y").path == Path("/x:y")  # type: ignore[attr-defined]


def test_image_size_reaches_the_datasets_that_have_it() -> None:
    assert parse("folder:x", image_size=12).image_size == 12  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="fixed size"):
        parse("digits", image_size=12)
    with pytest.raises(UsageError, match="already"):
        parse("folder[image_size=8]:x", image_size=12)


def test_limit_and_validation_take_seeded_parts_that_do_not_overlap(tmp_path: Path) -> None:
    whole = load("digits", tmp_path)
    small, again = load("digits", tmp_path, limit=100), load("digits", tmp_path, limit=100)
    rest = load("digits", tmp_path, validation=437)
    both = load("digits", tmp_path, limit=100, validation=437)
    assert [len(d.train) for d in (whole, small, rest, both)] == [1437, 100, 1000, 100]
    assert small.train.digest == again.train.digest
    assert len({d.train.digest for d in (whole, small, rest, both)}) == 4
    assert {d.test.digest for d in (whole, small, rest, both)} == {whole.test.digest}
    assert small.source.digest == whole.train.digest
    assert (small.limit, rest.validation) == (100, 437)


@pytest.mark.parametrize("asked", [{"limit": 1438}, {"validation": 1437}, {"limit": 1000, "validation": 438}])
def test_more_images_than_there_are_is_an_error(asked: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1,437"):
        load("digits", tmp_path, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", [{"limit": 0}, {"limit": -1}, {"validation": -1}])
def test_less_than_nothing_is_an_error(asked: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--limit|--validation"):
        load("digits", tmp_path, **asked)  # type: ignore[arg-type]


def test_every_registered_file_is_pinned_and_has_a_safe_place() -> None:
    for name in DATASETS:
        for file in DATASETS.load(name).files:
            assert len(file.sha256) == 64
            assert set(file.sha256) <= set("0123456789abcdef")
            assert file.size > 0
            assert not Path(file.path).is_absolute()
            assert ".." not in Path(file.path).parts
            assert file.urls
            assert all(url.startswith("https://") for url in file.urls)
