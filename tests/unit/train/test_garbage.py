"""The collector's objects before and after a training."""

import gc

import pytest

from kan_md.train.garbage import without_what_is_there


def test_objects_of_before_are_left_alone_meanwhile_and_are_back_afterwards():
    before = gc.get_freeze_count()
    with pytest.raises(ValueError, match="within"), without_what_is_there():
        assert gc.get_freeze_count() > before
        raise ValueError("within")
    assert gc.get_freeze_count() == before == 0


def test_what_was_frozen_by_others_stays():
    gc.freeze()
    try:
        with without_what_is_there():
            pass
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
