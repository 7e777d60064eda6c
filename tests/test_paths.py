"""Names mean what their user means; what is made has its name when it is whole; one writes."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from emerdiff_probe import paths
from emerdiff_probe.errors import InputError, StoreError

HOLDER = """
import sys, time
from pathlib import Path
from emerdiff_probe.paths import Held
held = Held(Path(sys.argv[1]), store=True)
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


@pytest.mark.parametrize("name", ["~\0", "a\0b", "\ud800", "~nobody-has-this-name/a", "a" * 256])
def test_what_no_file_can_be_named_is_told(name):
    with pytest.raises(InputError, match="cannot be used as a path"):
        paths.local(name)


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
    with pytest.raises(StoreError, match="already exists"), paths.made_at_once(place):
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
    for store in (False, True):
        with paths.Held(place, store=store):
            with pytest.raises(
                StoreError, match=rf"run\.zarr' is .* by process {os.getpid()} on .*since 2"
            ):
                paths.Held(place, store=store)
            paths.Held(tmp_path / "other.zarr", store=store).close()
        with paths.Held(place, store=store):
            pass
        assert not list(tmp_path.iterdir())


def test_the_lock_of_a_store_is_in_it_by_whatever_name_it_is_reached(tmp_path):
    place, link = tmp_path / "run.zarr", tmp_path / "link.zarr"
    link.symlink_to(place)
    with paths.Held(place, store=True) as held:
        assert paths.is_free(place), "a lock alone is nothing"
        with pytest.raises(StoreError, match="is being written to by process"):
            paths.Held(link, store=True)
        with paths.made_at_once(place, held=held) as making:
            making.mkdir()
            (making / "values").write_text("all")
            with pytest.raises(StoreError, match="is being written to by process"):
                paths.Held(place, store=True)
        assert sorted(each.name for each in place.iterdir()) == [".lock", "values"]
        for name in (place, link):
            with pytest.raises(StoreError, match="is being written to by process"):
                paths.Held(name, store=True)
    assert [each.name for each in place.iterdir()] == ["values"]
    paths.Held(place, store=True).close()
    assert text_of(place) == "all"


def test_a_folder_in_which_another_began_to_write_does_not_give_way(tmp_path, monkeypatch):
    place = tmp_path / "run.zarr"
    goes_into, others = paths.Held.goes_into, []

    def overtaken(held, making):
        goes_into(held, making)
        others.append(paths.Held(place, store=True))

    monkeypatch.setattr(paths.Held, "goes_into", overtaken)
    with (
        pytest.raises(StoreError, match="not empty"),
        paths.Held(place, store=True) as held,
        paths.made_at_once(place, held=held) as making,
    ):
        making.mkdir()
    assert [each.name for each in place.iterdir()] == [".lock"]
    others[0].close()
    assert not any(each.name.startswith(".making") for each in tmp_path.iterdir())


@pytest.mark.parametrize("age", [0, 7200])
def test_what_killed_processes_left_is_removed_by_the_next_in_that_folder(tmp_path, age):
    for name in (".making-a.zarr", ".making-b.zarr", ".making-c.zip"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "values").write_text("half")
    (tmp_path / ".c.zip.lock").write_text("process 1")
    when = time.time() - age
    for left in tmp_path.iterdir():
        os.utime(left, (when, when))
    with paths.Held(tmp_path / "b.zarr", store=True):
        put(tmp_path / "new", "file", "text")
        there = {each.name for each in tmp_path.iterdir()}
    kept = {"new", "b.zarr", ".making-b.zarr"}
    young = {".making-a.zarr", ".making-c.zip", ".c.zip.lock"}
    assert there == (kept if age else kept | young)


def test_who_died_keeps_nothing(tmp_path):
    place = tmp_path / "run.zarr"
    command = [sys.executable, "-c", HOLDER, str(place)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=f"by process {holder.pid} on "):
            paths.Held(place, store=True)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert [each.name for each in tmp_path.rglob("*")] == ["run.zarr", ".lock"]
    assert paths.is_free(place)
    with paths.Held(place, store=True) as held, paths.made_at_once(place, held=held) as making:
        making.mkdir()
        (making / "values").write_text("all")
    assert [each.name for each in tmp_path.rglob("*")] == ["run.zarr", "values"]


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
        pytest.raises(StoreError, match="already exists"),
        paths.made_at_once(place) as making,
    ):
        making.mkdir()
    assert text_of(place) == "theirs"
    assert list(tmp_path.iterdir()) == [place]


def test_several_share_what_the_first_has_made(tmp_path):
    place = tmp_path / "run.zarr"
    first = paths.Held(place, store=True, shared=True)
    assert first.alone
    first.share()
    second = paths.Held(place, store=True, shared=True)
    assert not second.alone
    with pytest.raises(StoreError, match="is being written to by process"):
        paths.Held(place, store=True)
    first.close()
    with pytest.raises(StoreError, match="is being written to by process"):
        paths.Held(place, store=True)
    assert second.last()
    second.close()
    with paths.Held(place, store=True) as alone:
        assert alone.alone
    assert not list(place.iterdir())


def test_who_shares_waits_while_the_first_makes_it(tmp_path):
    place = tmp_path / "run.zarr"
    first, seen = paths.Held(place, shared=True), []

    def join():
        with paths.Held(place, shared=True):
            seen.append((place / "made").exists())

    other = threading.Thread(target=join)
    other.start()
    time.sleep(0.5)
    assert not seen, "the control: it waits"
    place.mkdir()
    (place / "made").touch()
    first.share()
    other.join(60)
    assert seen == [True]
    first.close()


def test_who_shares_does_not_wait_for_one_who_writes_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_PATIENCE", 0)
    place = tmp_path / "run.zarr"
    place.mkdir()
    (place / "values").touch()
    with paths.Held(place), pytest.raises(StoreError, match="is being written to by process"):
        paths.Held(place, shared=True)
