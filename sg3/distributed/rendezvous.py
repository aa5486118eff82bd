"""Rendezvous of the processes of a run, also after torchrun restarted them.

torchrun's store outlives restarts and is not cleared between them (seen in torch 2.13): gloo would
read the addresses of dead processes and hang. So the processes of every attempt first agree on a
unique name and then keep all keys under it. The restart count cannot be that name, because on
several machines each launcher counts for itself.
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
    """Return the store of this attempt, the rank, and the world size.

    Raises UserError if not all processes arrive within `timeout`.
    """
    store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    name = agree_on_attempt(store, rank, size, timeout.total_seconds())
    return dist.PrefixStore(name, store), rank, size


def agree_on_attempt(store: dist.Store, rank: int, size: int, timeout_sec: float) -> str:
    """Return a name that all `size` processes of this attempt share, and no earlier attempt had.

    Every process writes a fresh random token. Rank 0 publishes the list of tokens under a new
    name, again whenever a token changes. The other ranks acknowledge a list that contains their
    own token, which lists of earlier attempts cannot. Rank 0 confirms the list that all ranks
    have acknowledged. Raises UserError after `timeout_sec`.
    """
    token, deadline = uuid.uuid4().hex, time.monotonic() + timeout_sec
    store.set(f"sg3/token/{rank}", token)
    published: dict | None = None
    while time.monotonic() < deadline:
        if rank == 0:
            tokens = [_read(store, f"sg3/token/{i}") for i in range(size)]
            if published is None or published["tokens"] != tokens:
                published = {"name": uuid.uuid4().hex, "tokens": tokens}
                store.set("sg3/attempt", json.dumps(published))
            name = published["name"]
            if all(_read(store, f"sg3/acknowledged/{name}/{i}") for i in range(1, size)):
                store.set(f"sg3/confirmed/{name}", "yes")
                return str(name)
        else:
            attempt = json.loads(_read(store, "sg3/attempt") or '{"tokens": []}')
            if token in attempt["tokens"]:
                name = attempt["name"]
                store.set(f"sg3/acknowledged/{name}/{rank}", "yes")
                if _read(store, f"sg3/confirmed/{name}"):
                    return str(name)
        time.sleep(_POLL_SEC)
    raise UserError(
        f"process {rank} of {size} waited {timeout_sec / 60:.0f} minutes for the others to start; "
        "see their messages (SG3_DIST_TIMEOUT_MINUTES sets the timeout)"
    )


def _read(store: dist.Store, key: str) -> str:
    """Return the value of `key`, or an empty string if it is not set."""
    # `get` alone would wait for a missing key until the store's timeout.
    return store.get(key).decode() if store.check([key]) else ""
