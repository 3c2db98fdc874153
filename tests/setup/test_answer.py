"""Whether one can start, on made-up results."""

from neoxlib.inference.parity import UNSPLIT
from neoxlib.setup.answer import can_start

RESULTS = {
    "checks": [{"name": UNSPLIT, "passed": True, "detail": ""}],
    "metrics": {
        "parity_of_limit": 0.05,
        "needed_bytes_per_rank": 16_370_176,
        "free_bytes_per_rank": 11_560_325_120,
    },
    "model": {"world_size": 2},
    "parameters": {},
}


def test_it_is_yes_with_what_was_seen_and_the_room_that_is_needed():
    assert can_start(RESULTS) == (
        "Yes, you can start: 2 ranks started and wrote text, and the split model equals the "
        "unsplit one (error 1/20 of the limit). A rank needs 16.4 MB of the 11.6 GB that it may "
        "have."
    )


def test_it_is_no_with_every_check_that_failed():
    failed = {"name": "the model fits", "passed": False, "detail": "9 of 8 GB"}
    said = can_start(RESULTS | {"checks": [*RESULTS["checks"], failed]})
    assert said == "No, you cannot start yet. the model fits: no (9 of 8 GB)."


def test_before_anything_ran_only_the_plan_is_told():
    assert can_start(RESULTS, ran=False) == (
        "By the plan you can start; nothing was run. A rank needs 16.4 MB of the 11.6 GB that it "
        "may have."
    )


def test_what_is_not_known_is_not_said():
    unknown = RESULTS | {"metrics": {}, "model": {}, "checks": []}
    assert can_start(unknown) == "Yes, you can start: the model wrote text."
