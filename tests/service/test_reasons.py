"""What callers are told of a model that cannot start: one sentence, of what failed and what to do."""

from __future__ import annotations

import logging
import socket
import traceback
from collections.abc import Callable

import pytest
from ray.serve._private.common import ReplicaState
from ray.serve.schema import DeploymentStatus

from deployments.engine.errors import CheckpointError
from deployments.errors import ModelNotReady
from deployments.handles.readiness import _explain
from deployments.handles.reasons import sentence_of

BLAMES_A_FILE = (
    "someone/model: make sure 'someone/model' is a directory with a file named model_index.json.\nSee the docs."
)


def unresolved() -> None:
    try:
        try:
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        except OSError as error:
            raise ConnectionError("Max retries exceeded with url: /api/models/someone/model") from error
    except OSError as error:
        raise CheckpointError(BLAMES_A_FILE) from error


def unreached() -> None:
    try:
        raise ConnectionRefusedError(111, "Connection refused")
    except OSError as error:
        raise CheckpointError(BLAMES_A_FILE) from error


def incomplete() -> None:
    raise CheckpointError("/data/models/a: the folder unet, which model_index.json names, is missing or empty")


def unexpected() -> None:
    raise AttributeError("'NoneType' object has no attribute 'sigmas'")


def message_of(fail: Callable[[], None]) -> str:
    """As Serve's status has it."""
    try:
        fail()
    except Exception:
        inner = traceback.format_exc()
    return (
        "A replica failed to start with exception. Retrying 1 more time(s). Error:\n\x1b[36mray::ServeReplica:a:b."
        f"initialize_and_get_metadata()\x1b[39m (pid=4711, ip=10.0.0.1, actor_id=01)\nRuntimeError: {inner}"
    )


@pytest.mark.parametrize(
    ("fail", "says"),
    [
        (unresolved, "could not be resolved"),
        (unreached, "could not be reached"),
        (incomplete, "/data/models/a: the folder unet, which model_index.json names, is missing or empty"),
        (unexpected, "AttributeError: 'NoneType' object has no attribute 'sigmas'"),
    ],
)
def test_reason_is_one_sentence_and_the_traceback_is_logged(
    fail: Callable[[], None], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    message = message_of(fail)
    with caplog.at_level(logging.WARNING):
        sentence = sentence_of(message)
    assert says in sentence
    assert len(sentence) < 400
    for word in ("Traceback", "File ", ".py", "pid=", "\n", "\x1b", "RuntimeError"):
        assert word not in sentence
    assert message in caplog.records[0].getMessage()
    assert str(ModelNotReady("a", sentence)).startswith("model 'a' is not ready: it could not start: ")


def test_cause_is_the_network_and_not_the_file_that_the_last_line_blames() -> None:
    assert "model_index.json" not in sentence_of(message_of(unresolved))
    assert "local folder" in sentence_of(message_of(unresolved))


def test_message_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    message = message_of(incomplete).replace("/data", "/other")
    assert sentence_of(message) == sentence_of(message)
    assert len(caplog.records) == 1


def test_message_without_a_traceback_stays_as_it_is() -> None:
    message = 'Deployment "a" has 1 replicas that have taken more than 30s to be scheduled.\n  It waits for 1 GPU.'
    assert sentence_of(message) == " ".join(message.split())


def test_message_of_any_length_is_cut() -> None:
    def fail() -> None:
        raise CheckpointError("x" * 10_000)

    assert len(sentence_of(message_of(fail))) < 500
    assert len(sentence_of("x" * 10_000)) < 500


@pytest.mark.parametrize(("message", "reason"), [("", "UPDATING: replicas 1 STARTING"), ("it waits", "it waits")])
def test_reason_of_a_deployment_is_its_message_or_its_state(message: str, reason: str) -> None:
    replicas = [{"state": ReplicaState.STARTING}]
    details = {"message": message, "status": DeploymentStatus.UPDATING, "replicas": replicas}
    assert _explain(details) == reason
