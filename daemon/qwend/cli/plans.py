"""A plan as text: what would be done, why, and what it takes."""

from __future__ import annotations

from qwend.cli import progress
from qwend.cli.terminal import clean, size, table
from qwend.client import Client, Json
from qwend.errors import OutOfResource, QwendError


def summary(answer: Json) -> list[str]:
    """The plan in a few lines, for `up`: what is done and why; what stays is only counted."""
    plan = answer["plan"]
    engines = {step["name"]: step["engine"] for step in answer["compiled"]["steps"]}
    todo = [action for action in plan["actions"] if action["verb"] != "keep"]
    kept = len(plan["actions"]) - len(todo)
    stays = "" if not kept else ", 1 stays as it is" if kept == 1 else f", {kept} stay as they are"
    lines = [f"{plan['recipe']}: {len(todo)} to do{stays}"]
    wide = max((len(action["verb"]) for action in todo), default=0)
    for action in todo:
        engine = f" ({engines[action['step']]})" if action["step"] in engines else ""
        reason = "; ".join(text for text in (action["why"], action["detail"]) if text)
        lines.append(
            f"  {action['verb']:<{wide}}  {action['step']}{engine}" + (f": {reason}" if reason else "")
        )
    return [clean(line, lines=False) for line in lines + needs(answer) + remarks(answer)]


def full(answer: Json) -> list[str]:
    """The plan with every step, for `plan`."""
    plan, compiled = answer["plan"], answer["compiled"]
    steps = {step["name"]: step for step in compiled["steps"]}
    rows = [_row(action, steps.get(action["step"], {})) for action in plan["actions"]]
    headers = ("DO", "STEP", "ENGINE", "RUNTIME", "MEMORY", "GPU MEMORY", "DISK", "WHY")
    lines = table(rows, headers, right=("MEMORY", "GPU MEMORY", "DISK")).splitlines()
    chosen: dict[str, list[str]] = {}
    for step in compiled["steps"]:
        if step["chosen"] and step["kind"] != "source":
            chosen.setdefault(step["chosen"], []).append(step["name"])
    lines += [""] if chosen else []
    lines += [
        clean(f"{text} ({', '.join(names)})" if len(chosen) > 1 else text, lines=False)
        for text, names in chosen.items()
    ]
    notices = (f"{step['name']}: {notice}" for step in compiled["steps"] for notice in step["notices"])
    lines += [clean(notice, lines=False) for notice in notices if notice not in plan["warnings"]]
    return lines + [clean(line, lines=False) for line in needs(answer) + remarks(answer)]


def _row(action: Json, step: Json) -> tuple[object, ...]:
    resources = step.get("resources") or {}
    runtime = f"{step['runtime']} {step['flavour']}" if step and step["kind"] != "source" else ""
    why = "; ".join(text for text in (action["why"], action["detail"]) if text)
    return (
        action["verb"], action["step"], step.get("engine"), runtime, size(resources.get("memory")),
        size(resources.get("gpu_memory")), size(resources.get("disk")), why,
    )  # fmt: skip


def needs(answer: Json) -> list[str]:
    """What the plan takes of the network and the disk."""
    plan = answer["plan"]
    parts = [
        f"{size(plan[key])} {word}"
        for key, word in (("download", "to download"), ("disk", "of disk"))
        if plan[key]
    ]
    return [f"needs {', '.join(parts)}"] if parts else []


def remarks(answer: Json) -> list[str]:
    """Warnings of the recipe and of the plan. What keeps it from starting is for `refuse` to say."""
    warnings = dict.fromkeys([*answer["compiled"]["warnings"], *answer["plan"]["warnings"]])
    return [f"warning: {text}" for text in warnings]


def refuse(answer: Json) -> None:
    """Raises if the plan cannot start here."""
    blockers = answer["plan"]["blockers"]
    what = f"{answer['plan']['recipe']} cannot start here"
    if len(blockers) == 1:
        raise OutOfResource(f"{what}: {blockers[0]}", code="blocked")
    if blockers:
        raise OutOfResource(what, code="blocked", details=tuple(OutOfResource(text) for text in blockers))


def exported(client: Client, request: Json, form: str) -> Json:
    """A recipe for those who run it without qwend; what has to be asked for it is shown as it goes."""
    with progress.display() as shown:
        end = progress.follow(client.stream("POST", "/v1/export", {**request, "form": form}), shown)
    if not end:
        raise QwendError("the daemon's answer holds nothing to export", code="bad-answer")
    return end


def planned(client: Client, request: Json) -> Json:
    """The plan of a request; what has to be asked for it is shown as it goes."""
    found: Json | None = None
    with progress.display() as shown:
        for item in client.stream("POST", "/v1/plan", request):
            if "progress" in item:
                shown.progress(item["progress"])
            elif "notice" in item:
                shown.say(item["notice"], colour="yellow")
            elif "plan" in item:
                found = item
    if found is None:
        raise QwendError("the daemon's answer holds no plan", code="bad-answer")
    return found
