"""What is made once for a GOP, whoever encodes beside."""

from hybridprompt.encode.recent import LastTwo


def test_what_was_made_for_the_last_two_keys_is_kept() -> None:
    kept: LastTwo[int, str | None] = LastTwo()
    made: list[int] = []

    def get(key: int) -> str | None:
        def make() -> str | None:
            made.append(key)
            return None if key == 2 else str(key)

        return kept.get(key, make)

    assert [get(key) for key in (1, 2, 1, 2, 2, 3, 2, 3)] == ["1", None, "1", None, None, "3", None, "3"]
    assert made == [1, 2, 3]
    assert get(1) == "1"
    assert made == [1, 2, 3, 1]


def test_each_gets_its_own_when_another_is_made_meanwhile() -> None:
    kept: LastTwo[str, str] = LastTwo()

    def interrupted() -> str:
        for other in ("b", "c", "d"):
            assert kept.get(other, lambda other=other: f"made for {other}") == f"made for {other}"
        return "made for a"

    def never() -> str:
        raise AssertionError

    assert kept.get("a", interrupted) == "made for a"
    assert kept.get("a", never) == "made for a"
    assert kept.get("d", never) == "made for d"
