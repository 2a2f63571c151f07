"""Why a model is not ready, in one sentence for callers. Serve's own messages hold tracebacks, which are logged."""

from __future__ import annotations

import logging
import re
from functools import lru_cache

logger = logging.getLogger(__name__)

MAX_CHARS = 300
LOCAL = "or name a local folder as the checkpoint"
# By the errors of a whole traceback: its last one may blame a file that could not be downloaded.
CAUSES = (
    (
        r"NameResolutionError|gaierror|Name or service not known|failure in name resolution",
        f"the name of the checkpoint's host could not be resolved: check the network and its DNS, {LOCAL}",
    ),
    (
        r"OfflineModeIsEnabled|outgoing traffic has been disabled",
        f"the checkpoint is not in the cache and the Hub is switched off: unset HF_HUB_OFFLINE, {LOCAL}",
    ),
    (
        r"ConnectionRefusedError|ConnectError|ConnectTimeout|Connection(Reset)?Error|Network is unreachable",
        f"the checkpoint's host could not be reached: check the network, {LOCAL}",
    ),
    (
        r"RepositoryNotFoundError|GatedRepoError|RevisionNotFoundError",
        "the Hub has no such checkpoint for this token: check its id, its revision and HF_TOKEN",
    ),
    (r"No space left on device", "the disk is full: make room for the checkpoint"),
    (r"CUDA out of memory|OutOfMemoryError", "the device has too little memory: give the replica a larger share"),
)
_ERROR = re.compile(r"(?:\w+\.)*(\w+): (?!Traceback)(.+)")


@lru_cache(maxsize=64)
def sentence_of(message: str) -> str:
    """The cause in Serve's message about a deployment, and what to do; each message with a traceback is logged once."""
    if "Traceback" not in message:
        return _cut(message)
    logger.warning("a model could not start: %s", message)
    lines = [line for line in message.splitlines() if line and not line[0].isspace()]  # without code
    for pattern, cause in CAUSES:
        if re.search(pattern, "\n".join(lines)):
            return f"it could not start: {cause}"
    errors = [error.groups() for error in map(_ERROR.fullmatch, lines) if error]
    name, text = errors[-1] if errors else ("Exception", "an error without a message")
    what = text if name == "CheckpointError" else f"{name}: {text}"
    return f"it could not start: {_cut(what)}; the router's log has the details"


def _cut(text: str) -> str:
    """One line of at most MAX_CHARS."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_CHARS else f"{line[:MAX_CHARS]}..."
