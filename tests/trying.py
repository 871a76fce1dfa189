"""How bad input is tried: on few cases or on many, and what a refusal is."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, settings

from harness.cli import commands
from harness.errors import UserError


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
    before = sorted(folder.rglob("*"))
    if given[0] == "measure":
        given = [*given, "--out", str(folder / "landscape.json")]
    done = CliRunner().invoke(commands, given)
    assert isinstance(done.exception, UserError | SystemExit), done.exception
    text = str(done.exception) if isinstance(done.exception, UserError) else done.output
    assert message in text and len(text.strip().splitlines()) == 1, text
    left = [path for path in folder.rglob("*") if path.is_file() and path not in before]
    assert not [path for path in left if path.suffix != ".lock"], left
