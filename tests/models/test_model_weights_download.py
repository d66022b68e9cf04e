"""Published files from a server that we make: whole, checked, or not there at all."""

import hashlib
import http.server
import threading
from pathlib import Path

import pytest

from videokd.errors import UserError
from videokd.models.catalog import CATALOG, ModelEntry, PublishedFile
from videokd.models.weights import published_weights
from videokd.models.weights.download import place_of

CONTENT = bytes(range(256)) * 10_000  # 2.4 MiB: three chunks
DIGEST = hashlib.sha256(CONTENT).hexdigest()[:8]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        if "missing" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        if "unsized" not in self.path:
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        half = "broken" in self.path
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if half else CONTENT)

    def log_message(self, *_args):
        pass


@pytest.fixture(scope="module")
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def entry_of(url, digest=DIGEST):
    file = PublishedFile(url=url, sha256_prefix=digest, layout="torchvision")
    return ModelEntry(
        name="net", family="r3d", role="teacher", settings={}, num_classes=400, weights=file
    )


@pytest.fixture
def entry(server):
    def make(name, digest=DIGEST):
        return entry_of(f"http://127.0.0.1:{server.server_port}/zoo/{name}", digest)

    return make


def test_downloaded_once_and_reported(server, entry, tmp_path):
    server.requests.clear()
    seen = []
    wanted = entry(f"net-{DIGEST}.pth")
    path = published_weights(wanted, folder=tmp_path, on_progress=lambda *a: seen.append(a))
    assert path == tmp_path / f"net-{DIGEST}.pth"
    assert path.read_bytes() == CONTENT
    assert seen == [(1 << 20, len(CONTENT)), (2 << 20, len(CONTENT)), (len(CONTENT),) * 2]
    assert published_weights(wanted, folder=tmp_path) == path
    assert server.requests == [f"/zoo/net-{DIGEST}.pth"]


def test_a_server_that_does_not_tell_the_size(entry, tmp_path):
    seen = []
    path = published_weights(
        entry("unsized.pth"), folder=tmp_path, on_progress=lambda *a: seen.append(a)
    )
    assert (path.read_bytes(), seen) == (CONTENT, [])


def test_it_goes_where_torch_keeps_its_own(entry, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = published_weights(entry("net.pth"))
    assert path == tmp_path / "hub" / "checkpoints" / "net.pth"
    assert path.is_file()


def test_two_files_of_one_name():
    """PyTorchVideo has one name in two folders, and no digest that would tell them apart."""
    places = {
        place_of(entry_of(f"https://host/zoo/{data}/NET.pyth", None).weights, Path("x")).as_posix()
        for data in ("kinetics", "ssv2")
    }
    assert places == {"x/zoo__kinetics__NET.pyth", "x/zoo__ssv2__NET.pyth"}


def test_each_file_of_the_catalogue_has_its_own_place():
    files = {entry.weights for entry in CATALOG.values() if entry.weights is not None}
    assert len({place_of(file, Path("x")) for file in files}) == len({file.url for file in files})
    assert len(files) > 30


@pytest.mark.parametrize(
    ("name", "digest", "message"),
    [
        (
            "broken.pth",
            DIGEST,
            r"broken\.pth broke off after 1280000 of 2560000 bytes; try again, or put the file "
            r"there by hand: .*broken\.pth$",
        ),
        (
            "missing.pth",
            DIGEST,
            r"^http://127\.0\.0\.1:\d+/zoo/missing\.pth cannot be downloaded \(Not Found\); "
            r"put the file there by hand: .*missing\.pth$",
        ),
        (
            "other.pth",
            "00000000",
            rf"other\.pth: its SHA-256 starts with {DIGEST}, that of http.*other\.pth with "
            r"00000000; try again$",
        ),
    ],
)
def test_what_goes_wrong_leaves_nothing(entry, tmp_path, name, digest, message):
    with pytest.raises(UserError, match=message):
        published_weights(entry(name, digest), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing(entry, tmp_path):
    def stop(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        published_weights(entry("net.pth"), folder=tmp_path, on_progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network(tmp_path):
    entry = entry_of("http://127.0.0.1:9/zoo/net.pth")  # nobody listens on the discard port
    with pytest.raises(
        UserError, match=r"^http://127.* cannot be downloaded .*by hand: .*net\.pth$"
    ):
        published_weights(entry, folder=tmp_path)
    (tmp_path / "net.pth").write_bytes(CONTENT)
    assert published_weights(entry, folder=tmp_path) == tmp_path / "net.pth"


def test_a_file_put_there_by_hand_is_checked_too(entry, tmp_path):
    (tmp_path / "net.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(
        UserError, match=r"SHA-256 starts with .*; remove .*net\.pth to download it$"
    ):
        published_weights(entry("net.pth"), folder=tmp_path)


def test_other_addresses_are_not_followed(tmp_path):
    with pytest.raises(UserError, match="only http and https addresses are downloaded"):
        published_weights(entry_of(f"file://{__file__}"), folder=tmp_path)


def test_no_published_weights(tmp_path):
    entry = ModelEntry(name="net", family="tsm", role="student", settings={}, num_classes=400)
    with pytest.raises(
        UserError, match=r"^net: no weights are published; train it, or give a file$"
    ):
        published_weights(entry, folder=tmp_path)
