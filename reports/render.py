"""Execute the report's notebook over runs of the claims, and render it to one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient.exceptions import CellControlSignal, CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.preprocessors import ExecutePreprocessor

from harness.disk import explained, write_whole
from harness.errors import RecordError, first_line
from reports.pages import TEMPLATES
from reports.reading import read_runs
from reports.view import Report

NOTEBOOK = Path(__file__).with_name("template.ipynb")


def render(runs: Sequence[Path], folder: Path, figures: Path | None = None) -> Path:
    """Write `report.html` and `report.md` into `folder`, and return the first's path.

    runs: output folders of the claims and records, shown side by side.
    figures: a folder that receives every figure as a PDF.

    Raises RecordError for what is neither, SettingsError if the disk refuses the report.
    """
    report = Report(read_runs(runs))  # before the notebook, whose errors nobody wants to read
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    sources = [str(run.absolute()) for run in runs]
    parameters = next(
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())
    )
    parameters.source = f"runs = {sources!r}"
    execute = ExecutePreprocessor(
        timeout=600, kernel_name="python3", extra_arguments=["--IPKernelApp.log_level=ERROR"]
    )
    try:
        execute.preprocess(notebook)
    except (CellControlSignal, DeadKernelError) as error:  # a cell's error, too long, or killed
        shown = ", ".join(map(str, runs))
        why = first_line(error)
        if isinstance(error, CellExecutionError):
            why = f"{error.ename}: {error.evalue}"
        raise RecordError(f"{shown}: cannot be shown ({why})") from error
    for cell in notebook.cells:  # warnings of libraries are not for the reader
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.output_type != "stream"]
    # nbconvert's own pages load scripts from the net; its `basic` body in our page loads nothing.
    exporter = HTMLExporter(template_name="basic", exclude_input=True)
    body, _ = exporter.from_notebook_node(notebook)
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    with explained(folder, "as --out"):
        folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    write_whole(page, report.show("page.html", body=body, style=style))
    write_whole(folder / "report.md", report.show("report.md"))
    if figures:
        report.panels.write(figures)
    return page
