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
from deployments.handover import HOME, Elsewhere, Loan, is_worth_lending, lend

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


def test_a_late_borrower_does_not_get_the_memory_of_the_next_loan(pixels: Pixels) -> None:
    with lend(pixels) as (ended, _):
        pass
    with lend(pixels) as (loan, _):
        assert loan.path == ended.path, "the system gives the lowest free number"
        with pytest.raises(Elsewhere):
            ended.accept()


def test_lending_leaves_nothing_open(pixels: Pixels) -> None:
    def mapped() -> int:
        gc.collect()
        with open("/proc/self/maps") as maps:
            return sum("memfd:pixels" in line for line in maps)

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with lend(pixels) as (loan, shared):
            loan.accept().result[...] = 1
        assert shared.result.all()
    del loan, shared
    assert len(os.listdir("/proc/self/fd")) == before
    assert mapped() == 0


def test_small_pictures_are_not_worth_it(pixels: Pixels) -> None:
    assert not is_worth_lending(pixels)
    assert is_worth_lending(np.zeros((512, 512, 3), np.uint8))
