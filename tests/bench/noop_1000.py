"""An `up` that has nothing to do, of 1,000 steps, against snakemake's no-op of the same graph.

    python tests/bench/noop_1000.py

The graph is 100 chains of 10 jobs. CPU counts everything: the client, the daemon, its planner worker if it wakes
one; and for snakemake its process with its children. snakemake is installed into the cache folder once.
A missed bound (0.1) is exit code 1.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.house import CACHE, child_cpu_ms, house, tell

BOUND = 0.1
CHAINS, LENGTH, ROUNDS = 100, 10, 5


def recipe() -> str:
    lines = ["name: thousand", "steps:"]
    for chain in range(CHAINS):
        for link in range(LENGTH):
            uses = "toy/make" if link == 0 else f"toy/job, from: c{chain}_{link - 1}"
            lines.append(f"  c{chain}_{link}: {{uses: {uses}, with: {{text: c{chain}_{link}}}}}")
    return "\n".join(lines) + "\n"


def snakefile() -> str:
    rules = [f"rule all:\n    input: {[f'c{chain}_{LENGTH - 1}' for chain in range(CHAINS)]!r}\n"]
    for chain in range(CHAINS):
        for link in range(LENGTH):
            before = f"    input: 'c{chain}_{link - 1}'\n" if link else ""
            rules.append(
                f"rule r{chain}_{link}:\n{before}    output: 'c{chain}_{link}'\n    shell: 'echo x > {{output}}'\n"
            )
    return "\n".join(rules)


def snakemake() -> Path:
    program = CACHE / "peers" / "snakemake" / "bin" / "snakemake"
    if not program.exists():
        folder = str(program.parents[1])
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([f"{folder}/bin/pip", "install", "-q", "snakemake"], check=True)
    return program


def main() -> int:
    peer = snakemake()
    with house(toy=True) as qwend:
        file = qwend.folder / "thousand.yaml"
        file.write_text(recipe())
        qwend.run("up", str(file))
        ours = []
        for _ in range(ROUNDS):
            before = qwend.cpu_ms()
            client = child_cpu_ms(qwend.command("up", str(file)), qwend.environ)
            ours.append(client + qwend.cpu_ms() - before)
        folder = qwend.folder / "peer"
        folder.mkdir()
        (folder / "Snakefile").write_text(snakefile())
        for chain in range(CHAINS):
            for link in range(LENGTH):
                (folder / f"c{chain}_{link}").write_text("x\n")
        command = [str(peer), "--cores", "1", "--quiet", "all"]
        subprocess.run([str(peer), "--cores", "1", "--touch", "--quiet", "all"], cwd=folder, check=False)
        theirs = [child_cpu_ms(command, cwd=folder) for _ in range(ROUNDS)]
    print(f"{'snakemake, nothing to do':<40} {statistics.median(theirs):10.1f} ms")
    ratio = statistics.median(ours) / statistics.median(theirs)
    return (
        0 if tell("qwend up, nothing to do", statistics.median(ours), "ms", ratio, "snakemake", BOUND) else 1
    )


if __name__ == "__main__":
    sys.exit(main())
