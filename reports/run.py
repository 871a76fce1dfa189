"""What a run of the claims found, and how it is written: its output folder, or one record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.disk import explained, write_whole
from harness.errors import RecordError
from harness.landscape import Landscape
from harness.names import plain_name
from harness.schemas import check_table, read_file, read_schema, writable
from reports.verdict import Skipped, Verdict

AUTHORS_CURVES = Path(__file__).with_name("published-curves.json")
SCHEMA = read_schema(Path(__file__).with_name("record.schema.json"))
VERSION: int = SCHEMA["properties"]["record"]["const"]
RESULTS = "results.json"
PAGES = "report.html", "report.md"
WAY_OUT = "run the claims again with --record, or give the --out folder of a run"


@dataclass(frozen=True)
class Run:
    """One run of the claims.

    environment: machine, versions and settings.
    claims: the verdicts; skipped: the claims that were not judged.
    landscapes: all that was measured, under controls and variations too; published curves only
        where they are not this project's, or nothing else was judged.
    original: by a model's name here, the one that exceptions know it by, where it is another.
    """

    environment: dict[str, Any]
    claims: Sequence[Verdict]
    skipped: Sequence[Skipped]
    landscapes: Sequence[Landscape]
    original: dict[str, str] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """The names of all that was judged or measured, in that order."""
        told: list[Verdict | Skipped | Landscape]
        told = [*self.claims, *self.skipped, *self.landscapes]
        return list(dict.fromkeys(one.model for one in told))

    def renamed(self, names: Mapping[str, str]) -> Run:
        """Return the run with other names for some of its models."""
        environment = dict(self.environment)
        settings = environment["settings"]
        if "recorded" in settings:
            recorded = {names.get(name, name): one for name, one in settings["recorded"].items()}
            environment["settings"] = settings | {"recorded": recorded}
        return Run(
            environment,
            [replace(one, model=names.get(one.model, one.model)) for one in self.claims],
            [replace(one, model=names.get(one.model, one.model)) for one in self.skipped],
            [replace(one, model=names.get(one.model, one.model)) for one in self.landscapes],
            {name: first for name, first in self.original.items() if name not in names}
            | {new: self.original.get(old, old) for old, new in names.items()},
        )

    def write_folder(self, folder: Path) -> None:
        """Write `results.json`, and a `landscape-MODEL-CONDITION.json` a landscape.

        A landscape under a control or a variation has that at its name's end. Those that an
        earlier run wrote there, and this one does not, are removed.

        Raises SettingsError if the disk refuses it.
        """
        with explained(folder, "as --out"):
            folder.mkdir(parents=True, exist_ok=True)
        files: dict[str, Landscape] = {}
        for one in self.landscapes:
            parts = ["landscape", one.model, one.condition, one.control or one.variation or ""]
            plain = plain_name("-".join(parts))
            name, number = f"{plain}.json", 1
            while name in files:
                number += 1
                name = f"{plain}-{number}.json"
            files[name] = one
        # Killed before the end, the folder must not have old curves or verdicts beside new ones.
        for name in (*_landscape_files(folder), RESULTS, *PAGES):
            (folder / name).unlink(missing_ok=True)
        for name, one in files.items():
            write_whole(folder / name, one.to_json())
        self._write(folder / RESULTS, list(files), indent=1)

    def write_record(self, file: Path) -> None:
        """Write all of it into one file: what `--recorded` and `landscape report` read.

        Raises SettingsError if the disk refuses it.
        """
        self._write(file, [json.loads(landscape.to_json()) for landscape in self.landscapes])

    def _write(self, file: Path, landscapes: list[Any], indent: int | None = None) -> None:
        table = {
            "record": VERSION,
            "environment": self.environment,
            "claims": [one.to_table() for one in self.claims],
            "skipped": [asdict(one) for one in self.skipped],
            "original": self.original,
            "landscapes": landscapes,
        }
        # Without an indent nobody reads it, and the spaces were a twentieth of a record.
        between = None if indent else (",", ":")
        text = json.dumps(writable(table), indent=indent, separators=between, allow_nan=False)
        write_whole(file, text + "\n")


def _landscape_files(folder: Path) -> set[str]:
    """Return the names of the files that an earlier run's results name, if there is one."""
    file = folder / RESULTS
    with suppress(RecordError):  # of another version, say: what it names is not known to be ours
        found = check_table(read_file(file, WAY_OUT), SCHEMA, str(file), WAY_OUT, "record")
        names = {Path(one).name for one in found["landscapes"] if isinstance(one, str)}
        return {name for name in names if name.startswith("landscape-")}
    return set()
