"""Leave out the long mode, unless it is asked for; one thread a process, but for benchmarks."""

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # Tests run side by side, and compare bytes with those of processes that torchrun gives one
    # thread. This is before torch is imported, which reads it then.
    if not config.getoption("benchmark_only"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" in config.option.markexpr:
        return
    kept = [item for item in items if not item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
