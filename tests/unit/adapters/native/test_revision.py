from __future__ import annotations

import json
import subprocess
import sys

from qwend.adapters.native import revision

IMPORTED = """
import json, sys
import qwend.adapters.native.rpcinterface
print(json.dumps(sorted(sys.modules)))
"""


def imported() -> list[str]:
    """What supervisord loads for us."""
    code = f"import sys; sys.path[:0] = {[p for p in sys.path if p.endswith('daemon')]!r}\n{IMPORTED}"
    done = subprocess.run((sys.executable, "-P", "-c", code), capture_output=True, check=True)
    modules: list[str] = json.loads(done.stdout)
    return modules


def test_the_revision_covers_every_module_that_supervisord_runs_for_us() -> None:
    package = "qwend.adapters.native."
    loaded = {name.removeprefix(package) for name in imported() if name.startswith(package)}
    assert loaded == set(revision._MODULES)


def test_supervisord_loads_nothing_but_itself_and_the_standard_library() -> None:
    known = {"qwend", "supervisor", "__main__", "__mp_main__", *sys.stdlib_module_names}
    # What site-packages load by themselves at every start (.pth files) is not ours.
    bare = subprocess.run(
        (sys.executable, "-P", "-c", "import json, sys; print(json.dumps(sorted(sys.modules)))"),
        capture_output=True,
        check=True,
    )
    foreign = {name.partition(".")[0] for name in imported()} - known
    assert foreign <= {name.partition(".")[0] for name in json.loads(bare.stdout)}
