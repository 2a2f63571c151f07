"""Whether each model can take requests, from Serve's status, and what the loaded checkpoints are.

No request depends on Serve's controller: while it does not answer, the last known status holds.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.handles.caller import answer_of
from deployments.handles.reasons import sentence_of
from deployments.ray_private import deployment_details

logger = logging.getLogger(__name__)
MAX_AGE_S = 1.0
STATUS_WAIT_S = 2.0  # after this long, the last known status is used
DESCRIBE_WAIT_S = 0.5
DESCRIBE_TIMEOUT_S = 30.0
UNKNOWN = "Serve has not told its state yet"
FAILED = {"UNHEALTHY", "DEPLOY_FAILED"}  # states of a deployment, not yet during Serve's three tries to start it
SERVING = {"RUNNING", "RECOVERING"}  # states of a replica; a new controller calls all replicas RECOVERING at first

Details = dict[str, dict[str, Any]]


class Readiness:
    """The state of the application's models. Each router replica has its own.

    `fetch` gets the application's name and returns what `deployment_details` returns; it is called in a thread.
    """

    def __init__(
        self,
        app_name: str,
        models: Mapping[str, DeploymentHandle],
        fetch: Callable[[str], Details] = deployment_details,
    ) -> None:
        self._app_name = app_name
        self._models = models
        self._fetch = fetch
        self._reasons = dict.fromkeys(models, UNKNOWN)  # why a model is not ready
        self._running: set[str] = set()  # models with a replica
        self._failed: set[str] = set()  # models that Serve has given up to start
        self._started = self._refreshed = -math.inf  # when the last status was asked for: any, and one that ended
        self._fetching: asyncio.Task[None] | None = None
        self._cards: dict[str, dict[str, Any]] = {}
        self._describing: dict[str, asyncio.Task[None]] = {}

    async def ready(self, wanted: str | None = None) -> set[str]:
        """Ids of the models that have a running replica, or are scaled to zero and start on demand.

        The status is at most a second old. If the `wanted` model is not ready in it, a new status is fetched.
        """
        now = time.monotonic()
        await self._refresh(since=now - MAX_AGE_S)
        if wanted in self._reasons:
            await self._refresh(since=now)
        return set(self._models) - set(self._reasons)

    async def reason(self, model_id: str) -> str:
        """Serve's reason why the model can take no request; "" if it can.

        A model that is scaled to zero is started, and waited for until it answers or Serve gives up.
        """
        if model_id in await self.ready(model_id) - self._running and await self._answers(model_id):
            return ""
        return self._reasons.get(model_id, "")

    async def describe(self) -> dict[str, dict[str, Any]]:
        """Each model's state and the latest description of its checkpoint, if it ever gave one.

        Starts no model, and waits half a second at most for those that run.
        """
        ready = await self.ready()
        await self._refresh_cards(self._running & ready)
        return {
            model_id: {
                "ready": model_id in ready,
                **({} if model_id in ready else {"reason": self._reasons.get(model_id, "")}),
                **self._cards.get(model_id, {}),
            }
            for model_id in self._models
        }

    async def _refresh(self, since: float) -> None:
        """Have a status that was asked for after `since`, unless the controller does not answer in time."""
        while self._refreshed < since:
            if self._fetching is None or self._fetching.done():
                self._started = time.monotonic()
                self._fetching = asyncio.create_task(self._fetch_status(self._started))
            wait_s = self._started + STATUS_WAIT_S - time.monotonic()
            if wait_s <= 0 or not (await asyncio.wait([self._fetching], timeout=wait_s))[0]:
                return

    async def _fetch_status(self, started: float) -> None:
        try:
            deployments = await asyncio.to_thread(self._fetch, self._app_name)
        except Exception as error:
            logger.warning("Serve's controller did not tell the status; the last one holds: %r", error)
        else:
            if deployments:  # none during a redeployment, when the replicas still answer as before
                self._use(deployments)
        self._refreshed = started

    def _use(self, deployments: Details) -> None:
        details = {model_id: deployments.get(model_id) for model_id in self._models}
        self._running = {model_id for model_id, found in details.items() if found and _serves(found)}
        self._reasons = {
            model_id: _explain(found)
            for model_id, found in details.items()
            if model_id not in self._running and (found is None or found["status"] != "HEALTHY")
        }
        self._failed = {model_id for model_id, found in details.items() if found and found["status"] in FAILED}

    async def _answers(self, model_id: str) -> bool:
        """Call the model, which starts it, and wait until the call ends (true) or Serve has failed to start it."""
        call = asyncio.create_task(self._fetch_card(model_id, None))
        try:
            while not call.done() and model_id not in self._failed:
                await asyncio.wait([call], timeout=MAX_AGE_S)
                await self._refresh(since=time.monotonic() - MAX_AGE_S)
            return call.done()
        finally:
            call.cancel()

    async def _refresh_cards(self, models: set[str]) -> None:
        """Ask the models that have no question open, and wait a moment for their answers."""
        started = []
        for model_id in models:
            if model_id not in self._describing or self._describing[model_id].done():
                self._describing[model_id] = asyncio.create_task(self._fetch_card(model_id, DESCRIBE_TIMEOUT_S))
                started.append(self._describing[model_id])
        if started:
            await asyncio.wait(started, timeout=DESCRIBE_WAIT_S)

    async def _fetch_card(self, model_id: str, timeout_s: float | None) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                self._cards[model_id] = await answer_of(self._models[model_id].describe.remote())
        except Exception:  # the last card, or none, is enough for the list of models
            return


def _serves(details: dict[str, Any]) -> bool:
    return bool(SERVING & _replica_states(details).keys())


def _explain(details: dict[str, Any] | None) -> str:
    """Serve's message, or the replicas' states in the half minute before Serve has one."""
    if details is None:
        return "it has not been deployed yet"
    states = ", ".join(f"{count} {state}" for state, count in _replica_states(details).items())
    return sentence_of(str(details["message"])) or f"{details['status'].value}: replicas {states or 'none'}"


def _replica_states(details: dict[str, Any]) -> Counter[str]:
    return Counter(replica["state"].value for replica in details["replicas"])
