"""Execute the report's notebook over a run's output folder and render it to one HTML file."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbconvert.preprocessors import ExecutePreprocessor

from harness.errors import RecordError
from harness.store import write_whole

TEMPLATE = Path(__file__).with_name("template.ipynb")
# nbconvert's own pages load scripts from the net; its `basic` body in this page loads nothing.
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The representation landscape: report</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; }}
table {{ border-collapse: collapse; font-size: 0.85rem; }}
td, th {{ padding: 0.35rem 0.6rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid #ccc; }}
.wide {{ overflow-x: auto; }}
.verdicts small {{ display: block; font-weight: normal; }}
.verdicts th:first-child {{ min-width: 15rem; }}
.reproduced {{ background: #dcefe6; }}
.not-reproduced {{ background: #f8ddd0; }}
.inconclusive, .stated {{ background: #f4f0d6; }}
.absent {{ color: #666; }}
svg, img {{ max-width: 100%; height: auto; }}
.prompt, .anchor-link {{ display: none; }}
</style></head><body>
{body}
</body></html>
"""


def render(folder: Path) -> Path:
    """Write `report.html` into `folder` from its results.json and landscapes; return its path.

    Raises RecordError if the folder has no results.json.
    """
    if not (folder / "results.json").is_file():
        raise RecordError(f"{folder}: no results.json here; give the --out folder of a run")
    notebook = nbformat.read(TEMPLATE, as_version=4)
    execute = ExecutePreprocessor(timeout=600, kernel_name="python3")
    execute.preprocess(notebook, {"metadata": {"path": str(folder)}})
    exporter = HTMLExporter(template_name="basic", exclude_input=True)
    body, _ = exporter.from_notebook_node(notebook)
    report = folder / "report.html"
    write_whole(report, PAGE.format(body=body))
    return report
