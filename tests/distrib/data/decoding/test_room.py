"""Tests that threads share the memory for decoded pixels."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from distrib.data.decoding.room import Room


def test_threads_wait_for_room() -> None:
    room, counting, inside, sums = Room(10), threading.Lock(), [0], [0]

    def count(pixels: int) -> None:
        with counting:
            inside[0] += pixels
            sums.append(inside[0])

    def work(pixels: int) -> None:
        with room.for_pixels(pixels):
            count(pixels)
            time.sleep(0.001)
            count(-pixels)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [10, 3, 4, 5, 1, 2, 10, 6, 4] * 4))
    assert 5 < max(sums) <= 10
