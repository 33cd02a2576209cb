"""How long OpenMP's threads wait for each other before they sleep.

By default they wait by spinning, for milliseconds: on a quiet machine that saves waking them, but beside other work a
thread spins in the time that the thread it waits for needs, and a fit takes five to fourteen times as long
(docs/benchmarks.md, Contention). A short wait costs a quiet machine nothing that can be measured.

OpenMP reads its settings once, when torch, scikit-learn or LightGBM loads it. So this runs when `heads` or `extractor`
is imported, before any of them, and changes nothing if torch is loaded already or the user has chosen. LightGBM loads
the same OpenMP library as torch: a script that imports one of them must import `heads` first. Beside two other fits, a
fit of 5,000 rows took 41 s with `heads` imported first, and 188 s with `lightgbm` imported first.
"""

import os
from typing import Final

SETTINGS: Final = {
    "GOMP_SPINCOUNT": "1000",  # turns, of GCC's OpenMP: torch's wheels, scikit-learn's, LightGBM's
    "KMP_BLOCKTIME": "0",  # milliseconds, of LLVM's and Intel's: conda's torch
}
USERS_OWN: Final = ("OMP_WAIT_POLICY", *SETTINGS, "KMP_LIBRARY")
"""Any of these in the environment is the user's choice, and kept."""


def wait_briefly() -> None:
    """Bound the spinning of OpenMP's threads, unless the environment says how they wait."""
    if not any(name in os.environ for name in USERS_OWN):
        os.environ.update(SETTINGS)
