"""What the benchmarks share: a table of their figures at the end of the run."""

import pytest

FIGURES = pytest.StashKey[list[tuple[str, dict[str, float]]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = []


@pytest.fixture
def report_figures(request: pytest.FixtureRequest, benchmark):  # type: ignore[no-untyped-def]
    """A function that keeps figures for the table below and for pytest-benchmark's JSON."""

    def report(**figures: float) -> None:
        benchmark.extra_info.update(figures)
        request.config.stash[FIGURES].append((request.node.name, figures))

    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for name, figures in config.stash.get(FIGURES, []):
        terminalreporter.section(name, sep="-")
        for what, value in figures.items():
            terminalreporter.line(f"{what.replace('_', ' '):36} {value:12,.2f}")
