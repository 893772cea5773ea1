"""Import all of Runhook, in the process that `warm_python` forks."""

import gc
from importlib import import_module

from handlers import registry
from receiver.cli import serve
from receiver.cli.commands import COMMANDS, find

for _name in COMMANDS:
    find(_name)
for _name in ("receiver.clock", "receiver.dispatch.dispatcher", "receiver.worker", "receiver.wakeups.worker"):
    import_module(_name)
serve.web_components()
registry.sink_types()
gc.collect()
gc.freeze()
