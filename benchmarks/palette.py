"""How the plots look: one figure for light and dark pages, in colours that stand for libraries.

A colour stands for a library. A dashed line is the library by itself, a solid one is anypool on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["DARK", "LIGHT", "Line", "Theme", "line_of", "save", "spread_labels", "style_axes", "themed"]

Theme = Mapping[str, str]

LIGHT: Theme = {
    "page": "#ffffff", "text": "#1f2328", "muted": "#59636e", "grid": "#e4e8ec",
    "processes": "#0b7a55", "loky": "#1f6feb", "joblib": "#8250df", "dask": "#c4580a", "threads": "#b5850b",
    "ray": "#bf3989", "stdlib": "#6e7781", "executor": "#8c959f",
}  # fmt: skip
DARK: Theme = {
    "page": "#131416", "text": "#e6edf3", "muted": "#9aa4ae", "grid": "#2a2e34",
    "processes": "#5ec9a0", "loky": "#6cb2ff", "joblib": "#bd93ff", "dask": "#ffa05c", "threads": "#e3c05a",
    "ray": "#ff8ac4", "stdlib": "#a5adb6", "executor": "#7d8590",
}  # fmt: skip

_FONT = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "svg.fonttype": "path",
    "svg.hashsalt": "anypool",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """How the curve of one subject is drawn, and called."""

    label: str
    color: str
    is_ours: bool

    def style(self, theme: Theme) -> dict[str, Any]:
        """For `Axes.plot`."""
        return {
            "color": theme[self.color],
            "linewidth": 2.4 if self.is_ours else 1.4,
            "linestyle": "-" if self.is_ours else (0, (4, 2.2)),
            "marker": "o" if self.is_ours else None,
            "markersize": 4.5,
            "markeredgecolor": theme["page"],
            "markeredgewidth": 0.8,
            "solid_capstyle": "round",
            "zorder": 4 if self.is_ours else 3,
        }


_NATIVE = {
    "stdlib-pool": ("stdlib Pool", "stdlib"),
    "stdlib-executor": ("stdlib executor", "executor"),
    "stdlib-threads": ("stdlib threads", "threads"),
    "loky": ("loky", "loky"),
    "joblib": ("joblib", "joblib"),
    "dask": ("Dask", "dask"),
    "ray": ("Ray", "ray"),
}


def line_of(subject: str) -> Line:
    """The line of that subject."""
    if subject.startswith("anypool/"):
        backend = subject.removeprefix("anypool/")
        return Line(label=f"anypool: {backend}", color=backend, is_ours=True)
    label, color = _NATIVE[subject]
    return Line(label=label, color=color, is_ours=False)


def themed(theme: Theme) -> dict[str, Any]:
    """Settings of matplotlib for `theme`."""
    return {
        **_FONT,
        "figure.facecolor": theme["page"],
        "axes.facecolor": theme["page"],
        "savefig.facecolor": theme["page"],
        "text.color": theme["text"],
        "axes.labelcolor": theme["muted"],
        "axes.titlecolor": theme["text"],
        "axes.edgecolor": theme["grid"],
        "xtick.color": theme["muted"],
        "ytick.color": theme["muted"],
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
    }


def style_axes(axes: Any, theme: Theme, *, title: str, note: str, x: str, y: str) -> None:
    """A quiet frame: the curves are what one sees."""
    axes.set_title(title, pad=25)
    axes.text(0, 1.035, note, transform=axes.transAxes, color=theme["muted"], fontsize=9)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, which="major", color=theme["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.minorticks_off()
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def spread_labels(axes: Any, theme: Theme, ends: Sequence[tuple[Line, tuple[float, float]]]) -> None:
    """Name each curve where it ends, one name below the other where they end close together.

    Parameters
    ----------
    ends : sequence of (Line, (float, float))
        Each curve, and where it ends. Names stand at the right edge, with a thin line to their curve.
    """
    transform, inverse = axes.transData, axes.transAxes.inverted()
    places = [inverse.transform(transform.transform(end)) for _, end in ends]
    height = axes.get_window_extent().height / axes.figure.dpi * 72
    gap = 12.5 / height
    order = sorted(range(len(ends)), key=lambda index: places[index][1])
    heights = [places[index][1] for index in order]
    for _ in range(200):  # push neighbours apart, half each, until none overlap
        for low in range(len(heights) - 1):
            lack = gap - (heights[low + 1] - heights[low])
            if lack > 0:
                heights[low] -= lack / 2
                heights[low + 1] += lack / 2
        heights = [max(each, 0.01 + gap * index) for index, each in enumerate(heights)]
        heights = [min(each, 1.0 - gap * (len(heights) - 1 - index)) for index, each in enumerate(heights)]
    for index, at in zip(order, heights, strict=True):
        line, end = ends[index]
        axes.annotate(
            line.label,
            xy=end,
            xycoords="data",
            xytext=(1.05, at),
            textcoords="axes fraction",
            color=theme[line.color],
            fontsize=9,
            fontweight="bold" if line.is_ours else "normal",
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": theme[line.color], "linewidth": 0.7, "alpha": 0.45,
                "shrinkA": 2, "shrinkB": 3, "relpos": (0, 0.5),
            },
        )  # fmt: skip


def save(draw: Callable[[Theme], Any], directory: Path, name: str) -> list[Path]:
    """Write ``name.svg``, which follows the scheme of whoever looks at it, and ``name-light.png``, ``name-dark.png``.

    Parameters
    ----------
    draw : callable
        ``draw(theme)`` gives a figure.
    """
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for scheme, theme in (("light", LIGHT), ("dark", DARK)):
        with mpl.rc_context(themed(theme)):
            figure = draw(theme)
            path = directory / f"{name}-{scheme}.png"
            figure.savefig(path, dpi=144, bbox_inches="tight", pad_inches=0.25, metadata={"Software": None})
            written.append(path)
            if scheme == "light":
                path = directory / f"{name}.svg"
                figure.savefig(path, bbox_inches="tight", pad_inches=0.25, metadata={"Date": None, "Creator": None})
                path.write_text(adaptive(path.read_text(encoding="utf-8")), encoding="utf-8")
                written.append(path)
            plt.close(figure)
    return written


def adaptive(svg: str) -> str:
    """The drawing with its colours as variables, which are others on a dark page."""
    for name, color in LIGHT.items():
        svg = svg.replace(color, f"var(--{name})")
    light = "".join(f"--{name}:{color};" for name, color in LIGHT.items())
    dark = "".join(f"--{name}:{color};" for name, color in DARK.items())
    style = f"<style>svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    return re.sub(r"(<svg\b[^>]*>)", lambda found: found[1] + style, svg, count=1)
