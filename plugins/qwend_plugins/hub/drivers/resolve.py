"""Pin one reference to a hub: its commit, the files that are wanted with size and hash, and what their headers say.

Runs inside the hub image beside `hubs.py`, `hub_hugging_face.py`, `hub_modelscope.py` and `facts.py`.

    python resolve.py hf:Qwen/Qwen2.5-0.5B-Instruct --want model/safetensors --want model/gguf
    python resolve.py "modelscope:modelscope/wikitext?subset=wikitext-2-raw-v1&split=test" --kind dataset

The last line of stdout is a pin as JSON: ``{"ref", "identity", "type", "revision", "files": [{"path", "size", "sha256",
"oid", "local"}], "facts": {…}, "local", "notice"}``. ``local`` of a file is a complete copy in the user's own cache.
Where the hub cannot be reached, a Hugging Face cache that holds the revision answers, and ``notice`` says so.
"""

from __future__ import annotations

import argparse
import difflib
import fnmatch
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from facts import checkpoint, config_type, gguf_model
from hubs import Hub, HubError, Reference, RemoteFile, Snapshot, fail, open_hub, read_token, report

SIDE_FILES = (".json", ".txt", ".jinja", ".model", ".tiktoken")  # configuration and tokenizer of a checkpoint
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
DATA = (".parquet", ".jsonl", ".json", ".csv", ".tsv", ".txt")
SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
NOT_DATA = re.compile(r"(^|/)(dataset_infos?|dataset_dict|state|config|metadata)\.json$")
# A split is a word of the path (data_train.jsonl); a subset is a folder's or file's whole name but for split and shard.
SPLIT = r"(^|[/._-]){}([/._-]|$)"
SUBSET = r"(^|/){}(?=[/.]|-\d{{5}}|[-_](?:train|test|valid|validation|dev)\b)"
ADAPTER = "adapter_config.json"
LISTED = 12  # so many names stand in a message


def choose_model(
    snapshot: Snapshot, reference: Reference, wants: list[str], allow_pickle: bool
) -> tuple[str, list[RemoteFile]]:
    """The artifact type and files that a reference to a model means.

    `wants` are artifact types, best first; without any, a checkpoint goes before a GGUF file.
    """
    files = list(snapshot.files)
    if reference.file:
        files = _named(files, reference)
        if len(files) == 1 and files[0].path.endswith(".gguf"):
            return "model/gguf", _all_shards(snapshot.files, files[0])
    top = [file for file in files if "/" not in _below(file, reference)]
    weights = [file for file in top if file.path.endswith(".safetensors") and "consolidated" not in file.path]
    models = _gguf_models(files)
    pickles = [file for file in top if file.path.endswith(PICKLES)]
    offers: dict[str, list[RemoteFile]] = {}
    if any(_below(file, reference) == ADAPTER for file in top) and (weights or (allow_pickle and pickles)):
        offers["adapter/lora"] = weights or pickles
    elif weights or (allow_pickle and pickles):
        offers["model/safetensors"] = weights or pickles
    if models:
        offers["model/gguf"] = models
    # What a checkpoint was quantised with stands in its config.json, which is read later.
    family = {want if want in ("model/gguf", "adapter/lora") else "model/safetensors": None for want in wants}
    kind = next((want for want in family if want in offers), next(iter(offers), None))
    if kind is None:
        raise _nothing(reference, pickles)
    if kind != "model/gguf":
        side = [file for file in top if file.path.endswith(SIDE_FILES) and not file.path.endswith(PICKLES)]
        return kind, sorted({*offers[kind], *side}, key=lambda file: file.path)
    if len(models) > 1:
        names = [file.path for file in models]
        raise HubError(
            "ambiguous",
            f"{reference.repo} holds {len(names)} GGUF models: {_listing(names)}",
            f"name one: {reference.scheme}:{reference.repo}/{_favourite(names)}",
        )
    return kind, _all_shards(snapshot.files, models[0])


def _nothing(reference: Reference, pickles: list[RemoteFile]) -> HubError:
    if pickles:
        return HubError(
            "pickle-only",
            f"{reference.repo} holds only pickled weights ({pickles[0].path}), which can run code when they are read",
            "choose a repository with safetensors or GGUF, or allow it with allow_pickle: true",
        )
    return HubError("nothing-usable", f"{reference.repo} holds neither safetensors nor GGUF weights")


