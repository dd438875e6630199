"""The times of a comparison as bars: one SVG file that any browser shows, light or dark, and nothing to install."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["bars"]

_LABEL, _WIDTH, _ROW, _TOP = 130, 420, 34, 56
_LEGEND = "seconds of a warm map (strong), and of the first one, with the start (pale)"
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.t{font-weight:600;font-size:15px}.n{font-size:12px;fill:#57606a}"
    ".warm{fill:#2563c4}.first{fill:#a9c7f2}.bad{fill:#b42318}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.n{fill:#9da7b1}.warm{fill:#6ea8fe}.first{fill:#2b4a78}"
    ".bad{fill:#ff9b8f}}"
)


def bars(title: str, rows: Sequence[tuple[str, float | None, float | None, str]]) -> str:
    """The text of an SVG file with two bars a row: the first map behind, the warm one before it.

    Parameters
    ----------
    title : str
        Above the bars.
    rows : sequence of (name, first, warm, remark)
        Times in seconds; None where there is none, which the remark explains.
    """
    longest = max((each for _, *times, _ in rows for each in times if isinstance(each, float)), default=1.0) or 1.0
    parts = [f'<text class="t" x="12" y="24">{escape(title)}</text>']
    parts.append(
        '<text class="n" x="12" y="42">seconds: a warm map (dark), the first one with the start (light)</text>'
    )
    for place, (name, first, warm, remark) in enumerate(rows):
        parts += _row(_TOP + place * _ROW, name, first, warm, remark, _WIDTH / longest)
    height = _TOP + len(rows) * _ROW + 10
    size = f'width="{_LABEL + _WIDTH + 150}" height="{height}" viewBox="0 0 {_LABEL + _WIDTH + 150} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><style>{_STYLE}</style>{"".join(parts)}</svg>\n'


def _row(y: int, name: str, first: float | None, warm: float | None, remark: str, scale: float) -> list[str]:
    parts = [f'<text x="{_LABEL - 10}" y="{y + 18}" text-anchor="end">{escape(name)}</text>']
    if first is not None:
        parts.append(f'<rect class="first" x="{_LABEL}" y="{y + 4}" width="{first * scale:.1f}" height="20" rx="2"/>')
    if warm is not None:
        parts.append(f'<rect class="warm" x="{_LABEL}" y="{y + 8}" width="{warm * scale:.1f}" height="12" rx="2"/>')
    end = _LABEL + max(first or 0.0, warm or 0.0) * scale + 8
    told = [f"{warm:.3g}" if warm is not None else "", f"({first:.3g})" if first is not None else ""]
    kind = "bad" if remark else "n"
    parts.append(
        f'<text class="{kind}" x="{end:.1f}" y="{y + 18}">{escape(" ".join([*filter(None, told), remark]))}</text>'
    )
    return parts
