"""Asks Go's own text/template, where Go is installed, what it renders of a template and Ollama's data."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

GO = """
package main

import (
	"encoding/json"
	"os"
	"text/template"
)

type Raw map[string]any

func (r Raw) String() string { b, _ := json.Marshal(map[string]any(r)); return string(b) }

type Call struct{ Function struct{ Name string; Arguments Raw } }
type Message struct{ Role, Content, Thinking string; ToolCalls []Call }
type Tool struct{ Type string; Function Raw }
type Data struct{ System string; Messages []Message; Tools []Tool; Think, IsThinkSet bool; Response string }

func main() {
	var given []struct{ Template string; Data Data }
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil { panic(err) }
	said := []string{}
	for _, one := range given {
		made := template.Must(template.New("").Option("missingkey=zero").Parse(one.Template))
		var b Buffer
		if err := made.Execute(&b, one.Data); err != nil { panic(err) }
		said = append(said, string(b))
	}
	json.NewEncoder(os.Stdout).Encode(said)
}

type Buffer []byte

func (b *Buffer) Write(p []byte) (int, error) { *b = append(*b, p...); return len(p), nil }
"""


def ask_go(folder: Path, asked: list[dict[str, Any]]) -> list[str]:
    """What Go's text/template renders of templates and their data."""
    (folder / "main.go").write_text(GO)
    env = {
        **os.environ,
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "GOCACHE": str(folder / "cache"),
        "HOME": str(folder),
    }
    ran = subprocess.run(
        ["go", "run", "main.go"],
        cwd=folder,
        env=env,
        input=json.dumps(asked),
        text=True,
        capture_output=True,
    )
    assert ran.returncode == 0, ran.stderr
    said: list[str] = json.loads(ran.stdout)
    return said


def normal(text: str) -> str:
    """Go's maps print with their keys sorted."""
    lines = []
    for line in text.split("\n"):
        head, brace, rest = line.partition('{"')
        try:
            lines.append(head + json.dumps(json.loads(brace + rest), sort_keys=True) if brace else line)
        except ValueError:
            lines.append(line)
    return "\n".join(lines)
