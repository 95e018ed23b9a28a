"""Faults of every kind, at random moments, and a checker that sees whatever they break.

`test_any_fault.py` runs a whole farm under load and injects faults; `test_contention.py` lets many
processes allocate from one database. How they are built:

    network.py   a network namespace for each part, and cuts between them
    parts.py     processes, started again when they have been killed
    farm.py      the farm of this suite: which parts there are, how each is started
    kinds.py     every kind of fault: how it begins and ends
    plan.py      which fault comes when, from a random seed
    workload.py  the program that a client runs, which keeps a journal
    journals.py  what the journals say: was each result yielded exactly once
    wire.py      what is on the wire
    ledger.py    what is in the database: all the SQL of the suite
    watch.py     follows all of these while the farm runs
    report.py    the counts at the end
"""
