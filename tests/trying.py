"""How bad input is tried: on few cases or on many, and what a refusal is."""

import inspect
import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from harness.cli import main


def in_both_modes(few: int, many: int = 10_000) -> Callable[..., Any]:
    """Run a property on few cases, and on many with `-m soak`."""

    def modes(test: Callable[..., None]) -> Callable[..., None]:
        quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

        @pytest.mark.parametrize(
            "cases", [few, pytest.param(many, marks=pytest.mark.soak)], ids=["short", "long"]
        )
        def run(cases: int, tmp_path: Path) -> None:
            # The short mode tries the same cases every time.
            plain = settings(
                max_examples=cases,
                deadline=None,
                suppress_health_check=quiet,
                derandomize=cases == few,
            )
            wants_folder = "tmp_path" in inspect.signature(test).parameters
            plain(test)(**({"tmp_path": tmp_path} if wants_folder else {}))

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        run.pytestmark += getattr(test, "pytestmark", [])  # type: ignore[attr-defined]
        return run

    return modes


def refused(given: list[str], message: str, folder: Path) -> None:
    """Check that a command says one sentence with `message`, status 2, and leaves `folder` be."""
    before = sorted(folder.rglob("*"))
    if given[0] == "measure":
        given = [*given, "--out", str(folder / "landscape.json")]
    printed, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(errors), pytest.raises(SystemExit) as left:
        main(given)
    shown = errors.getvalue().splitlines()
    text = "\n".join(line for line in shown if not line.startswith("Loading weights: ")).strip()
    assert (left.value.code, printed.getvalue()) == (2, "")
    assert text.startswith("landscape: ") and message in text and "\n" not in text, text
    assert sorted(folder.rglob("*")) == before
