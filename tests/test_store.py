"""The store: an entry is there whole or not at all, and what was made is not lost."""

import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from threading import Thread

import pytest
from filelock import FileLock

from harness.cost import counted, made_with, read_cost
from harness.errors import SettingsError
from harness.store import Store


def make(folder: Path) -> None:
    (folder / "deep").mkdir()
    for name, text in (("a", "one"), ("deep/b", "two")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)  # as safetensors leaves them
    for name in (".tmpAbC", "deep/.b.123"):  # of writes that were killed
        (folder / name).touch()
    (folder / ".work").mkdir()  # what the next run would have gone on from
    (folder / ".work" / "state").write_text("half")


def never(folder: Path) -> None:
    raise AssertionError("it was there")


def files(folder: Path) -> list[str]:
    return sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file())


def test_an_entry_is_made_once_without_what_is_hidden(tmp_path: Path) -> None:
    entry = Store(tmp_path).find_or_make("kind", "key", make)
    assert files(entry) == ["a", "checksums.json", "deep/b"]
    assert not list(entry.rglob(".*"))
    plain = tmp_path / "plain"
    plain.touch()  # others may read it, if the umask lets them
    assert {(entry / name).stat().st_mode for name in files(entry)} == {plain.stat().st_mode}
    for store in (Store(tmp_path), Store(tmp_path)):
        assert store.find_or_make("kind", "key", never) == entry


