"""Each token of a step reads the slot of its request, and no other."""

import numpy as np
import pytest
import torch
from vllm import SamplingParams

from galenic_server.engine.vllm.steps import BARE, NOWHERE, Seat, StepSlots, version_of

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.fixture
def slots() -> StepSlots:
    """Of 8 tokens at most, with adapters in slots 3 and 5."""
    made = StepSlots(torch.full((9,), BARE, dtype=torch.int32), num_slots=6)
    made.version_S[[3, 5]] = [30, 50]
    return made


def write(slots: StepSlots, seats: list[Seat], num_tokens: list[int]) -> list[int]:
    slots.write(seats, np.array(num_tokens, dtype=np.int32))
    return slots.slot_T.tolist()


class TestAStep:
    def test_gives_each_token_its_requests_slot(self, slots):
        """
        Requests one after another, some with many tokens, some bare.
        """
        seats = [Seat(5, 50), NOWHERE, Seat(3, 30), Seat(5, 50)]
        assert [5, BARE, BARE, 3, 3, 3, 5, BARE, BARE] == write(slots, seats, [1, 2, 3, 1])

    def test_leaves_nothing_of_the_one_before(self, slots):
        """
        Tokens that pad a captured graph read the bare slot, also where adapters' tokens were.
        """
        write(slots, [Seat(5, 50)], [8])
        assert [3] + [BARE] * 8 == write(slots, [Seat(3, 30)], [1])

    @pytest.mark.parametrize("wrong", [Seat(5, 30), Seat(4, 50), Seat(BARE, 50)])
    def test_is_not_taken_where_another_adapter_is_in_a_slot(self, slots, wrong):
        """
        The error names the slot; no token reads it.
        """
        with pytest.raises(RuntimeError, match=f"slots {wrong.slot} hold other adapters"):
            write(slots, [Seat(3, 30), wrong], [1, 1])
        assert [BARE] * 9 == slots.slot_T.tolist()


class TestASeat:
    def test_travels_with_vllms_parameters(self):
        """
        There and back; a request without one is bare.
        """
        seat = Seat(7, version_of(DIGEST))
        params = SamplingParams(extra_args={"another's": 1} | seat.extra_args)

        assert seat == Seat.of(params)
        assert NOWHERE == Seat.of(SamplingParams())

    def test_has_a_version_that_fits_64_bits(self):
        """
        Sixty bits, which differ as the digests do.
        """
        assert version_of(DIGEST) == version_of(str(DIGEST)) != version_of(DIGEST + "0")
        assert version_of("sha256:" + "f" * 64) < 2**63
