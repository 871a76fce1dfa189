"""Leave out the long mode, unless it is asked for; one thread a process, but for benchmarks."""

import os
from pathlib import Path

import pytest

# Files go to workers whole: what takes longest is begun first, so that nobody waits for it.
LONGEST = (
    "commands finetune_command submit_command slurm faults determinism disk_faults interrupts "
    "workload contributed_claims shards recorded geometry finetuning exactness shared_prefixes"
).split()


def pytest_configure(config: pytest.Config) -> None:
    # Tests run side by side, and compare bytes with those of processes that torchrun gives one
    # thread. This is before torch is imported, which reads it then.
    if not config.getoption("benchmark_only"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" not in config.option.markexpr:
        kept = [item for item in items if not item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    name = item.path.relative_to(Path(__file__).parent).as_posix()
    name = name.removeprefix("test_").removesuffix(".py")
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)