def test_the_store_keeps_all_or_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def breaks(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    def goes_on(folder: Path) -> None:
        assert (folder / "half").read_text() == "x"  # nothing that was made is lost
        (folder / "rest").touch()

    with pytest.raises(KeyboardInterrupt):
        store.find_or_make("kind", "key", breaks)
    assert store.find("kind", "key") is None
    assert not (tmp_path / "kind" / "key").exists()
    made = store.find_or_make("kind", "key", goes_on)
    assert sorted(path.name for path in made.iterdir()) == ["checksums.json", "half", "rest"]
    assert [path for path in (tmp_path / "kind").iterdir() if path.is_dir()] == [made]
    again = store.find_or_make("kind", "key", breaks)
    assert again == made


def test_a_run_that_makes_nothing_leaves_nothing(tmp_path: Path) -> None:
    def refuse(folder: Path | None = None) -> None:
        raise ValueError

    with pytest.raises(ValueError):
        Store(tmp_path).find_or_make("kind", "key", refuse)
    assert not list((tmp_path / "kind").glob(".*"))
    with pytest.raises(ValueError):
        Store(tmp_path / "new").find_or_make("kind", "key", never, prepare=refuse)
    assert not (tmp_path / "new").exists()


def test_a_run_that_waits_for_another_says_so_and_prepares_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    asked: list[str] = []
    lock = tmp_path / "kind" / "key.lock"
    lock.parent.mkdir()
    with FileLock(lock):  # the other run
        waiting = Thread(
            target=store.find_or_make, args=("kind", "key", make),
            kwargs={"prepare": lambda: asked.append("prepared")},
        )  # fmt: skip
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
    waiting.join(20)
    assert store.find("kind", "key") and not asked
    told = capsys.readouterr().err
    assert f"{tmp_path / 'kind' / 'key'}: another run is at work on it; waiting for that" in told
    store.find_or_make("kind", "other", make, prepare=lambda: asked.append("prepared"))
    assert asked == ["prepared"]


def test_what_killed_runs_left_half_written_is_swept(tmp_path: Path) -> None:
    left = tmp_path / "kind" / ".key.unfinished"
    (left / ".state-1").mkdir(parents=True)
    for name in (".tmpAbC", ".1f.unfinished", ".state-1/weights"):
        (left / name).touch()
    (tmp_path / "kind" / ".key.damaged").mkdir()
    seen: list[str] = []
    Store(tmp_path).find_or_make("kind", "key", lambda folder: seen.extend(files(folder)))
    assert seen == [".state-1/weights"]
    assert not (tmp_path / "kind" / ".key.damaged").exists()


def test_what_a_damaged_cost_said_is_forgotten_and_nothing_else(tmp_path: Path) -> None:
    for text in ("", "[]", '{"seconds": "x"}', "\x00"):
        (tmp_path / "work").touch()
        (tmp_path / "cost.json").write_text(text)
        with counted(tmp_path, "cpu"):
            pass
        assert 0 <= read_cost(tmp_path)["seconds"] < 60


def test_a_thing_is_told_with_the_versions_that_made_it(tmp_path: Path) -> None:
    unknown = dict.fromkeys(("torch", "transformers"), "not recorded")
    assert made_with(tmp_path) == unknown
    (tmp_path / "work").touch()
    with counted(tmp_path, "cpu"):
        pass
    assert made_with(tmp_path) == {name: version(name) for name in unknown}
    # Of an older store, or of other versions than there are now.
    for kept, told in (({}, unknown), ({"versions": {"torch": "1.0"}}, unknown | {"torch": "1.0"})):
        (tmp_path / "cost.json").write_text(json.dumps({"seconds": 1.0} | kept))
        assert made_with(tmp_path) == told


class Killed(BaseException):
    pass


@pytest.mark.parametrize("last", range(9))
@pytest.mark.parametrize("damaged", [False, True])
def test_what_was_made_outlives_a_kill_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool, last: int
) -> None:
    """Killed after so many of the last acts, which rename and remove."""
    if damaged:
        (Store(tmp_path).find_or_make("kind", "key", make) / "a").write_text("else")
    acts = 0

    def counted(act: Callable[..., None]) -> Callable[..., None]:
        def acting(*given: object, **options: object) -> None:
            nonlocal acts
            acts += 1
            if acts > last:
                raise Killed
            act(*given, **options)

        return acting

    def made(folder: Path) -> None:
        make(folder)
        for module, name in ((os, "rename"), (os, "unlink"), (os, "rmdir")):
            monkeypatch.setattr(module, name, counted(getattr(module, name)))

    with pytest.warns(UserWarning) if damaged else pytest.MonkeyPatch.context():
        try:
            Store(tmp_path).find_or_make("kind", "key", made)
        except Killed:
            pass
        monkeypatch.undo()
        entry = Store(tmp_path).find_or_make("kind", "key", never)
    assert files(entry) == ["a", "checksums.json", "deep/b"]
    assert (entry / "a").read_text() == "one"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"../kind/key/a": "x"}', "\x00"])
def test_checksums_that_are_none_are_damage(tmp_path: Path, text: str) -> None:
    entry = Store(tmp_path).find_or_make("kind", "key", make)
    (entry / "checksums.json").write_text(text)
    with pytest.warns(UserWarning, match="is not what was written"):
        assert Store(tmp_path).find("kind", "key") is None


def test_a_file_that_somebody_put_into_an_entry_is_not_lost(tmp_path: Path) -> None:
    entry = Store(tmp_path).find_or_make("kind", "key", make)
    (entry / "notes.txt").write_text("mine")
    with pytest.raises(SettingsError, match=r"notes.txt: is no part of this entry; move it"):
        Store(tmp_path).find_or_make("kind", "key", never)
    (entry / "a").write_text("damaged too")
    with pytest.raises(SettingsError, match=r"notes.txt: is no part of this entry"):
        Store(tmp_path).find_or_make("kind", "key", make)
    (entry / "a").write_text("one")
    assert (entry / "notes.txt").read_text() == "mine"
    (entry / "notes.txt").unlink()
    assert Store(tmp_path).find_or_make("kind", "key", never) == entry


def test_what_is_found_is_left_as_it_is(tmp_path: Path) -> None:
    Store(tmp_path).find_or_make("kind", "key", make)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    Store(tmp_path).find_or_make("kind", "key", never)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
