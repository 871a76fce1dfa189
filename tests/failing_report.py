"""pytest of the claims whose report fails.

`interrupted` by Ctrl-C, `refused` by a full disk, or for an `unforeseen` reason.
"""

import sys

import pytest

import reports.render
from harness.errors import SettingsError

FAILURES = {
    "interrupted": KeyboardInterrupt(),
    "refused": SettingsError("the disk is full"),
    "unforeseen": ZeroDivisionError("nobody knows why"),
}


def failing(*_: object) -> None:
    """Stand in for `render`."""
    raise FAILURES[sys.argv[1]]


if __name__ == "__main__":
    reports.render.render = failing
    sys.exit(pytest.main(sys.argv[2:]))
