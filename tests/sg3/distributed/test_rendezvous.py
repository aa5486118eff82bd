"""Rendezvous in a store that still holds the keys of earlier attempts."""

import json
import threading

import pytest
import torch.distributed as dist

from sg3.distributed.rendezvous import agree_on_attempt
from sg3.errors import UserError


def attempt(store, size, order=None):
    """Return the names that `size` processes agree on when started in `order`."""
    names = [None] * size

    def join(rank):
        names[rank] = agree_on_attempt(store, rank, size, 20)

    threads = []
    for rank in order or range(size):
        threads.append(threading.Thread(target=join, args=(rank,)))
        threads[-1].start()
        threads[-1].join(0.1)
    for thread in threads:
        thread.join()
    return names


@pytest.mark.slow
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_each_attempt_has_a_unique_name(order):
    store = dist.HashStore()
    seen = set()
    for _ in range(3):
        names = attempt(store, 3, order)
        assert len(set(names)) == 1 and names[0]
        assert names[0] not in seen
        seen.add(names[0])


def test_tokens_of_dead_processes_are_ignored():
    """Rank 1 wrote a token and was killed: the next attempt uses its successor's."""
    store = dist.HashStore()
    attempt(store, 2)
    store.set("sg3/token/1", "dead")
    old = json.loads(store.get("sg3/attempt"))
    names = attempt(store, 2, [0, 1])
    assert names[0] == names[1] != old["name"]
    assert "dead" not in json.loads(store.get("sg3/attempt"))["tokens"]


def test_timeout():
    with pytest.raises(UserError, match="process 0 of 2 waited 0 minutes for the others to start"):
        agree_on_attempt(dist.HashStore(), 0, 2, 0.2)
    with pytest.raises(UserError, match="process 1 of 2"):
        agree_on_attempt(dist.HashStore(), 1, 2, 0.2)
