"""A deterministic simulation of the whole: functions, sweepers and an admin over one store, one upstream and one clock.

    python -m tests.simulation --seeds 200 --first 1     runs worlds; a failing one prints its seed, steps and reason
    python -m tests.simulation.mutants                   the same worlds with a ledger that is wrong on purpose

Reading order:

    expressions  DynamoDB's expressions, as far as they are used
    memory       one table of DynamoDB in memory, as a botocore client
    scheduler    actors in turns, by a seeded choice; their clock; how they die
    weather      what goes wrong, and how often
    line         a client to the table over a line with faults, which repeats as the SDK does
    road         the way to the simulated OpenRouter, with faults
    invariants   what must be true after each write, and at the end
    orders       what clients ask for, what tenants may spend, what models cost
    parts        gates and sweepers, wired to all this
    world        one seed: who there is, and what they do
    mutants      ledgers that are wrong on purpose
    requests     random requests, for comparing the table with DynamoDB Local

Not in it: an allowance for outages of the ledger, tenants' keys, more than one call at a time in an
environment, DynamoDB's limits of size and throughput, and copies of requests that AWS would refuse as signed too long
ago.
"""
