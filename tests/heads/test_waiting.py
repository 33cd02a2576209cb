"""How OpenMP's threads wait is said before torch, which reads it, is loaded; what the user has said is kept."""

import json
import os
import subprocess
import sys

import pytest

from heads.waiting import SETTINGS, USERS_OWN

WATCH = """
import json, os, sys
NAMES = {names!r}
class Watch:
    seen = None
    def find_spec(self, name, *_):
        if name == "torch" and Watch.seen is None:
            Watch.seen = {{each: os.environ.get(each) for each in NAMES}}
        return None
sys.meta_path.insert(0, Watch())
import {package}
assert "torch" not in sys.modules
import {module}
assert "torch" in sys.modules
print(json.dumps(Watch.seen))
"""
MODULES = {"heads": "heads.fitting.fit", "extractor": "extractor.encoders.encoder"}


def seen_by_torch(package: str, **environment: str) -> dict[str, str | None]:
    """What stands in the environment as torch is imported, in a process of its own."""
    script = WATCH.format(names=USERS_OWN, package=package, module=MODULES[package])
    clean = {name: value for name, value in os.environ.items() if name not in USERS_OWN}
    done = subprocess.run(
        [sys.executable, "-c", script], env=clean | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str | None] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("package", MODULES)
def test_threads_wait_briefly(package: str) -> None:
    found = seen_by_torch(package)
    assert {name: found[name] for name in SETTINGS} == {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
    assert found["OMP_WAIT_POLICY"] is None


@pytest.mark.parametrize("package", MODULES)
@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "7")])
def test_what_the_user_says_is_kept(package: str, name: str, value: str) -> None:
    found = seen_by_torch(package, **{name: value})
    assert {each: there for each, there in found.items() if there is not None} == {name: value}
