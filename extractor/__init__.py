"""All that sees pixels: decoding, encoders, pre-training, fine-tuning, extraction.

The public names are listed in `__init__.pyi`; each is imported when it is first used.
"""

import lazy_loader

from heads.waiting import wait_briefly

wait_briefly()  # before torch is loaded

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
