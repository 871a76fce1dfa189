"""The README names every finding and every option as they are."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


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


def test_its_table_has_every_finding_in_the_words_of_its_claim() -> None:
    section = README.split("## What is judged")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", section, re.MULTILINE))
    assert rows == findings() and len(rows) > 20


def test_it_tells_every_option_of_the_claims() -> None:
    source = (ROOT / "fixtures" / "options.py").read_text("utf-8")
    options = set(re.findall(r'addoption\(\s*"(--[a-z-]+)"', source))
    section = README.split("## Judge your own model")[1].split("\n## ")[0]
    assert options <= set(re.findall(r"--[a-z-]+", section)) and len(options) > 20