def _named(files: list[RemoteFile], reference: Reference) -> list[RemoteFile]:
    """The file that a reference names, or the files of the folder or pattern that it names."""
    name = str(reference.file)
    found = [file for file in files if file.path == name]
    found = found or [file for file in files if file.path.startswith(name.rstrip("/") + "/")]
    found = found or [file for file in files if fnmatch.fnmatchcase(file.path, name)]
    if found:
        return found
    names = [file.path for file in files]
    same = [path for path in names if path.lower() == name.lower()]
    close = (same or difflib.get_close_matches(name, names, 1, 0.5))[:1]
    raise HubError(
        "file-not-found",
        f"{reference.repo} has no file {name!r}",
        f"did you mean {close[0]}?" if close else f"it has {_listing(names)}",
    )


def _below(file: RemoteFile, reference: Reference) -> str:
    """The path below the folder that the reference names, if it names one."""
    folder = (reference.file or "").rstrip("/") + "/"
    return file.path.removeprefix(folder) if reference.file else file.path


def _gguf_models(files: list[RemoteFile]) -> list[RemoteFile]:
    """One file for each GGUF model: itself or its first shard; no vision projectors or importance matrices."""
    models = [file for file in files if file.path.endswith(".gguf")]
    models = [file for file in models if not re.search(r"(^|/)mmproj|imatrix", file.path)]
    return [file for file in models if not (shard := SHARD.search(file.path)) or int(shard[1]) == 1]


def _all_shards(files: tuple[RemoteFile, ...], first: RemoteFile) -> list[RemoteFile]:
    shard = SHARD.search(first.path)
    if shard is None:
        return [first]
    stem, total = first.path[: shard.start()], int(shard[2])
    wanted = [f"{stem}-{number:05}-of-{total:05}.gguf" for number in range(1, total + 1)]
    found = {file.path: file for file in files}
    if missing := [path for path in wanted if path not in found]:
        raise HubError("nothing-usable", f"the repository lacks {missing[0]}, a part of {first.path}")
    return [found[path] for path in wanted]


def _favourite(names: list[str]) -> str:
    return next((name for name in names if re.search("q4_k_m", name, re.IGNORECASE)), names[0])


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def choose_data(snapshot: Snapshot, reference: Reference) -> list[RemoteFile]:
    """The data files of a dataset's subset and split.

    A dataset's card maps them (`configs:`); without one, the names of folders and files tell, as `datasets` reads them.
    """
    files = [file for file in snapshot.files if file.path.endswith(DATA) and not NOT_DATA.search(file.path)]
    if reference.file:
        return _named(files, reference)
    subset, split = reference.query.get("subset"), reference.query.get("split")
    patterns = _card_patterns(snapshot.about.get("configs"), subset, split)
    if patterns is not None:
        files = [
            file for file in files if any(fnmatch.fnmatchcase(file.path, pattern) for pattern in patterns)
        ]
    for kind, value, pattern in (("subset", subset, SUBSET), ("split", split, SPLIT)):
        if value and patterns is None:
            kept = [file for file in files if re.search(pattern.format(re.escape(value)), file.path)]
            if not kept:
                raise HubError(
                    "file-not-found", f"{reference.repo} has no data for {kind} {value!r}", _has(files)
                )
            files = kept
    if not files:
        raise HubError(
            "nothing-usable", f"{reference.repo} holds no {', '.join(DATA)} files for this reference"
        )
    parquet = [file for file in files if file.path.endswith(".parquet")]
    return parquet or files


def _has(files: list[RemoteFile]) -> str:
    return f"it has {_listing([file.path for file in files])}"


def _card_patterns(configs: Any, subset: str | None, split: str | None) -> list[str] | None:
    """The patterns that a card gives for a subset and split; None if it gives none."""
    if not isinstance(configs, list):
        return None
    rows = [row for row in configs if isinstance(row, dict)]
    if subset is None:
        rows = [row for row in rows if row.get("default") or row.get("config_name") == "default"] or rows[:1]
    else:
        rows = [row for row in rows if row.get("config_name") == subset]
    patterns: list[str] = []
    for entry in (item for row in rows for item in _as_list(row.get("data_files"))):
        if isinstance(entry, str):
            patterns.append(entry)
        elif isinstance(entry, dict) and split in (None, entry.get("split")):
            patterns += [path for path in _as_list(entry.get("path")) if isinstance(path, str)]
    return patterns or None


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def data_type(files: list[RemoteFile], hub: Hub, revision: str, wants: list[str]) -> str:
    """The artifact type of a dataset: what the one reader wants, else what its first row looks like."""
    kinds = [want for want in wants if want.startswith("dataset/")]
    if len(kinds) == 1:
        return kinds[0]
    head = hub.read(files[0].path, revision, 0, 4096).decode("utf-8", "replace")
    if re.search(r'"(messages|conversations|instruction|output)"\s*:', head):
        return "dataset/sft"
    return "dataset/prompts" if re.search(r'"prompt"\s*:', head) else "dataset/text"


