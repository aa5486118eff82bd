"""Several processes that work as one: ranks, collectives, rendezvous."""
