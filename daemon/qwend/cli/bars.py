"""Progress bars for a terminal. The only module that imports rich."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from qwend.cli.progress import amounts, describe, state_colour, subject
from qwend.cli.terminal import clean
from qwend.cli.verbs import spelled
from qwend.client import Json

_OVER = {"ready", "succeeded", "cached", "failed", "cancelled", "stopped", "built"}


class _Amounts(TextColumn):
    """What `amounts` says of the task's last news; in a line below, what the step says (the loss of a training)."""

    def render(self, task: Task) -> Text:
        lines = [clean(part, lines=False) for part in task.fields.get("amounts", ())]
        return Text("\n".join(lines), style="dim", no_wrap=True)


class Bars:
    """One bar per thing that is under way; what is over leaves a line."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            _Amounts(""),
            console=self._console,
            transient=True,
            refresh_per_second=8,
        )
        self._tasks: dict[str, TaskID] = {}
        self._said = ""

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def progress(self, news: Json) -> None:
        name = news.get("subject", "")
        label = clean(f"{subject(name)} {news.get('phase', '')}".strip(), lines=False)
        detail = [part for part in (amounts(news), news.get("message")) if part]
        task = self._task(name, label)
        self._progress.update(
            task, description=label, completed=news.get("done") or 0, total=news.get("total"), amounts=detail
        )

    def event(self, event: Json) -> None:
        line = describe(event)
        noun, _, what = event["kind"].partition(".")
        state = (event.get("row") or {}).get("state") or what
        name = f"image {event['subject']}" if noun == "image" else event["subject"]  # as progress calls it
        if state in _OVER:
            self._drop(name)
        elif noun in {"service", "job", "image"}:
            self._task(name, clean(line or f"{subject(event['subject'])}: {state}", lines=False))
        if line is not None and state not in {"running", "starting", "building"}:
            self.say(line, colour=state_colour(line))

    def say(self, text: str, *, colour: str | None = None) -> None:
        if text != self._said:
            self._console.print(Text(spelled(clean(text, lines=False)), style=colour or ""))
        self._said = text

    def _task(self, name: str, label: str) -> TaskID:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(label, total=None, amounts=())
        return self._tasks[name]

    def _drop(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            self._progress.remove_task(task)
