"""Whether an adapter belongs to a model."""

from __future__ import annotations

from collections.abc import Iterator

from qwend.plugin import Finding, Given


def adapter_findings(model: Given, adapters: tuple[Given, ...], key: str) -> Iterator[Finding]:
    """What is wrong with `adapters` on `model`: an error where the adapter's own lineage names another base, a
    warning where only the name in its configuration does (people rename folders)."""
    for adapter in adapters:
        base = base_of(adapter)
        if base is not None and _known(base) and _known(model):
            if _identity(base) != _identity(model):
                yield Finding(
                    f"{adapter.name} was trained on {_name(base)}, and this step takes {_name(model)}",
                    key,
                    f"say from: {base.name}" if base.name.isidentifier() else None,
                )
            continue
        said, have = _last(adapter.facts.base), _origin_name(model)
        if said and have and said != have:
            yield Finding(
                f"{adapter.name} says that it was trained on {adapter.facts.base}, and this step takes {_name(model)}",
                key,
                "if that is the same model under another name, all is well",
                level="warning",
            )


def base_of(adapter: Given) -> Given | None:
    """The model that an adapter was trained on, as its lineage says; None for one from elsewhere."""
    return next((given for given in adapter.lineage if given.type.startswith("model/")), None)


def _root(given: Given) -> Given:
    """The model that quantised and converted forms come from: an adapter fits them as well."""
    while given.lineage:
        given = given.lineage[0]
    return given


def _known(given: Given) -> bool:
    pin = _root(given).pin
    return pin is not None and bool(pin.identity)


def _identity(given: Given) -> str:
    pin = _root(given).pin
    return "" if pin is None else pin.identity


def _name(given: Given) -> str:
    pin = _root(given).pin
    return given.name if pin is None else pin.ref


def _origin_name(model: Given) -> str | None:
    pin = _root(model).pin
    if pin is None or not pin.ref.startswith(("hf:", "modelscope:")):
        return None
    return _last(pin.ref.partition(":")[2].partition("@")[0])


def _last(name: str | None) -> str | None:
    return name.rstrip("/").rpartition("/")[2].lower() if name else None
