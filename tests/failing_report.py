"""pytest of the claims whose report fails: `interrupted` by Ctrl-C, or `refused` by a full disk."""

import sys

import pytest

import reports.render
from harness.errors import SettingsError

FAILURES = {"interrupted": KeyboardInterrupt(), "refused": SettingsError("the disk is full")}


def failing(*_: object) -> None:
    """Stand in for `render`."""
    raise FAILURES[sys.argv[1]]


if __name__ == "__main__":
    reports.render.render = failing
    sys.exit(pytest.main(sys.argv[2:]))
