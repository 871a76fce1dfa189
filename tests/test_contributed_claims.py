"""A claim that somebody adds: what it lacks is said, and nothing looks whole that is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import ROOT, run

ELSEWHERE = [
    "-p", "fixtures.plugin", "-p", "fixtures.judging", "claims",
    "--published", str(ROOT / "reports" / "published-curves.json"),
]  # fmt: skip
BREAKING = '''"""A section."""
import pytest

@pytest.mark.claim("sound")
def test_sound(landscapes, judge):
    """It holds."""
    judge(lambda of: of.zero_shot.curve("ari_subjects").maximum, at_least=-1.0, meaning="nothing")

@pytest.mark.claim("unsound")
def test_unsound(landscapes, judge):
    """Nobody knows."""
    judge(lambda of: {}["nothing"], at_least=0.0, meaning="nothing")
'''


def test_a_claim_that_ends_in_an_error_leaves_no_report_and_no_record(tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "test_section.py").write_text(BREAKING)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *ELSEWHERE, "--out", "out", "--record", "r.json"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "KeyError" in done.stdout, done.stdout + done.stderr
    assert "no report and no record: unsound ended in an error" in done.stdout
    assert not (tmp_path / "out").exists() and not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('    """It holds."""\n', "", "test_sound: has no docstring; write the finding there"),
        ('"""A section."""\n', "", "test_section.py: has no docstring; write there which section"),
        (
            '"unsound")',
            '"sound")',
            "test_unsound: 'sound' is the name of test_section.py::test_sound[",
        ),
        (
            '@pytest.mark.claim("sound")\ndef test_sound(landscapes, judge)',
            '@pytest.mark.parametrize("k", [1, 2])\n@pytest.mark.claim("sound")\n'
            "def test_sound(landscapes, judge, k)",
            "test_sound: 'sound' is the name of test_section.py::test_sound[",
        ),
        ("(landscapes, judge)", "(landscape)", "test_sound: asks for no `judge`, which forms"),
        ('"sound")', '"sound", exception={})', "test_sound: its mark takes a name, and exceptions"),
    ],
)
def test_a_claim_that_could_not_be_shown_is_refused(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "test_section.py").write_text(BREAKING.replace(old, new))
    done = run("pytest", *ELSEWHERE, folder=tmp_path)
    assert done.returncode == 2 and said in done.stdout, done.stdout + done.stderr


ONCE = 'judge(lambda of: of.zero_shot.curve("ari_subjects").last, at_most=1.0, meaning="all")'


@pytest.mark.parametrize(
    ("judging", "said"),
    [
        ("assert judge", "unsound: never calls `judge`"),
        (
            'judge(lambda of: 1.0, at_least=0.0, meaning="all")',
            "unsound: its contrast asks nothing",
        ),
        (f"{ONCE}; {ONCE}", "unsound calls `judge` twice; a claim has one verdict"),
    ],
)
def test_a_claim_judges_once_what_it_is_given(tmp_path: Path, judging: str, said: str) -> None:
    (tmp_path / "claims").mkdir()
    unsound = 'judge(lambda of: {}["nothing"], at_least=0.0, meaning="nothing")'
    (tmp_path / "claims" / "test_section.py").write_text(BREAKING.replace(unsound, judging))
    done = run("pytest", *ELSEWHERE, "--out", "out", folder=tmp_path)
    assert done.returncode == 1 and said in done.stdout, done.stdout
    assert "no report and no record: unsound ended in an error" in done.stdout


def test_what_cannot_be_collected_leaves_no_report_of_the_rest(tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir()
    whole = BREAKING.replace('{}["nothing"]', 'of.zero_shot.curve("ari_subjects").last')
    (tmp_path / "claims" / "test_section.py").write_text(whole)
    (tmp_path / "claims" / "test_other.py").write_text("import nothing_of_this_name")
    given = ["--continue-on-collection-errors", "--out", "out", "--record", "r.json"]
    done = run("pytest", *ELSEWHERE, *given, folder=tmp_path)
    assert done.returncode == 1 and "some claims could not be collected" in done.stdout
    assert "unsound" in done.stdout
    assert not (tmp_path / "r.json").exists() and not (tmp_path / "out").exists()
