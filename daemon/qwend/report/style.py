"""The page's style: light and dark by the reader's setting, narrow and wide, on paper too."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark;
  --page: #fbfbfa; --card: #ffffff; --ink: #1d1d1b; --soft: #5d5d58; --rule: #e2e1dc; --grid: #ecebe6; --code: #f3f2ee;
  --good: #1f7a3d; --bad: #b3261e; --warn: #8a5a00;
  --s0: #2a66c8; --s1: #b4530c; --s2: #1f7f6a; --s3: #8a3fa8; --s4: #9c7a00; --s5: #c0356b;
  --s6: #4d6a1f; --s7: #6b5b52; }
@media (prefers-color-scheme: dark) { :root {
  --page: #161615; --card: #1f1f1d; --ink: #ecebe7; --soft: #a8a7a0; --rule: #363632; --grid: #2c2c29; --code: #282826;
  --good: #6fce8c; --bad: #ff8a80; --warn: #e5b454;
  --s0: #7fb0ff; --s1: #f0a063; --s2: #62cdb3; --s3: #d3a0ea; --s4: #e0c452; --s5: #f58bb0;
  --s6: #a9cf6b; --s7: #c9b8ad; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Noto Sans", "Noto Sans CJK SC", sans-serif; overflow-wrap: break-word; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 1.2rem; margin: 40px 0 12px; }
h3 { font-size: 1rem; margin: 0 0 8px; font-weight: 600; }
p { margin: 0 0 12px; max-width: 75ch; }
.soft { color: var(--soft); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 16px; margin: 0 0 16px; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 16px;
  margin: 0 0 16px; }
.plots .card { margin: 0; min-width: 0; }
.wide { overflow-x: auto; }
svg { display: block; width: 100%; height: auto; }
svg.lineage { width: auto; max-width: none; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .tick, svg .title, svg .what { fill: var(--soft); }
svg .what { font-size: 11px; } svg .name { font-size: 13px; font-weight: 600; }
svg .grid { stroke: var(--grid); } svg .base { stroke: var(--rule); }
svg .level { stroke: var(--soft); stroke-dasharray: 5 4; }
svg .thread { fill: none; stroke: var(--s0); stroke-opacity: .35; stroke-width: 1.5; }
svg .line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
svg .mark { fill: currentColor; stroke: var(--card); stroke-width: 1.5; } svg .bar { fill: currentColor; }
.s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); }
.s3 { color: var(--s3); } .s4 { color: var(--s4); } .s5 { color: var(--s5); }
.s6 { color: var(--s6); } .s7 { color: var(--s7); } svg .dashed { stroke-dasharray: 6 4; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; list-style: none; margin: 0 0 8px; padding: 0;
  font-size: .85rem; }
.key { display: inline-block; width: 14px; height: 4px; border-radius: 2px; background: currentColor; margin-right: 6px;
  vertical-align: middle; }
svg .edge { fill: none; stroke: var(--soft); stroke-opacity: .55; stroke-width: 1.5; }
svg .box rect { fill: var(--card); stroke: var(--rule); stroke-width: 1.5; }
svg .box.source rect { stroke-dasharray: 4 3; } svg .box.service rect { stroke: var(--s0); }
svg .box.bad rect { stroke: var(--bad); }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 12px; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; }
th:first-child, td:first-child, .text th, .text td { text-align: left; }
tbody tr:last-child td { border-bottom: 0; } tbody tr.first td { color: var(--soft); }
td.long { white-space: normal; overflow-wrap: anywhere; min-width: 16ch; font-size: .78rem;
  font-family: ui-monospace, monospace; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 16px; margin: 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; }
.good { color: var(--good); } .bad { color: var(--bad); }
pre { background: var(--code); border-radius: 8px; padding: 12px; overflow-x: auto; margin: 0 0 12px;
  font-size: .82rem; }
summary { cursor: pointer; font-weight: 600; } details > *:not(summary) { margin-top: 12px; }
@media (max-width: 560px) { main { padding: 20px 12px 40px; } .card { padding: 12px; } th, td { padding: 6px 8px; }
  svg .tick, svg .label, svg .title, svg .value { font-size: 15px; } }
@media print { body { background: #fff; } .card { break-inside: avoid; } }
"""
