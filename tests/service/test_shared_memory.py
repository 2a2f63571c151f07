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
from deployments.handles.shared_memory import HOME, KEPT, Elsewhere, Loan, is_worth_lending, lend

pytestmark = pytest.mark.skipif(HOME == "", reason="this system has no memfd_create")


@pytest.fixture
def other_process() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        yield executor


@pytest.fixture
def pixels() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8)


def invert(loan: Loan) -> None:
    shared = loan.accept()
    shared.result[...] = 255 - shared.source


@pytest.mark.subprocess
def test_another_process_reads_the_source_and_fills_the_result(
    other_process: ProcessPoolExecutor, pixels: Pixels
) -> None:
    with lend(pixels) as (loan, shared):
        other_process.submit(invert, loan).result()
    assert np.array_equal(shared.source, pixels)
    assert np.array_equal(shared.result, 255 - pixels)


def test_a_loan_from_another_machine_is_refused(pixels: Pixels) -> None:
    with lend(pixels) as (loan, _), pytest.raises(Elsewhere):
        replace(loan, home="another").accept()


def test_a_loan_that_has_ended_is_refused(pixels: Pixels) -> None:
    with lend(pixels) as (loan, _):
        pass
    with pytest.raises(Elsewhere):
        loan.accept()


def test_memory_is_lent_again_once_nobody_can_see_it(pixels: Pixels) -> None:
    with lend(pixels) as (first, shared):
        pass
    result = shared.result[:8]
    del shared
    with lend(255 - pixels) as (second, other):
        assert second.path != first.path, "a part of the first result is still there"
    del result, other
    with lend(pixels[:48]) as (third, _):
        assert third.path in (first.path, second.path)


def test_a_late_borrower_does_not_get_the_memory_of_the_next_loan(
    other_process: ProcessPoolExecutor, pixels: Pixels
) -> None:
    with lend(pixels) as (ended, _):
        other_process.submit(invert, ended).result()  # has mapped it
    del _
    with lend(pixels) as (loan, shared):
        assert loan.path == ended.path
        for borrower in (ended.accept, other_process.submit(invert, ended).result):
            with pytest.raises(Elsewhere):
                borrower()
        other_process.submit(invert, loan).result()
    assert np.array_equal(shared.result, 255 - pixels)


def test_memory_of_a_loan_without_an_answer_is_never_lent_again(pixels: Pixels) -> None:
    lending = lend(pixels)
    lost, _ = lending.__enter__()
    late = lost.accept()
    assert not lending.__exit__(TimeoutError, TimeoutError("too late"), None)
    with lend(pixels) as (loan, shared):
        late.result[...] = 7
        with pytest.raises(Elsewhere):
            lost.accept()
        loan.accept().result[...] = 1
    assert (shared.result == 1).all()
    assert np.array_equal(shared.source, pixels)


def test_lending_holds_on_to_a_little_memory_only(pixels: Pixels) -> None:
    def held() -> set[int]:
        """Inodes of memory, each of which may be open more than once."""
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        return {os.stat(link).st_ino for link in links if "memfd:pixels" in os.path.realpath(link)}

    before = held()
    for _ in range(2 * KEPT):
        with lend(pixels) as (loan, shared):
            loan.accept().result[...] = 1
        assert shared.result.all()
    large = np.zeros((1024, 1024, 3), np.uint8)
    at_once = [lend(picture) for picture in [pixels] * 2 * KEPT + [large] * KEPT]
    for loan_of in at_once:
        loan_of.__enter__()
    for loan_of in at_once:
        loan_of.__exit__(None, None, None)
    del loan, shared, at_once, loan_of
    gc.collect()
    assert len(held() - before) <= KEPT


def test_small_pictures_are_not_worth_it(pixels: Pixels) -> None:
    assert not is_worth_lending(pixels)
    assert is_worth_lending(np.zeros((512, 512, 3), np.uint8))
