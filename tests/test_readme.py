"""The documents name every finding and every option as they are."""

import ast
import re
from pathlib import Path

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
