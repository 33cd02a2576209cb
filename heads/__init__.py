"""All that trains on embeddings: tasks, losses, metrics, fusion, time, tables.

The public names are listed in `__init__.pyi`; each is imported when it is first used.
"""

import lazy_loader

from .waiting import wait_briefly

wait_briefly()  # before torch is loaded

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
