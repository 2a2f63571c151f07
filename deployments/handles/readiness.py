"""Whether each model can take requests, from Serve's status, which is cached for a second while the model is ready."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.ray_private import deployment_details

MAX_AGE_S = 1.0
DESCRIBE_TIMEOUT_S = 5.0


class Readiness:
    """The state of the application's models. Each router replica has its own."""

    def __init__(self, app_name: str, models: Mapping[str, DeploymentHandle]) -> None:
        self._app_name = app_name
        self._models = models
        self._reasons: dict[str, str] = {}  # why a model is not ready
        self._cards: dict[str, dict[str, Any]] = {}
        self._refreshed = -math.inf
        self._lock = asyncio.Lock()

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
        """Serve's reason why the model is not ready; "" if it is."""
        await self.ready(model_id)
        return self._reasons.get(model_id, "")

    async def _refresh(self, since: float) -> None:
        """Fetch Serve's status if the last one is older than `since`."""
        async with self._lock:
            started = time.monotonic()
            if self._refreshed < since:
                self._reasons = await asyncio.to_thread(self._fetch_reasons)
                self._refreshed = started

    async def describe(self) -> dict[str, dict[str, Any]]:
        """Each model's state and, once it has been ready, the description of its loaded checkpoint."""
        ready = await self.ready()
        await asyncio.gather(*(self._fetch_card(model_id) for model_id in ready))
        return {
            model_id: {
                "ready": model_id in ready,
                **({} if model_id in ready else {"reason": self._reasons.get(model_id, "")}),
                **self._cards.get(model_id, {}),
            }
            for model_id in self._models
        }

    async def _fetch_card(self, model_id: str) -> None:
        try:
            async with asyncio.timeout(DESCRIBE_TIMEOUT_S):
                self._cards[model_id] = await self._models[model_id].describe.remote()
        except Exception:  # the last card, or none, is enough for the list of models
            return

    def _fetch_reasons(self) -> dict[str, str]:
        deployments = deployment_details(self._app_name)
        if not deployments:  # during a redeployment the replicas still answer as before
            return self._reasons
        return {
            model_id: _explain(details)
            for model_id in self._models
            if (details := deployments.get(model_id)) is None
            or not (details["status"] == "HEALTHY" or "RUNNING" in _replica_states(details))
        }


def _explain(details: dict[str, Any] | None) -> str:
    """Serve's message, or the replicas' states in the half minute before Serve has one."""
    if details is None:
        return "it has not been deployed yet"
    states = ", ".join(f"{count} {state}" for state, count in _replica_states(details).items())
    return str(details["message"]) or f"{details['status'].value}: replicas {states or 'none'}"


def _replica_states(details: dict[str, Any]) -> Counter[str]:
    return Counter(replica["state"].value for replica in details["replicas"])
