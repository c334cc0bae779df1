"""Collecting warnings: each once, and no more than a file can hold many of."""

import logging
import threading

import pytest

from hybridprompt.decode.warnings import MAX_OF_A_KIND, DecodeWarning, WarningCollector, WarningKind

DAMAGED, UNKNOWN = WarningKind.PROMPT_DAMAGED, WarningKind.GENERATOR_UNKNOWN


def test_equal_ones_count_once_and_come_by_time(caplog: pytest.LogCaptureFixture) -> None:
    collector = WarningCollector("film.mp4")
    late, early = DecodeWarning(DAMAGED, "late", 2.0), DecodeWarning(DAMAGED, "early", 1.0)
    whole = DecodeWarning(UNKNOWN, "whole")
    for warning in (late, early, whole, late):
        collector.add(warning)
    assert collector.found == (whole, early, late)
    assert [record.getMessage() for record in caplog.records] == [
        "film.mp4: at 2.000 s: late",
        "film.mp4: at 1.000 s: early",
        "film.mp4: whole",
    ]


def test_of_each_kind_only_so_many_are_kept_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    collector = WarningCollector()
    many = [DecodeWarning(DAMAGED, "again", float(n)) for n in range(3 * MAX_OF_A_KIND)]
    other = DecodeWarning(WarningKind.PACKET_DAMAGED, "and this", 1e6)
    for warning in (*many, other, *many):
        collector.add(warning)
    *kept, last = collector.found
    assert kept == [*many[:MAX_OF_A_KIND], other]
    assert last.kind is DAMAGED
    assert last.message == f"more than {MAX_OF_A_KIND} times: {DAMAGED.value}; further ones are left out"
    assert len(caplog.records) == MAX_OF_A_KIND + 2


def test_as_many_as_are_kept_are_all() -> None:
    collector = WarningCollector()
    for _ in range(2):
        for n in range(MAX_OF_A_KIND):
            collector.add(DecodeWarning(DAMAGED, "again", float(n)))
    assert len(collector.found) == MAX_OF_A_KIND


def test_threads_may_add_at_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    collector = WarningCollector()

    def add(first: int) -> None:
        for n in range(MAX_OF_A_KIND):
            collector.add(DecodeWarning(DAMAGED, "again", float(first + n)))

    threads = [threading.Thread(target=add, args=(50 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(collector.found) == MAX_OF_A_KIND + 1
