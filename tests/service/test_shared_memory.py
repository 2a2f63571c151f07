"""Pixels that cross from process to process in shared memory."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest

from deployments.engine.request import Pixels
from deployments.handles.shared_memory import HOST, POOL_SIZE, NotShared, SharedBuffer, is_worth_sharing, share

pytestmark = pytest.mark.skipif(HOST == "", reason="this system has no memfd_create")


@pytest.fixture
def other_process() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        yield executor


@pytest.fixture
def pixels() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8)


def invert(buffer: SharedBuffer) -> None:
    shared = buffer.map()
    shared.result[...] = 255 - shared.source


@pytest.mark.subprocess
def test_another_process_reads_the_source_and_fills_the_result(
    other_process: ProcessPoolExecutor, pixels: Pixels
) -> None:
    with share(pixels) as (buffer, shared):
        other_process.submit(invert, buffer).result()
    assert np.array_equal(shared.source, pixels)
    assert np.array_equal(shared.result, 255 - pixels)


def test_a_buffer_of_another_host_is_refused(pixels: Pixels) -> None:
    with share(pixels) as (buffer, _), pytest.raises(NotShared):
        replace(buffer, host="another").map()


def test_a_buffer_that_is_no_longer_shared_is_refused(pixels: Pixels) -> None:
    with share(pixels) as (buffer, _):
        pass
    with pytest.raises(NotShared):
        buffer.map()


def test_memory_is_shared_again_once_no_view_is_left(pixels: Pixels) -> None:
    with share(pixels) as (first, shared):
        pass
    result = shared.result[:8]
    del shared
    with share(255 - pixels) as (second, other):
        assert second.path != first.path, "a part of the first result is still there"
    del result, other
    with share(pixels[:48]) as (third, _):
        assert third.path in (first.path, second.path)


def test_a_late_reader_does_not_get_the_memory_of_the_next_buffer(
    other_process: ProcessPoolExecutor, pixels: Pixels
) -> None:
    with share(pixels) as (ended, _):
        other_process.submit(invert, ended).result()  # has mapped it
    del _
    with share(pixels) as (buffer, shared):
        assert buffer.path == ended.path
        for late in (ended.map, other_process.submit(invert, ended).result):
            with pytest.raises(NotShared):
                late()
        other_process.submit(invert, buffer).result()
    assert np.array_equal(shared.result, 255 - pixels)


def test_memory_of_a_failed_call_is_never_shared_again(pixels: Pixels) -> None:
    sharing = share(pixels)
    lost, _ = sharing.__enter__()
    late = lost.map()
    assert not sharing.__exit__(TimeoutError, TimeoutError("too late"), None)
    with share(pixels) as (buffer, shared):
        late.result[...] = 7
        with pytest.raises(NotShared):
            lost.map()
        buffer.map().result[...] = 1
    assert (shared.result == 1).all()
    assert np.array_equal(shared.source, pixels)


def test_the_pool_holds_a_little_memory_only(pixels: Pixels) -> None:
    def held() -> set[int]:
        """Inodes of memory, each of which may be open more than once."""
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        return {os.stat(link).st_ino for link in links if "memfd:pixels" in os.path.realpath(link)}

    before = held()
    for _ in range(2 * POOL_SIZE):
        with share(pixels) as (buffer, shared):
            buffer.map().result[...] = 1
        assert shared.result.all()
    large = np.zeros((1024, 1024, 3), np.uint8)
    at_once = [share(image) for image in [pixels] * 2 * POOL_SIZE + [large] * POOL_SIZE]
    for each in at_once:
        each.__enter__()
    for each in at_once:
        each.__exit__(None, None, None)
    del buffer, shared, at_once, each
    gc.collect()
    assert len(held() - before) <= POOL_SIZE


def test_small_images_are_not_worth_it(pixels: Pixels) -> None:
    assert not is_worth_sharing(pixels)
    assert is_worth_sharing(np.zeros((512, 512, 3), np.uint8))
