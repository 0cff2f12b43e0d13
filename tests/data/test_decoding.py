"""Pictures decoded side by side within a memory."""

import threading

import numpy as np

from kclr.data.decoding import side_by_side


class Load:
    """A picture of some bytes, that knows how many others are in memory when it is decoded."""

    held, most, lock = 0, 0, threading.Lock()

    def __init__(self, size):
        self.size = size

    def before_decoding(self, size):
        raise AssertionError("is replaced")

    def __call__(self):
        self.before_decoding(self.size)
        with Load.lock:
            Load.held += self.size
            Load.most = max(Load.most, Load.held)
        return [np.zeros(self.size, np.uint8)]


def decode(sizes, most):
    Load.held = Load.most = 0
    records = [(number, (f"{number}", Load(size))) for number, size in enumerate(sizes, 5)]
    made = []
    for name, finish in side_by_side(records, lambda number, load: load(), 8, most):
        (array,) = finish()
        made.append((name, len(array)))
        with Load.lock:
            Load.held -= len(array)
    return made


def test_pictures_in_memory_stay_within_the_bound_and_in_order():
    sizes = [10, 90, 40, 30, 80, 5, 5, 5, 60, 95] * 20
    made = decode(sizes, most=100)
    assert made == [(f"{number}", size) for number, size in enumerate(sizes, 5)]
    # The one that is waited for may always enter beside those that are there.
    assert Load.most <= 100 + 95


def test_picture_larger_than_the_bound_is_decoded_alone():
    assert [size for _, size in decode([500, 500, 3, 500], most=100)] == [500, 500, 3, 500]
    assert Load.most <= 503 + 100


def test_pictures_that_wait_for_room_end_with_who_wanted_them():
    before = set(threading.enumerate())
    records = [(number, (f"{number}", Load(100))) for number in range(30)]
    made = side_by_side(records, lambda number, load: load(), 8, 100)
    next(made)[1]()
    made.close()
    own = set(threading.enumerate()) - before
    for thread in own:
        thread.join(10)
    assert own
    assert not any(thread.is_alive() for thread in own)
