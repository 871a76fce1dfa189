"""The documents name every finding and every option as they are."""

import ast
import re
from pathlib import Path

from fixtures.terminal import verdict_lines
from reports.reading import read_run
from reports.verdict import Outcome
from tests.invented import verdict

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
CLAIMS = (ROOT / "claims" / "README.md").read_text("utf-8")


def section(document: str, title: str) -> str:
    return document.split(f"\n## {title}\n")[1].split("\n## ")[0]


def findings() -> dict[str, str]:
    """Return the sentence of every claim: its docstring's first paragraph."""
    found = {}
    for file in (ROOT / "claims").rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.claim":
                    sentence = (ast.get_docstring(node) or "").split("\n\n")[0]
                    found[ast.literal_eval(mark.args[0])] = " ".join(sentence.split())
    return found


def test_the_table_has_every_finding_in_the_words_of_its_claim() -> None:
    rows = re.findall(
        r"^\| `([a-z-]+)` \| (.+) \|$", section(CLAIMS, "What is judged"), re.MULTILINE
    )
    assert dict(rows) == findings() and len(rows) > 20


def test_the_lines_that_are_quoted_are_those_of_the_record() -> None:
    verdicts = read_run(ROOT / "reports" / "recorded" / "qwen2.5-coder-0.5b.json").claims
    lines = [" ".join(line.split()) for line in verdict_lines(verdicts)]
    (quoted,) = re.findall(r"\n((?:    .+\n)+)", README.split("says this of two findings")[1])[:1]
    # A finding in the README may go on in the next line.
    said = re.sub(r";\s+(not )?specific", r"; \1specific", quoted).strip().splitlines()
    assert len(said) == 3
    for line in said:
        assert " ".join(line.split()) in [one.split("; ")[0] for one in lines] + lines


def test_only_variations_that_change_a_verdict_are_told() -> None:
    others = (Outcome("Z 0", "reproduced", 0.5, None), Outcome("Z 4", "inconclusive", 0.2, None))
    own, *told = verdict_lines([verdict(controls=others, variations=others)])
    assert own.split()[:3] == ["reproduced", "one", "small"]
    assert [" ".join(line.split()) for line in told] == [
        "under Z 0 0.500", "under Z 4 0.200", "with Z 4 0.200: inconclusive",
    ]  # fmt: skip


def test_they_tell_every_option_of_the_claims() -> None:
    source = (ROOT / "fixtures" / "options.py").read_text("utf-8")
    options = set(re.findall(r'addoption\(\s*"(--[a-z-]+)"', source))
    assert options <= set(re.findall(r"--[a-z-]+", section(CLAIMS, "Options")))
    assert len(options) > 20
    # Those of pytest itself are no rows.
    rows = re.findall(r"^\|.*?\|", section(README, "Judge your own model"), re.MULTILINE)
    named = set(re.findall(r"--[a-z]+[a-z-]*", " ".join(rows)))
    assert named <= options and len(named) > 5


def test_their_links_lead_to_files_and_sections() -> None:
    for page in sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("[chr]*/*.md")):
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text("utf-8")):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.is_file(), f"{page.name}: {link}"
            if anchor:
                titles = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)
                words = [re.sub(r"[^\w -]", "", title.lower()) for title in titles]
                assert anchor in [one.replace(" ", "-") for one in words], f"{page.name}: {link}"
