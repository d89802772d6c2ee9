"""Self-contained HTML pages: one file, no script, no font and no picture from elsewhere; for desks and for phones."""

import base64
import html
from collections.abc import Iterable, Sequence

__all__ = ["figure", "grid", "page", "section", "table", "tiles"]


def page(title: str, lead: str, body: Iterable[str]) -> bytes:
    """A whole page.

    Args:
        title: Its heading, as text.
        lead: A sentence below it, as text.
        body: HTML from the functions of this module.
    """
    shown = html.escape(title)
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{shown}</title><style>{_STYLE}</style></head><body><header><h1>{shown}</h1>"
        f"<p class=lead>{html.escape(lead)}</p></header><main>{''.join(body)}</main></body></html>"
    ).encode()


def section(heading: str, *parts: str, note: str = "") -> str:
    """A heading, a sentence that says how to read what follows, and the parts; nothing where there are no parts."""
    if not any(parts):
        return ""
    said = f"<p class=note>{html.escape(note)}</p>" if note else ""
    return f"<section><h2>{html.escape(heading)}</h2>{said}{''.join(parts)}</section>"


def tiles(facts: Iterable[tuple[str, str, str]]) -> str:
    """The few numbers that matter, large: (what, number, its interval or unit)."""
    shown = "".join(
        f"<div class=tile><span>{html.escape(what)}</span><b>{html.escape(number)}</b><small>{html.escape(more)}</small></div>"
        for what, number, more in facts
    )
    return f"<div class=tiles>{shown}</div>" if shown else ""


def figure(picture: bytes, said: str, caption: str = "", wide: bool = False) -> str:
    """A picture, PNG or SVG by its first bytes.

    Args:
        picture: The file's bytes.
        said: What is read aloud in its place, as text.
        caption: What stands below it, as text.
        wide: It may be scrolled sideways on a small screen rather than shrunk.
    """
    kind = "png" if picture.startswith(b"\x89PNG") else "svg+xml"
    data = base64.b64encode(picture).decode()
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f"<figure class={'wide' if wide else 'whole'}><div><img alt='{html.escape(said, quote=True)}' src='data:image/{kind};base64,{data}'>"
        f"</div>{below}</figure>"
    )


def grid(figures: Iterable[str]) -> str:
    """Figures side by side, as many as the screen takes; nothing where there are none."""
    shown = "".join(figures)
    return f"<div class=grid>{shown}</div>" if shown else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of texts; ``numbers`` are the columns that are set to the right. An empty header is left out."""
    kinds = ["n" if column in numbers else "t" for column in range(len(header))]
    head = "".join(f"<th class={kind}>{html.escape(name)}</th>" for kind, name in zip(kinds, header, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td class={kind}>{html.escape(value)}</td>' for kind, value in zip(kinds, row, strict=True))}</tr>"
        for row in rows
    )
    shown = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
    return f"<div class=scroll><table>{shown}<tbody>{body}</tbody></table></div>"


_STYLE = """
:root{--ink:#1c2430;--soft:#5b6675;--line:#e3e7ec;--accent:#2f5fd0;--paper:#fff;--back:#f5f7fa}
*{box-sizing:border-box}
body{margin:0;font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;color:var(--ink);background:var(--back)}
header,main{max-width:1120px;margin:0 auto;padding:0 20px}
header{padding-top:32px}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 6px;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:0 0 4px}
.lead{color:var(--soft);margin:0 0 20px;overflow-wrap:anywhere}
.note{color:var(--soft);font-size:.92rem;margin:0 0 14px;max-width:75ch}
section{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:20px;margin:0 0 20px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px;margin:0 0 20px}
.tile{max-width:420px;background:var(--paper);border:1px solid var(--line);border-left:4px solid var(--accent);border-radius:10px;padding:12px 16px;display:flex;flex-direction:column}
.tile span{color:var(--soft);font-size:.85rem}
.tile b{font-size:1.5rem;line-height:1.3;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.tile small{color:var(--soft);font-size:.82rem;font-variant-numeric:tabular-nums}
figure{margin:0 0 16px}
figure:last-child{margin-bottom:0}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:16px;align-items:start}
.grid+figure,.grid+.scroll,figure+.grid{margin-top:18px}
.grid figure{margin:0}
figure img{display:block;max-width:100%;height:auto;margin:0 auto}
figcaption{color:var(--soft);font-size:.88rem;margin-top:6px}
figure.wide>div{overflow-x:auto}
.scroll{overflow-x:auto}
.scroll+figure,figure+.scroll{margin-top:16px}
table{border-collapse:collapse;width:100%;font-size:.93rem}
th,td{padding:6px 14px 6px 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{font-weight:600;color:var(--soft);white-space:nowrap}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.t{overflow-wrap:anywhere;min-width:9ch}
.t:first-child{overflow-wrap:normal;white-space:nowrap}
tr:last-child td{border-bottom:0}
@media(max-width:640px){header,main{padding:0 12px}header{padding-top:20px}section{padding:14px}h1{font-size:1.4rem}
figure.wide img{max-width:none;min-width:640px}th,td{padding-right:10px}.t:first-child{white-space:normal}}
@media print{body{background:#fff}section,.tile{break-inside:avoid}}
"""
