"""Names mean what their user means; what is made has its name when it is whole; one writes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emerdiff_probe import paths
from emerdiff_probe.errors import InputError, StoreError

HOLDER = """
import sys, time
from pathlib import Path
from emerdiff_probe.paths import Held
held = Held(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_home_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.local("~/run.zarr") == tmp_path / "run.zarr"
    assert paths.local(Path("a~b")) == Path("a~b")


@pytest.mark.parametrize("name", ["s3://bucket/run.zarr", "memory://a", "zip::s3://a", "file:///a"])
def test_an_address_is_no_name_of_a_file(name):
    for given in (name, Path(name)):
        with pytest.raises(InputError, match="is an address, and a file or folder"):
            paths.local(given)
    assert paths.local("a:b/c d") == Path("a:b/c d")


def test_a_name_is_free_or_not(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    free = {
        name: paths.is_free(tmp_path / name) for name in ("empty", "new", "link", "broken", "file")
    }
    assert free == {"empty": True, "new": True, "link": False, "broken": False, "file": False}
    assert not paths.is_free(tmp_path)


def test_an_empty_folder_gives_way_to_a_folder(tmp_path):
    place = tmp_path / "empty"
    place.mkdir()

    def stopped():
        with paths.made_at_once(place) as making:
            making.mkdir()
            making.mkdir()

    with pytest.raises(StoreError, match="File exists"):
        stopped()
    assert list(tmp_path.iterdir()) == [place]
    with paths.made_at_once(place) as making:
        making.mkdir()
        (making / "values").write_text("all")
        assert not list(place.iterdir())
    assert (place / "values").read_text() == "all"
    assert list(tmp_path.iterdir()) == [place]
    with pytest.raises(StoreError, match="is there already"), paths.made_at_once(place):
        pass
    (tmp_path / "other").mkdir()
    with (
        pytest.raises(StoreError, match="could not be written"),
        paths.made_at_once(tmp_path / "other") as making,
    ):
        making.write_text("a file")
    assert (tmp_path / "other").is_dir()


def put(place, kind, text):
    """Make a file or a folder of that text by the name that is there for it."""
    with paths.made_at_once(place, replace=True) as making:
        assert making.suffix == place.suffix, "libraries tell formats by it"
        if kind == "folder":
            making.mkdir()
        (making / "values" if kind == "folder" else making).write_text(text)


def text_of(place):
    return (place / "values" if place.is_dir() else place).read_text()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_there_is_replaced_whole_or_stays(tmp_path, monkeypatch, kind):
    place = tmp_path / "run.zarr"
    for text in ("old", "new"):
        put(place, kind, text)
        assert text_of(place) == text
    with monkeypatch.context() as broken:
        broken.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            put(place, kind, "newer")
    assert text_of(place) == "new"
    assert list(tmp_path.iterdir()) == [place]


def test_one_that_was_put_aside_by_a_killed_process_comes_back(tmp_path):
    place = tmp_path / "run.zarr"
    put(place, "folder", "old")
    place.rename(tmp_path / ".old-run.zarr")
    with pytest.raises(KeyboardInterrupt), paths.made_at_once(place, replace=True):
        raise KeyboardInterrupt
    assert text_of(place) == "old"
    assert list(tmp_path.iterdir()) == [place]


def test_one_writes_and_the_next_is_told_who(tmp_path):
    place = tmp_path / "run.zarr"
    with paths.Held(place):
        with pytest.raises(
            StoreError, match=rf"run\.zarr' is .* by process {os.getpid()} on .*since 2"
        ):
            paths.Held(place)
        paths.Held(tmp_path / "other.zarr").close()
    with paths.Held(place):
        pass
    assert not list(tmp_path.iterdir())


def test_who_died_keeps_nothing(tmp_path):
    place = tmp_path / "run.zarr"
    command = [sys.executable, "-c", HOLDER, str(place)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=f"by process {holder.pid} on "):
            paths.Held(place)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert [each.name for each in tmp_path.iterdir()] == [".run.zarr.lock"]
    with paths.Held(place):
        pass
    assert not list(tmp_path.iterdir())


def test_a_forked_child_keeps_nothing_of_its_parents(tmp_path):
    held = paths.Held(tmp_path / "run.zarr")
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    try:
        with pytest.raises(StoreError):
            paths.Held(tmp_path / "run.zarr")
        held.close()
        paths.Held(tmp_path / "run.zarr").close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.fixture
def overtaken(monkeypatch):
    """Another makes the folder just before one gets the right to write there."""

    class Late(paths.Held):
        def __init__(self, path):
            path.mkdir(parents=True)
            (path / "values").write_text("theirs")
            super().__init__(path)

    monkeypatch.setattr(paths, "Held", Late)


def test_who_was_overtaken_replaces_nothing(tmp_path, overtaken):
    place = tmp_path / "run.zarr"
    with (
        pytest.raises(StoreError, match="is there already"),
        paths.made_at_once(place) as making,
    ):
        making.mkdir()
    assert text_of(place) == "theirs"
    assert list(tmp_path.iterdir()) == [place]
