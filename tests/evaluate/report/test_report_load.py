"""Reading results: what is taken, and what is refused with the line that is to blame."""

import json
from pathlib import Path

import pytest
from report_records import full_run, record, write_run

from hybridprompt.errors import ConfigError
from hybridprompt.evaluate.report.load import load_run


def test_a_run_is_read_whole(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, full_run()))
    assert run.clips == ["dog", "golden gate"]
    assert run.families == ["hybridprompt", "svt-av1", "x265"]
    assert run.metrics == ["LPIPS-Alex", "PSNR-Y"]
    assert [f.error for f in run.failures] == ["the encoder gave up"]
    assert run.settings["nested"] == {"a": 1}
    first = run.records[0]
    assert (first.method, first.target_kbps, first.size_bytes) == ("hybridprompt-fast", 60.0, 29700)
    assert first.decode is not None
    assert first.decode.ratio_to_plain == 0.8


def test_the_order_of_the_lines_does_not_matter(tmp_path: Path) -> None:
    forwards = load_run(write_run(tmp_path / "a", full_run()))
    backwards = load_run(write_run(tmp_path / "b", reversed(full_run())))
    assert forwards == backwards


def test_the_last_line_of_a_result_counts(tmp_path: Path) -> None:
    failed = record("dog", "svt-av1", error="no space left")
    run = load_run(write_run(tmp_path, [failed, record("dog", "svt-av1", LPIPS_Alex=0.2)]))
    assert [r.metrics for r in run.records] == [{"LPIPS-Alex": 0.2}]
    assert (run.failures, run.replaced) == ([], 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: no valid JSON"),
        ('"text"', "line 2: holds str, expected an object"),
        ('{"schema": 2}', "line 2: schema is 2, expected 1"),
        ('{"some": "log"}', "line 2: schema is None, expected 1"),
        (json.dumps(record() | {"clip": 7}), "line 2: clip is 7, expected a text"),
        (json.dumps(record() | {"actual_kbps": 0}), "line 2: actual_kbps is 0, expected a number above 0"),
        (json.dumps(record() | {"target_kbps": "1"}), "line 2: target_kbps is '1'"),
        (json.dumps(record() | {"bytes": True}), "line 2: bytes is True"),
        (json.dumps(record() | {"error": 3}), "line 2: error is 3"),
        (json.dumps(record() | {"metrics": {"DISTS": "low"}}), "line 2: metric DISTS is 'low'"),
        (json.dumps(record() | {"metrics": {"DISTS": float("nan")}}), "line 2: no valid JSON .NaN"),
        (json.dumps(record() | {"per_frame": {"DISTS": [[1]]}}), "line 2: per_frame of DISTS"),
        (json.dumps(record() | {"encode": []}), "line 2: encode is "),
        ("[" * 100000, "line 2: no valid JSON"),
    ],
)
def test_a_broken_or_foreign_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    write_run(tmp_path, [record("dog")])
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match=message):
        load_run(tmp_path)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    broken = record()
    del broken["frames"]
    with pytest.raises(ConfigError, match="line 1: has no 'frames'"):
        load_run(write_run(tmp_path, [broken]))


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_run(tmp_path)
    with pytest.raises(ConfigError, match="holds no record"):
        load_run(write_run(tmp_path, []))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ConfigError, match="no UTF-8 text"):
        load_run(tmp_path)


def test_settings_may_be_missing_but_not_broken(tmp_path: Path) -> None:
    assert load_run(write_run(tmp_path, [record()], None)).settings == {}
    (tmp_path / "settings.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"settings\.json: holds list"):
        load_run(tmp_path)


def test_line_separators_inside_texts_are_kept(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, [record("a\u2028b")]))
    assert run.clips == ["a\u2028b"]


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    records = [record("dog", "a", 60.0), record("dog", "b", 60.0), record("cat", "a", 90.0)]
    assert load_run(write_run(tmp_path, records)).missing() == [("cat", "b", 90.0)]
