"""The memory of what passed end to end: a change of plugin, image or test brings an engine's tests back."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e import unchanged
from tests.e2e.unchanged import Memory, digest_of

pytest_plugins = ["pytester"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("plugins/qwend_plugins/toy", "images/qwend_images/toy"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").write_text("as it was")
    (tmp_path / "test_toy.py").write_text("a test")
    monkeypatch.setattr(unchanged, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "changed", ["plugins/qwend_plugins/toy/file", "images/qwend_images/toy/file", "test_toy.py"]
)
def test_a_change_is_seen(checkout: Path, changed: str) -> None:
    before = digest_of(["toy"], ["toy"], checkout / "test_toy.py")
    (checkout / changed).write_text("changed")
    assert digest_of(["toy"], ["toy"], checkout / "test_toy.py") != before


def test_a_change_of_what_runs_it_is_seen_where_the_test_says_so(checkout: Path) -> None:
    (checkout / "daemon").mkdir()
    (checkout / "daemon/runtime.py").write_text("as it was")

    def digest(*also: str) -> str:
        return digest_of(["toy"], ["toy"], checkout / "test_toy.py", also)

    before, without = digest("daemon"), digest()
    (checkout / "daemon/runtime.py").write_text("changed")
    assert (digest("daemon") == before, digest() == without) == (False, True)


def test_what_was_compiled_is_no_change(checkout: Path) -> None:
    before = digest_of(["toy"], ["toy"], checkout / "test_toy.py")
    (checkout / "plugins/qwend_plugins/toy/__pycache__").mkdir()
    (checkout / "plugins/qwend_plugins/toy/__pycache__/x.pyc").write_text("bytes")
    assert digest_of(["toy"], ["toy"], checkout / "test_toy.py") == before


def test_what_passed_is_remembered(tmp_path: Path) -> None:
    Memory(tmp_path / "passed").learn("abc")
    assert Memory(tmp_path / "passed").knows("abc")
    assert not Memory(tmp_path / "passed").knows("def")


def test_the_story_of_a_changed_engine(pytester: pytest.Pytester, checkout: Path) -> None:
    module = pytester.makepyfile(
        test_engine="import pytest\npytestmark = pytest.mark.engine('toy', images=['toy'])\ndef test_it():\n    pass\n"
    )
    pytester.makeini("[pytest]\nmarkers = engine: one\nasyncio_default_fixture_loop_scope = function\n")
    memory = Memory(pytester.path / "passed")
    assert _outcomes(pytester, module, unchanged.Unchanged(memory, False, until=1.0)) == (0, 1)
    assert _outcomes(pytester, module, unchanged.Unchanged(memory, False)) == (1, 0)
    assert _outcomes(pytester, module, unchanged.Unchanged(memory, False)) == (0, 1)
    assert _outcomes(pytester, module, unchanged.Unchanged(memory, True, until=1.0)) == (1, 0)
    (checkout / "plugins/qwend_plugins/toy/file").write_text("changed")
    assert _outcomes(pytester, module, unchanged.Unchanged(memory, False)) == (1, 0)


def test_what_was_only_left_out_has_not_passed(pytester: pytest.Pytester, checkout: Path) -> None:
    module = pytester.makepyfile(
        test_engine="""
            import os
            import pytest
            pytestmark = pytest.mark.engine('toy', images=['toy'])

            @pytest.fixture
            def engine():
                if os.environ.get('NO_ENGINE'):
                    pytest.skip('no engine')

            def test_it(engine):
                pass
        """
    )
    pytester.makeini("[pytest]\nmarkers = engine: one\nasyncio_default_fixture_loop_scope = function\n")
    memory = Memory(pytester.path / "passed")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("NO_ENGINE", "1")
        assert _outcomes(pytester, module, unchanged.Unchanged(memory, False)) == (0, 1)
    assert _outcomes(pytester, module, unchanged.Unchanged(memory, False)) == (1, 0), "it never ran before"
    assert _outcomes(pytester, module, unchanged.Unchanged(memory, False)) == (0, 1)


def _outcomes(pytester: pytest.Pytester, module: Path, plugin: object) -> tuple[int, int]:
    """How many passed and were skipped."""
    passed, skipped, failed = pytester.inline_run(str(module), plugins=[plugin]).listoutcomes()
    assert not failed
    return len(passed), len(skipped)
