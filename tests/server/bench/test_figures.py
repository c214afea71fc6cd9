"""
What a report claims follows from its rounds, and turns with them.
"""

from galenic_server.bench.asking import Round
from galenic_server.bench.figures import FIGURES, Figure, Found, found, ours


def turn(arm: str, number: int, seconds: float, first: float = 0.1, part: str = "a") -> Round:
    return Round(part, arm, number, seconds, [first] * 10, [first + 1] * 10, [5] * 10, ["x"] * 10)


def of(name: str, rounds: list[Round], samples: dict[str, list[float]] | None = None) -> Found:
    return next(it for it in found(rounds, samples or {}) if it.figure.name == name)


FLOOR = next(it for it in FIGURES if it.against == "bare")
CEILING = next(it for it in FIGURES if it.measure == "TTFT p99")


class TestFigures:
    def test_a_floor_turns_with_slower_rounds(self):
        """
        Ours at 0.96 of bare is enough; at 0.9 it is not.
        """
        bare = [turn("bare", i, 1) for i in range(3)]
        good = [turn(ours(1000, "warm"), i, 1 / 0.96) for i in range(3)]
        bad = [turn(ours(1000, "warm"), i, 1 / 0.9) for i in range(3)]

        assert ["met", "not met"] == [of(FLOOR.name, bare + it).verdict for it in (good, bad)]

    def test_a_ceiling_turns_with_later_tokens(self):
        """
        First tokens at 1.1 times are early enough; at 1.3 times they are not.
        """
        calm = [turn("no churn", 0, 1)]
        good, bad = ([turn("churn", 0, 1, first)] for first in (0.11, 0.13))

        assert ["met", "not met"] == [of(CEILING.name, calm + it).verdict for it in (good, bad)]

    def test_samples_are_compared_by_their_percentile(self):
        """
        One slow upload in a hundred is beyond the median's bar, and beyond no other.
        """
        p50, p99 = (it for it in FIGURES if it.arm == "upload, ms")
        times = {"upload, ms": [40.0] * 100 + [60.0]}

        assert "met" == of(p50.name, [], times).verdict
        assert "not met" == of(p50.name, [], {"upload, ms": [60.0]}).verdict
        assert "not met" == of(p99.name, [], {"upload, ms": [600.0]}).verdict

    def test_rounds_are_paired_by_number_within_a_part(self):
        """
        A machine that is half as fast in one round is so for both arms; other parts do not mix in.
        """
        rounds = [turn("bare", 0, 1), turn("bare", 1, 2), turn("bare", 0, 9, part="b")]
        rounds += [turn(ours(1000, "warm"), 0, 1), turn(ours(1000, "warm"), 1, 2)]

        assert (1.0, 1.0) == of(FLOOR.name, rounds).values

    def test_what_did_not_run_is_not_met(self):
        """
        Nothing measured is said to be so, for every figure.
        """
        assert {"not measured"} == {it.verdict for it in found([], {})}

    def test_names_are_figures_own(self):
        """
        No two comparisons share a name.
        """
        names = [it.name for it in FIGURES]

        assert len(names) == len(set(names))
        assert all(isinstance(it, Figure) for it in FIGURES)
