from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.fakes import toys
from tests.unit.worker.site_kit import HEAD, engines, entry_points, install

from qwend.errors import UsageError
from qwend.model.event import Event
from qwend.plugin.protocols import StepView
from qwend.plugin.samples import HOSTS, view
from qwend.worker.catalog import Catalogue, load_plugins
from qwend.worker.guarded import Guard, GuardedEngine, PluginFailed


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("plug_")]:
        del sys.modules[name]


def load(site: Path, **plugins: str) -> Catalogue:
    return load_plugins(entry_points=entry_points(install(site, plugins)))


def test_a_plugin_that_is_installed_is_found_with_its_version(site: Path) -> None:
    catalogue = load(site, good=engines("good/one", "good/two"))
    (plugin,) = catalogue.plugins
    assert (plugin.name, plugin.label, plugin.problem) == ("good", "dist-good 1.0", None)
    assert list(catalogue.engines) == ["good/one", "good/two"]
    assert catalogue.engines["good/one"].distribution == "dist-good 1.0"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("def broken(:", "SyntaxError: "),
        ("raise SystemExit(3)", "failed in import: SystemExit: 3"),
        ("import sys; sys.exit('bye')", "failed in import: SystemExit: bye"),
        (HEAD + "@hookimpl\ndef qwend_engines():\n    return 1 / 0\n",
         "failed in qwend_engines: ZeroDivisionError: division by zero (plug_bad.py:5)"),
        (HEAD + "@hookimpl\ndef qwend_engines():\n    yield toys.Convert()\n    import sys; sys.exit()\n",
         "failed in qwend_engines: SystemExit"),
        (HEAD + "@hookimpl\ndef qwend_enigmas():\n    return []\n", "unknown hook 'qwend_enigmas'"),
        (HEAD + "@hookimpl\ndef qwend_engines(surprise):\n    return []\n", "surprise"),
        (HEAD + "@hookimpl\ndef qwend_engines():\n    return [object()]\n", "has no attribute 'name'"),
        (engines("Bad Name"), "name should be plugin/engine in lower case"),
        (engines("bad/one").replace("toys.Convert):", "toys.Convert):\n    revision = 0"), "revision should be"),
        (engines("bad/one").replace("toys.Convert):", "toys.Convert):\n    kind = 'task'"), "kind should be job"),
        (engines("bad/one").replace("toys.Convert):", "toys.Convert):\n    params = dict"), "params should be"),
        (engines("bad/one").replace("toys.Convert):", "toys.Convert):\n    flavours = ('tpu',)"),
         "flavours should be"),
        (engines("bad/one", "bad/one"), "brings engine bad/one twice"),
        (HEAD + "class S(toys.Shop):\n    scheme = 'Not:Good'\n@hookimpl\ndef qwend_sources():\n    return [S()]\n",
         "scheme should be a word"),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_left_out_by_name_with_the_reason_and_the_others_work(
    site: Path, source: str, reason: str
) -> None:
    catalogue = load(site, bad=source, good=engines("good/one"))
    problem = catalogue.problems["bad"]
    assert reason in problem
    assert list(catalogue.engines) == ["good/one"]
    assert [plugin.name for plugin in catalogue.plugins] == ["bad", "good"]


def test_of_two_plugins_with_one_engine_the_later_is_left_out_and_both_are_named(site: Path) -> None:
    catalogue = load(site, alpha=engines("x/one", "x/two"), beta=engines("x/two", "x/three"))
    assert list(catalogue.engines) == ["x/one", "x/two"]
    assert catalogue.problems == {"beta": "plugin beta brings engine x/two, which plugin alpha has already"}


def test_of_two_plugins_with_one_scheme_the_later_is_left_out(site: Path) -> None:
    shop = HEAD + "@hookimpl\ndef qwend_sources():\n    return [toys.Shop()]\n"
    catalogue = load(site, alpha=shop, beta=shop)
    assert catalogue.problems == {"beta": "plugin beta brings source shop, which plugin alpha has already"}
    assert catalogue.sources["shop"].plugin == "alpha"


def test_two_distributions_may_not_bring_a_plugin_of_one_name(site: Path) -> None:
    install(site, {"same": engines("same/one")})
    other = site / "dist_other-2.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: dist-other\nVersion: 2.0\n")
    (other / "entry_points.txt").write_text("[qwend.plugins.v1]\nsame = plug_same\n")
    catalogue = load_plugins(entry_points=entry_points(site))
    assert catalogue.problems == {
        "same": "the plugin name same of dist-same is taken by dist-other: uninstall one of them"
    }


def test_a_quarantined_plugin_is_not_even_imported(site: Path) -> None:
    install(site, {"slow": "raise AssertionError('imported')", "good": engines("good/one")})
    catalogue = load_plugins(without={"slow": "no answer within 20 s"}, entry_points=entry_points(site))
    assert catalogue.problems == {"slow": "no answer within 20 s"}
    assert str(site / "plug_slow.py") in catalogue.watch()


def test_a_change_of_a_plugins_file_or_of_what_is_installed_can_be_seen(site: Path) -> None:
    watched = load(site, good=engines("good/one")).watch()
    assert str(site) in watched
    assert str(site / "plug_good.py") in watched