def pin(reference: Reference, text: str, args: argparse.Namespace) -> dict[str, Any]:
    """Ask the hub, or the cache in its place, and put the pin together."""
    hub = open_hub(reference, args.kind, read_token(args.token_file))
    notice = None
    try:
        if args.offline:
            raise HubError("no-network", f"offline: {hub.name} is not asked", "drop --offline")
        snapshot = hub.snapshot(reference.revision)
    except HubError as error:
        kept = hub.cached_snapshot(reference.revision) if error.kind == "no-network" else None
        if kept is None:
            raise
        snapshot, notice = kept, f"{error}: using the copy in the cache, commit {kept.revision[:12]}"
    report(progress={"phase": "resolve", "done": 1, "total": 3, "unit": "step"})
    if args.kind == "dataset":
        files = choose_data(snapshot, reference)
        local = {file.path: hub.cached(file, snapshot.revision) for file in files}
        type_ = args.type or (
            data_type(files, hub, snapshot.revision, args.want) if notice is None else "dataset/text"
        )
        facts: dict[str, Any] = {"bytes": sum(file.size or 0 for file in files)}
    else:
        type_, files = choose_model(snapshot, reference, args.want, args.allow_pickle)
        local = {file.path: hub.cached(file, snapshot.revision) for file in files}
        report(progress={"phase": "resolve", "done": 2, "total": 3, "unit": "step"})
        if type_ == "model/gguf":
            facts = gguf_model(hub, snapshot, files, local)
        else:
            config, facts = checkpoint(hub, snapshot, files, local)
            type_ = args.type or (config_type(config) if type_ == "model/safetensors" else type_)
    report(progress={"phase": "resolve", "done": 3, "total": 3, "unit": "step"})
    exact = replace(reference, revision=snapshot.revision)
    suffix = (f"/{exact.file}" if exact.file else "") + _query(exact)
    return {
        "ref": text,
        "identity": f"{exact.scheme}:{exact.repo}@{exact.revision}{suffix}",
        "type": type_,
        "revision": snapshot.revision,
        "files": [_row(file, local.get(file.path)) for file in files],
        "facts": {key: value for key, value in facts.items() if value is not None},
        "local": _folder(files, local),
        "notice": notice,
    }


def _query(reference: Reference) -> str:
    return (
        "?" + "&".join(f"{key}={value}" for key, value in sorted(reference.query.items()))
        if reference.query
        else ""
    )


def _row(file: RemoteFile, local: Path | None) -> dict[str, Any]:
    row = {"path": file.path, "size": file.size, "sha256": file.sha256, "oid": file.oid}
    return {key: value for key, value in row.items() if value is not None} | (
        {"local": str(local)} if local else {}
    )


def _folder(files: list[RemoteFile], local: dict[str, Path | None]) -> str | None:
    """The folder that holds all files under their own paths, if one does."""
    roots = {str(path)[: -len(file.path) - 1] if (path := local[file.path]) else None for file in files}
    root = roots.pop() if len(roots) == 1 else None
    return (
        root
        if root and all(str(local[file.path]) == os.path.join(root, file.path) for file in files)
        else None
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Pin one reference to a model or dataset on a hub.")
    parser.add_argument("reference", help="hf:… or modelscope:…")
    parser.add_argument("--kind", choices=("model", "dataset"), default="model")
    parser.add_argument(
        "--want", action="append", default=[], help="an artifact type that is of use, best first"
    )
    parser.add_argument("--type", help="the artifact type, where the caller knows better")
    parser.add_argument(
        "--allow-pickle", action="store_true", help="accept .bin, .pt, .pth and .ckpt weights"
    )
    parser.add_argument("--offline", action="store_true", help="ask only the user's cache")
    parser.add_argument("--token-file", type=Path, help="a file that holds the hub's access token")
    args = parser.parse_args(argv)
    try:
        print(json.dumps(pin(Reference.parse(args.reference), args.reference, args), ensure_ascii=False))
    except HubError as error:
        fail("resolve", error)


if __name__ == "__main__":
    main()
