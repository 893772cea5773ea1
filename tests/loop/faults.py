"""Which faults of the simulated Skyvern the loop asks for, and how often: all that there are."""

from __future__ import annotations

from simulator.faults import Fault

# Drawn for each run, and for its submit. A run of a few seconds has several of them.
FAULTS = {
    Fault.LOSE: 0.2,
    Fault.DOUBLE: 0.1,
    Fault.ECHO: 0.05,
    Fault.LATE: 0.05,
    Fault.DISORDER: 0.05,
    Fault.FAIL: 0.08,
    Fault.TERMINATE: 0.04,
    Fault.TIMEOUT: 0.04,
    Fault.CANCEL: 0.04,
    Fault.TWICE: 0.3,
    Fault.RETRY: 0.1,
    Fault.RETRIES: 0.05,
    Fault.RESTART: 0.05,
    Fault.TANGLED: 0.1,
    Fault.LAPSED: 0.05,
    Fault.GAP: 0.1,
    Fault.HALF: 0.05,
    Fault.PAUSE: 0.02,
    Fault.QUEUE: 0.02,
    Fault.BIG: 0.001,
    Fault.DROP: 0.01,
    Fault.SLOW: 0.01,
    Fault.THROTTLE: 0.01,
    Fault.BUSY: 0.01,
    Fault.CRASH: 0.01,
    Fault.GARBAGE: 0.01,
}
# Of any call of the API, polls and lists among them: which calls they fall on hangs on who asks when.
OF_READS = {Fault.SLOW: 0.01, Fault.THROTTLE: 0.01, Fault.BUSY: 0.005, Fault.CRASH: 0.005, Fault.GARBAGE: 0.005}
