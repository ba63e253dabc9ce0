"""How the page looks. Light or dark as the reader's system is; one column on a phone."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --back: #f6f7f9; --paper: #fdfdfe; --ink: #1b2330; --muted: #667080; --grid: #dde2e9; --shade: #eef1f5;
  --good: #0a6b4f; --bad: #b3261e; --warn: #8a5a00; --accent: #0072b2;
  --series-0: #0072b2; --series-1: #d55e00; --series-2: #009e73; --series-3: #b8548c;
  --series-4: #b57600; --series-5: #3a93cc; --series-6: #6b5fc7; --series-7: #5f6b78;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #11151b; --paper: #181d25; --ink: #e6eaf0; --muted: #96a1b0; --grid: #2c3440; --shade: #222934;
    --good: #4fd1a5; --bad: #ff8a80; --warn: #f2b84b; --accent: #62b5ef;
    --series-0: #5fb4ee; --series-1: #ff9248; --series-2: #3fcea2; --series-3: #e59ac5;
    --series-4: #e8b23f; --series-5: #9bd6ff; --series-6: #aea5f5; --series-7: #a5b1be;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem clamp(0.8rem, 3vw, 2.5rem) 4rem; max-width: 78rem;
  background: var(--back); color: var(--ink); overflow-wrap: anywhere;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif;
}
h1, h2, h3, h4 { line-height: 1.2; margin: 2.2em 0 0.6em; text-wrap: balance; }
h1 { font-size: 1.7rem; margin-top: 0.2em; }
h2 { font-size: 1.4rem; }
h3 { font-size: 1.12rem; }
h4 { font-size: 1rem; color: var(--muted); margin: 1.2em 0 0.4em; }
p, ul { max-width: 70ch; }
a { color: var(--accent); }
.muted { color: var(--muted); font-weight: normal; }
.banner { padding: 0.6rem 0.9rem; border-left: 4px solid; background: var(--paper); margin: 0.7rem 0; max-width: none; }
.good { border-color: var(--good); }
.bad { border-color: var(--bad); color: var(--bad); font-weight: 600; }
.warn { border-color: var(--warn); color: var(--warn); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: 0.8rem; margin: 1.2rem 0; }
.tile { background: var(--paper); border-radius: 10px; padding: 0.8rem 1rem; }
.tile b { display: block; font-size: 1.4rem; line-height: 1.25; }
.tile b small { font-size: 0.85rem; font-weight: normal; color: var(--muted); white-space: nowrap; }
.tile span { color: var(--muted); font-size: 0.88rem; }
.pictures { columns: 2 26rem; column-gap: 1rem; margin-top: 1.5rem; }
figure { margin: 0 0 1rem; break-inside: avoid; background: var(--paper); border-radius: 10px; padding: 1rem; }
figure h4 { margin: 0 0 0.5rem; color: var(--ink); }
figcaption { color: var(--muted); font-size: 0.88rem; line-height: 1.45; margin-top: 0.5rem; }
svg { display: block; width: 100%; height: auto; stroke-linejoin: round; font-family: inherit; }
.scroll { overflow-x: auto; background: var(--paper); border-radius: 10px; padding: 0.4rem 0.8rem; margin: 0.6rem 0; }
table { border-collapse: collapse; width: 100%; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.28rem 0.55rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--grid); }
th:first-child { position: sticky; left: 0; background: var(--paper); text-align: left; font-weight: normal; }
thead th, thead th:first-child { color: var(--muted); font-weight: 600; }
.brief { width: fit-content; max-width: 100%; }
.brief table { width: auto; }
.brief td { white-space: normal; }
tbody:last-child tr:last-child > * { border-bottom: 0; }
.name th { font-weight: 600; padding-top: 0.8rem; white-space: normal; }
.name th:first-child { position: static; font-weight: 600; }
.total > * { font-weight: 600; }
.total th:first-child { font-weight: 600; }
.uncounted td { color: var(--muted); font-weight: normal; }
.note, .scroll:not(.brief) thead th:last-child { text-align: left; }
.uncounted .note { color: var(--warn); }
td small { color: var(--muted); font-weight: normal; }
details { margin: 0.8rem 0; }
summary { cursor: pointer; font-weight: 600; padding: 0.3rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1rem; font-size: 0.92rem; margin: 0.6rem 0; }
dt { color: var(--muted); }
dd { margin: 0; }
@media (max-width: 34rem) {
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: 0.5rem; }
  figure { padding: 0.7rem 0.6rem; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tile b { font-size: 1.25rem; }
}
@media print {
  body { background: none; max-width: none; }
  tr { break-inside: avoid; }
}
"""
