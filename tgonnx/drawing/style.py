"""The style sheets: of pictures, and of the page around them. Light and dark, as the reader's system asks for."""

from __future__ import annotations

# colours of groups that several layers are in: for light and for dark surroundings
_GROUPS = (
    ("#0b6fb8", "#58a6e8"), ("#c2410c", "#f0883e"), ("#0f7b52", "#3fb984"), ("#a2307f", "#e27fc4"),
    ("#8a6100", "#d6a521"), ("#5b45c9", "#a392f5"), ("#0e7490", "#45bcd6"), ("#9f1239", "#f4738c"),
)  # fmt: skip
COLOURS = len(_GROUPS)


def _rules(dark: bool) -> str:
    """Colours by class: `ink` and `dim` are text, `bar` is what is left, `track` what there was."""
    paper, ink, dim, track, grid, bar, still = (
        ("#0d1117", "#e6edf3", "#9aa5b1", "#2a313a", "#30363d", "#8b96a3", "#57606a")
        if dark
        else ("#ffffff", "#1f2328", "#59636e", "#e3e7ec", "#d8dee4", "#6b7785", "#b6bec8")
    )
    rules = {
        "paper": f"fill:{paper}", "ink": f"fill:{ink}", "dim": f"fill:{dim}", "track": f"fill:{track}",
        "bar": f"fill:{bar}", "still": f"fill:{still}", "grid": f"stroke:{grid};stroke-width:1",
        "axis": f"stroke:{dim};stroke-width:1;stroke-dasharray:4 4", "hollow": f"fill:{paper};stroke-width:2",
        "leads": f"stroke:{track};stroke-width:1",
    }  # fmt: skip
    for number, pair in enumerate(_GROUPS):
        colour = pair[dark]
        rules |= {f"c{number}": f"fill:{colour}", f"s{number}": f"stroke:{colour};stroke-width:2"}
    return "".join(f".tgx .{name}{{{rule}}}" for name, rule in rules.items())


DRAWING = (
    ".tgx{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}"
    ".tgx .small{font-size:11px}.tgx .strong{font-weight:600}"
    ".tgx .mono{font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:11px}"
    f"{_rules(False)}@media(prefers-color-scheme:dark){{{_rules(True)}}}"
)

PAGE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1f2328;--dim:#59636e;--line:#d8dee4;--panel:#f6f8fa;
--warn:#fff6dc;--edge:#d4a72c;--good:#0f7b52;--bad:#b42318;--link:#0b6fb8}
@media(prefers-color-scheme:dark){:root{--paper:#0d1117;--ink:#e6edf3;--dim:#9aa5b1;--line:#30363d;--panel:#161b22;
--warn:#2b2411;--edge:#9e7b1d;--good:#3fb984;--bad:#ff8f85;--link:#58a6e8}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:920px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:1.5rem;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:36px 0 8px;padding-top:12px;border-top:1px solid var(--line)}
h3{font-size:.95rem;margin:20px 0 4px}
p{margin:6px 0}
a{color:var(--link)}
.dim{color:var(--dim)}
.note{background:var(--warn);border-left:4px solid var(--edge);padding:8px 12px;margin:8px 0;overflow-wrap:anywhere}
.ok{color:var(--good);font-weight:600}.no{color:var(--bad);font-weight:600}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.875rem}
th,td{text-align:left;padding:5px 10px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
th{font-weight:600;color:var(--dim)}
tr>:last-child{padding-right:0}
td{overflow-wrap:anywhere}
td.word:first-child{min-width:8em}
.wide td.word:first-child{min-width:15em}
svg{display:block;max-width:100%;overflow:visible}
summary{cursor:pointer;color:var(--dim);margin:8px 0}
pre{background:var(--panel);padding:12px;overflow-x:auto;font-size:.8rem;line-height:1.45;border-radius:6px}
@media print{main{max-width:none}details>*{display:block}}
"""
