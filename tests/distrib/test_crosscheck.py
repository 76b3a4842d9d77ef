"""The report of a replay is read back; somebody may have changed it by then."""

import json
from pathlib import Path
from typing import Any

import pytest

from distrib.crosscheck import read_report
from distrib.errors import RunFault

REPORT = {"verdict": "match", "max_eta": 1.5, "steps": 8, "skipped": 1}


@pytest.mark.parametrize("eta", [1.5, 0.0, "inf", "nan"])
def test_what_is_read_of_a_report(tmp_path: Path, eta: Any) -> None:
    file = tmp_path / "crosscheck.json"
    file.write_text(json.dumps(REPORT | {"max_eta": eta, "notes": []}))
    assert read_report(file) == REPORT | {"max_eta": eta}


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", "\udcff", "[" * 10**5),
        *(json.dumps({key: value for key, value in REPORT.items() if key != missing}) for missing in REPORT),
        *(json.dumps(REPORT | {key: [1]}) for key in REPORT),
    ],
    ids=lambda content: content[:40] or "empty",
)
def test_a_damaged_report_is_told_in_one_sentence(tmp_path: Path, content: str) -> None:
    file = tmp_path / "crosscheck.json"
    file.write_text(content, errors="surrogateescape")
    with pytest.raises(RunFault, match=r"crosscheck\.json is no report of a replay any more") as caught:
        read_report(file)
    assert "\n" not in str(caught.value)
