"""What is remembered of a source, and for how long."""

import pytest

from galenic_adapters.errors import NotFound, Unavailable
from galenic_server.database.cache import Remembered


class Source:
    """Counts how often it is asked; away when told so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.num_asked = 0
        self.says: str | Exception = "first"

    def clock(self) -> float:
        return self.now

    def look_up(self) -> str:
        self.num_asked += 1
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def remembered(source: Source) -> Remembered[str, str]:
    return Remembered(fresh_seconds=2, stale_seconds=60, clock=source.clock)


AWAY = Unavailable("the database is not answering")


class TestWhatWasSeen:
    def test_is_fresh_for_two_seconds(self, source: Source, remembered: Remembered[str, str]):
        """
        Then the source is asked again.
        """
        said = []
        for source.now in (0, 1.9, 2.1):
            said.append(remembered.get("key", source.look_up))
            source.says = "second"

        assert ["first", "first", "second"] == said
        assert 2 == source.num_asked

    def test_is_said_again_while_the_source_is_away(
        self, source: Source, remembered: Remembered[str, str]
    ):
        """
        For a minute here, counted from when it was seen; then the source's error is told.
        """
        remembered.get("key", source.look_up)
        source.says = AWAY
        for source.now in (10, 30, 60):
            assert "first" == remembered.get("key", source.look_up)
        source.now = 61
        with pytest.raises(Unavailable):
            remembered.get("key", source.look_up)

    def test_is_forgotten_once_the_source_has_it_no_more(
        self, source: Source, remembered: Remembered[str, str]
    ):
        """
        A key that was revoked does not open again when the database goes away after that.
        """
        remembered.get("key", source.look_up)
        source.now, source.says = 3, NotFound("no such key")
        with pytest.raises(NotFound):
            remembered.get("key", source.look_up)
        source.says = AWAY
        with pytest.raises(Unavailable):
            remembered.get("key", source.look_up)

    def test_never_stands_for_what_was_not(self, source: Source, remembered: Remembered[str, str]):
        """
        An unknown key stays unknown while the database is away.
        """
        source.says = AWAY
        with pytest.raises(Unavailable):
            remembered.get("another", source.look_up)


class TestASourceThatIsAway:
    def test_is_asked_once_a_second(self, source: Source, remembered: Remembered[str, str]):
        """
        Its time-outs keep one caller waiting, not all of them.
        """
        remembered.get("key", source.look_up)
        source.says = AWAY
        for _ in range(3):
            source.now += 5
            for _ in range(10):
                remembered.get("key", source.look_up)
                with pytest.raises(Unavailable):
                    remembered.get("another", source.look_up)

        assert 1 + 3 == source.num_asked

    def test_is_believed_as_soon_as_it_is_back(
        self, source: Source, remembered: Remembered[str, str]
    ):
        """
        The next probe finds it.
        """
        remembered.get("key", source.look_up)
        source.now, source.says = 10, AWAY
        remembered.get("key", source.look_up)
        source.now, source.says = 11.5, "second"

        assert "second" == remembered.get("key", source.look_up)


class TestWhatHasToBeForgotten:
    def test_is_not_fresh_where_it_is_not_known_what_changed(self, source: Source):
        """
        While changes are not followed, the source is asked each time.
        """
        is_current = True
        kept = Remembered[str, str](
            fresh_seconds=60, stale_seconds=60, is_current=lambda: is_current, clock=source.clock
        )
        kept.get("key", source.look_up)
        source.says = "second"
        told = [kept.get("key", source.look_up)]
        is_current = False
        told.append(kept.get("key", source.look_up))

        assert ["first", "second"] == told

    def test_is_some_or_all(self, source: Source, remembered: Remembered[str, str]):
        """
        The others stay.
        """
        for key in ("a", "b"):
            remembered.get(key, source.look_up)
        remembered.forget(lambda key: key == "a")

        assert [None, "first"] == [remembered.recall("a"), remembered.recall("b")]
        remembered.forget()
        assert remembered.recall("b") is None

    def test_is_not_remembered_when_it_was_on_its_way(
        self, source: Source, remembered: Remembered[str, str]
    ):
        """
        Case 52: an answer from before the change, which arrives after it, is said once, not kept.
        """

        def look_up() -> str:
            remembered.forget()  # the change is heard of while the old row travels
            return "old"

        assert "old" == remembered.get("key", look_up)
        assert remembered.recall("key") is None
