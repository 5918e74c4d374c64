"""How fast this machine is with SLiM: measurements, next to the machine's ceilings and to rivals.

Every measurement runs in a process of its own (`slim.cli.bench_worker`, or a program of `rivals/`), which first
shows what it computes, and then waits for its turn. `suite` decides what is measured, `contest` lets processes take
turns, `check` compares what they compute, `work` is what our own processes do.
"""
