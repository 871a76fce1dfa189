"""The store: an entry is there whole or not at all, and what was made is not lost."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.store import Store


def make(folder: Path) -> None:
    (folder / "a").write_text("one")
    (folder / "deep").mkdir()
    (folder / "deep" / "b").write_text("two")
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
    for store in (Store(tmp_path), Store(tmp_path)):
        assert store.find_or_make("kind", "key", never) == entry


def test_a_run_that_makes_nothing_leaves_nothing(tmp_path: Path) -> None:
    def refuse(folder: Path | None = None) -> None:
        raise ValueError

    with pytest.raises(ValueError):
        Store(tmp_path).find_or_make("kind", "key", refuse)
    assert not list((tmp_path / "kind").glob(".*"))
    with pytest.raises(ValueError):
        Store(tmp_path / "new").find_or_make("kind", "key", never, prepare=refuse)
    assert not (tmp_path / "new").exists()


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


def test_what_is_found_is_left_as_it_is(tmp_path: Path) -> None:
    entry = Store(tmp_path).find_or_make("kind", "key", make)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    Store(tmp_path).find_or_make("kind", "key", never)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert (entry / "a").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
