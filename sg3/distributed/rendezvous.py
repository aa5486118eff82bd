"""How the processes of a run find one another, also after torchrun started them again.

torchrun's store outlives its restarts and is not cleared between them (seen in torch 2.13), so
the addresses of processes that are dead would be read from it and gloo would connect to nobody.
Every attempt therefore agrees on a name of its own and keeps its keys under it. The number of
restarts cannot be that name: on several machines each launcher counts for itself.
"""

from __future__ import annotations

import datetime
import json
import time
import uuid

import torch.distributed as dist

from sg3.errors import UserError

_POLL_SEC = 0.02


def attempt_store(timeout: datetime.timedelta) -> tuple[dist.Store, int, int]:
    """The store of this attempt, this process's rank, and the number of processes.

    Raises `UserError` when not everybody arrives within `timeout`.
    """
    store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    name = agree_on_attempt(store, rank, size, timeout.total_seconds())
    return dist.PrefixStore(name, store), rank, size


def agree_on_attempt(store: dist.Store, rank: int, size: int, timeout_sec: float) -> str:
    """A name that all `size` processes of this attempt have, and none of an earlier one.

    Everybody leaves a fresh card. Rank 0 publishes a list of the cards that it sees, under a
    fresh name and again whenever a card changes; the others sign every list that has their own
    card, which an old list cannot have; rank 0 closes the list that all have signed.
    """
    card, deadline = uuid.uuid4().hex, time.monotonic() + timeout_sec
    store.set(f"sg3/card/{rank}", card)
    published = None
    while time.monotonic() < deadline:
        if rank == 0:
            cards = [_read(store, f"sg3/card/{i}") for i in range(size)]
            if published is None or published["cards"] != cards:
                published = {"name": uuid.uuid4().hex, "cards": cards}
                store.set("sg3/attempt", json.dumps(published))
            name = published["name"]
            if all(_read(store, f"sg3/signed/{name}/{i}") for i in range(1, size)):
                store.set(f"sg3/closed/{name}", "yes")
                return name
        else:
            attempt = json.loads(_read(store, "sg3/attempt") or '{"cards": []}')
            if card in attempt["cards"]:
                name = attempt["name"]
                store.set(f"sg3/signed/{name}/{rank}", "yes")
                if _read(store, f"sg3/closed/{name}"):
                    return name
        time.sleep(_POLL_SEC)
    raise UserError(
        f"process {rank} of {size} waited {timeout_sec / 60:.0f} minutes for the others, which "
        "did not start; look at their messages (SG3_DIST_TIMEOUT_MINUTES sets the wait)"
    )


def _read(store: dist.Store, key: str) -> str:
    """The value of `key`, or an empty string while nobody has set it."""
    return store.get(key).decode() if store.check([key]) else ""