def test_a_change_of_what_several_plugins_share_can_be_seen(site: Path) -> None:
    package, info = site / "plug_many", site / "dist_many-1.0.dist-info"
    for folder in (package / "mine", package / "shared", info):
        folder.mkdir(parents=True)
    (package / "shared" / "__init__.py").write_text("NAME = 'many/one'\n")
    (package / "shared" / "driver.py").write_text("print()\n")
    (package / "mine" / "__init__.py").write_text("import plug_many.shared\n" + engines("many/one"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dist-many\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[qwend.plugins.v1]\nmany = plug_many.mine\n")
    catalogue = load_plugins(entry_points=entry_points(site))
    assert "many/one" in catalogue.engines
    assert str(package / "shared" / "driver.py") in catalogue.watch()


def test_observers_are_told_and_what_they_raise_is_given_back(site: Path) -> None:
    seen = HEAD + "SEEN = []\n@hookimpl\ndef qwend_event(event):\n    SEEN.append(event.kind)\n"
    bad = HEAD + "@hookimpl\ndef qwend_event(event):\n    raise SystemExit(1)\n"
    catalogue = load(site, bad=bad, seen=seen)
    assert catalogue.observers
    (failure,) = catalogue.notify(Event("service.ready", "r/s"))
    assert failure.plugin == "bad"
    assert sys.modules["plug_seen"].SEEN == ["service.ready"]
    assert not load(site / "more", good=engines("good/one")).observers


def test_a_guard_names_the_plugin_for_whatever_it_raises() -> None:
    class Raises(toys.Convert):
        name = "bad/raises"

        def launch(self, step: object, host: object) -> toys.Launch:
            raise SystemExit("no")

    engine = GuardedEngine(Raises(), Guard("bad"))
    with pytest.raises(
        PluginFailed, match=r"plugin bad failed in bad/raises.launch for step sample: SystemExit: no"
    ):
        engine.launch(view(engine), HOSTS["cpu"])  # type: ignore[arg-type]


def test_a_guard_passes_on_which_figures_an_engine_will_report() -> None:
    class Tells(toys.Convert):
        def metrics(self, step: StepView) -> Any:
            return (name for name in (step.name, "size"))

    class Cannot(toys.Convert):
        def metrics(self, step: StepView) -> Any:
            return None

    class Wrong(toys.Convert):
        def metrics(self, step: StepView) -> Any:
            return [1]

    asked = view(toys.Convert())
    assert GuardedEngine(Tells(), Guard("a")).metrics(asked) == ["sample", "size"]
    assert GuardedEngine(Cannot(), Guard("a")).metrics(asked) is None
    assert GuardedEngine(toys.Convert(), Guard("a")).metrics(asked) is None
    with pytest.raises(PluginFailed, match="metrics for step sample"):
        GuardedEngine(Wrong(), Guard("a")).metrics(asked)


def test_a_guard_lets_the_plugins_own_complaint_through() -> None:
    class Refuses(toys.Convert):
        name = "bad/refuses"

        def image(self, step: object, host: object) -> toys.Image:
            raise UsageError("there is no lock for this card")

    with pytest.raises(UsageError, match="there is no lock for this card"):
        GuardedEngine(Refuses(), Guard("bad")).image(view(Refuses()), HOSTS["cpu"])


def odd(*values: Any) -> Any:
    """Values of types that a careful author would not use."""
    return values


@pytest.mark.parametrize(
    ("launch", "reason"),
    [
        (lambda: None, "gives what is no valid Launch: Expected `object`, got `null`"),
        (lambda: toys.Launch(argv=odd(1, 2)), "gives what is no valid Launch: Expected"),
        (lambda: toys.Launch(argv=("a",), env={"A": odd(object())[0]}), "gives what is no valid Launch"),
    ],
)
def test_a_guard_hands_on_only_what_is_of_the_promised_type(launch: object, reason: str) -> None:
    kind = type("Odd", (toys.Convert,), {"name": "bad/odd", "launch": lambda *_: launch()})  # type: ignore[operator]
    engine = GuardedEngine(kind(), Guard("bad"))
    with pytest.raises(PluginFailed) as caught:
        engine.launch(view(engine), HOSTS["cpu"])  # type: ignore[arg-type]
    assert reason in caught.value.message


def test_breadcrumbs_lead_into_every_call_and_out_again() -> None:
    trail: list[tuple[str, str]] = []
    catalogue = Catalogue()
    catalogue.add("toys", toys, "dist", "1", lambda plugin, doing: trail.append((plugin, doing)))
    trail.clear()
    engine = catalogue.engines["toy/convert"]
    list(engine.check(view(engine), HOSTS["cpu"]))  # type: ignore[arg-type]
    assert trail == [("toys", "toy/convert.check for step sample"), ("", "")]


def test_the_catalogue_tells_what_the_api_tells() -> None:
    catalogue = Catalogue()
    catalogue.add("toys", toys, "dist", "1", lambda *_: None)
    (row,) = catalogue.describe()
    quantize = next(engine for engine in row["engines"] if engine["name"] == "toy/quantize")
    assert quantize["params_schema"]["properties"]["type"]["enum"] == ["Q8_0", "Q5_K_M", "Q4_K_M"]
    assert row["sources"] == [{"scheme": "shop", "summary": "A toy hub"}]
    assert isinstance(toys, ModuleType)
