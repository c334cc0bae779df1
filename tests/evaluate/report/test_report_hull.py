"""Hulls, the peer, and means over clips."""

from pathlib import Path

import pytest
from report_records import curve, full_run, record, write_run

from hybridprompt.evaluate.report.hull import best, hull, mean_curve, pairs, rate_steps
from hybridprompt.evaluate.report.load import Record, load_run, parse_record


def parsed(*records: dict) -> list[Record]:
    return [parse_record(r, "test") for r in records]


def named(points: list) -> list[tuple[str, float]]:
    return [(p.record.method, p.record.target_kbps) for p in points]


def test_a_dominated_point_is_left_out() -> None:
    records = parsed(
        record(method="a", target=100, LPIPS_Alex=0.3),
        record(method="a", target=200, LPIPS_Alex=0.2),
        record(method="b", target=210, LPIPS_Alex=0.25),
    )
    assert named(hull(records, "LPIPS-Alex")) == [("a", 100), ("a", 200)]


def test_higher_is_better_where_it_is() -> None:
    records = parsed(
        record(method="a", target=100, PSNR_Y=30),
        record(method="b", target=90, PSNR_Y=31),
        record(method="b", target=200, PSNR_Y=29),
    )
    assert named(hull(records, "PSNR-Y")) == [("b", 90)]


def test_a_point_under_the_curve_of_another_method_is_left_out() -> None:
    # b is worse than a at equal rates; only its few bytes less kept it from being dominated.
    a = curve("dog", "a", 1.0)
    b = [r | {"actual_kbps": r["target_kbps"] * 0.98} for r in curve("dog", "b", 0.6)]
    front = hull(parsed(*a, *b), "LPIPS-Alex")
    # Below a's lowest rate there is only b.
    assert named(front) == [("b", 60.0), ("a", 60.0), ("a", 120.0), ("a", 240.0), ("a", 480.0)]


def test_the_hull_changes_between_scales() -> None:
    small = curve("dog", "half", 1.3, rates=(60.0, 120.0)) + curve("dog", "half", 0.7, rates=(240.0, 480.0))
    front = hull(parsed(*curve("dog", "full", 1.0), *small), "LPIPS-Alex")
    assert named(front) == [("half", 60.0), ("half", 120.0), ("full", 240.0), ("full", 480.0)]


def test_a_method_keeps_its_own_points_inside_its_curve() -> None:
    values = {60: 0.40, 120: 0.39, 240: 0.38, 480: 0.1}
    records = parsed(*(record(method="a", target=t, LPIPS_Alex=v) for t, v in values.items()))
    assert len(hull(records, "LPIPS-Alex")) == 4


def test_records_without_the_metric_are_no_points() -> None:
    assert hull(parsed(record(DISTS=0.1)), "LPIPS-Alex") == []


def test_a_peer_that_missed_the_rate_from_below_is_not_put_aside() -> None:
    # Encoders have steps: the best may lie just outside the tolerance.
    short = record(method="short", target=100, actual=97, LPIPS_Alex=0.1) | {"matched": False}
    met = record(method="met", target=100, actual=99, LPIPS_Alex=0.2)
    assert best(parsed(met, short)).method == "short"  # type: ignore[union-attr]


def test_the_peer_is_best_in_lpips_among_those_that_kept_to_the_rate() -> None:
    good = record(method="good", target=100, LPIPS_Alex=0.2, PSNR_Y=30)
    worse = record(method="worse", target=100, LPIPS_Alex=0.3, PSNR_Y=40)
    spent_more = record(method="more", target=100, actual=150, LPIPS_Alex=0.1)
    assert best(parsed(worse, spent_more, good)).method == "good"  # type: ignore[union-attr]
    assert best(parsed(spent_more)).method == "more"  # type: ignore[union-attr]
    assert best(parsed(record(method="x"))) is None


def test_the_word_of_the_run_on_matched_rates_counts() -> None:
    above = record(target=100, actual=101) | {"matched": False}
    below, far = record(target=100, actual=98.1), record(target=100, actual=97)
    assert [r.matched for r in parsed(above, below, far)] == [False, True, False]


def test_without_lpips_another_metric_decides() -> None:
    low, high = record(method="low", PSNR_Y=30), record(method="high", PSNR_Y=40)
    assert best(parsed(low, high)).method == "high"  # type: ignore[union-attr]


def test_pairs_take_the_peer_of_each_clip_and_rate(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path, full_run()))
    peers = {(p.clip, p.target_kbps): p.peer.method for p in pairs(run)}
    assert len(peers) == 8
    assert peers["dog", 60.0] == "svt-av1@1/2"
    assert peers["dog", 480.0] == "svt-av1"


def test_clips_with_rates_of_their_own_share_steps(tmp_path: Path) -> None:
    records = curve("small", "svt-av1", 1.0, rates=(60.0, 120.0))
    records += curve("large", "svt-av1", 1.0, rates=(100.0, 200.0))
    run = load_run(write_run(tmp_path, records))
    assert [s.label for s in rate_steps(run)] == ["60 to 100 kbit/s", "120 to 200 kbit/s"]
    means = mean_curve(run, "svt-av1", "LPIPS-Alex")
    assert [m.rate_kbps for m in means] == pytest.approx([79.2, 158.4])


def test_a_mean_is_over_all_clips_or_not_there(tmp_path: Path) -> None:
    records = curve("a", "svt-av1", 1.0) + curve("b", "svt-av1", 1.0)
    records += curve("a", "x265", 1.0, family="x265")
    run = load_run(write_run(tmp_path, records))
    assert len(mean_curve(run, "svt-av1", "LPIPS-Alex")) == 4
    assert mean_curve(run, "x265", "LPIPS-Alex") == []


def test_where_some_clips_have_more_rates_the_lowest_make_steps(tmp_path: Path) -> None:
    records = [record("a", target=target) for target in (60, 120, 240)]
    records += [record("b", target=target) for target in (100, 200)]
    labels = [s.label for s in rate_steps(load_run(write_run(tmp_path, records)))]
    assert labels == ["60 to 100 kbit/s", "120 to 200 kbit/s"]


def test_where_some_clips_have_more_rates_those_of_all_make_steps(tmp_path: Path) -> None:
    records = [record("a", target=target) for target in (60, 100, 200)]
    records += [record("b", target=target) for target in (100, 200)]
    labels = [s.label for s in rate_steps(load_run(write_run(tmp_path, records)))]
    assert labels == ["100 kbit/s", "200 kbit/s"]
