"""An animated picture of a run: its names grow from noise while its loss falls.

It is one file of SVG, animated by CSS. Its colours are those of a light or a dark screen, and its
background is its own. Where nothing is animated, it shows the last moment.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from math import dist
from xml.sax.saxutils import escape

import numpy as np

from dinojax.messages import visible
from dinojax.runs.growth import Moment

WIDTH, ROW, TOP = 800, 30, 92
"""Width of the picture, height of a name and of what is above the names, in pixels."""
LEFT, RIGHT = 452, 764
"""Where the curve begins and ends."""
MAX_NAME = 26
"""Longest name, in characters, that fits beside the curve."""
SECONDS, LAST_SECONDS, FADE = 0.9, 4.0, 0.3
"""How long a moment is shown, the last one, and the change from one to the next."""

STYLE = """
svg {--back: #fff;--edge: #d0d7de;--ink: #1f2328;--dim: #656d76;--line: #0969da}
@media (prefers-color-scheme: dark) {
  svg {--back: #0d1117;--edge: #30363d;--ink: #e6edf3;--dim: #8d96a0;--line: #4493f8}
}
text { font: 13px ui-sans-serif, system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
text { fill: var(--dim); }
.name { font: 19px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.name, .step { fill: var(--ink); }
.step { font-size: 21px; font-weight: 600; }
.back { fill: var(--back); stroke: var(--edge); }
.grid { stroke: var(--edge); }
.curve { fill: none; stroke: var(--line); stroke-width: 2.5; stroke-linejoin: round; }
.whole { opacity: 0.25; }
.dot { fill: var(--line); stroke: var(--back); stroke-width: 2; }
.moment, .drawn, .dot { animation-duration: DURATIONs; animation-iteration-count: infinite; }
@media (prefers-reduced-motion: reduce) { .moment, .drawn, .dot { animation: none !important; } }
"""


def animate_growth(moments: Sequence[Moment]) -> str:
    """A picture, as SVG, of some moments of a run one after the other; see `runs.growth`."""
    rows = max(4, *(len(moment.names) for moment in moments))
    bottom = TOP + ROW * rows - 22
    height = bottom + 54
    losses = [moment.loss for moment in moments]
    low, high = min(losses), max(losses)
    x = np.linspace(LEFT, RIGHT, len(moments)) if len(moments) > 1 else [RIGHT]
    y = np.interp(losses, [low, high], [bottom - 8, TOP - 8])
    places = [(round(float(a), 1), round(float(b), 1)) for a, b in zip(x, y, strict=True)]
    line = " ".join(f"{a},{b}" for a, b in places)
    lengths = [0.0, *accumulate(dist(a, b) for a, b in pairwise(places))]
    begins = [i * SECONDS for i in range(len(moments))]
    duration = begins[-1] + LAST_SECONDS
    offsets = [f"stroke-dashoffset: {1 - length / (lengths[-1] or 1):.4f}" for length in lengths]
    shifts = [f"transform: translate({a}px, {b}px)" for a, b in places]
    style = STYLE.replace("DURATION", f"{duration:.2f}")
    style += _keyframes("drawn", offsets, begins, duration)
    style += _keyframes("dot", shifts, begins, duration)
    for i in range(len(moments)):
        is_shown = [f"opacity: {int(i == j)}" for j in range(len(moments))]
        style += _keyframes(f"moment{i}", is_shown, begins, duration)
    grid = [tick for tick in np.arange(0, high, 0.5) if tick > low]
    heights = np.interp(grid, [low, high], [bottom - 8, TOP - 8])
    last = moments[-1]
    title = f"Names of a network after {moments[0].step:,} to {last.step:,} steps of training"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img">',
            f"<title>{title}</title>",
            f"<style>{style}</style>",
            f'<rect class="back" x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="8"/>',
            *(
                f'<path class="grid" d="M{LEFT} {at:.1f}H{RIGHT}"/>'
                f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{tick:.1f}</text>'
                for tick, at in zip(grid, heights, strict=True)
            ),
            *_steps(moments, places, bottom + 20),
            f'<polyline class="curve whole" points="{line}"/>',
            f'<polyline class="curve drawn" points="{line}" pathLength="1" stroke-dasharray="1 1" '
            'style="animation-name: drawn"/>',
            # Where it is not animated, it stays at the last place.
            f'<circle class="dot" r="6" style="{shifts[-1]}; animation-name: dot"/>',
            *_moments(moments, height),
            "</svg>\n",
        ]
    )


def _moments(moments: Sequence[Moment], height: int) -> Iterable[str]:
    """What is written at each moment, of which the last is shown where nothing is animated."""
    for i, moment in enumerate(moments):
        num_new, num = sum(moment.is_new), len(moment.names)
        opacity = int(i == len(moments) - 1)
        yield f'<g class="moment" opacity="{opacity}" style="animation-name: moment{i}">'
        yield f'<text class="step" x="36" y="48">step {moment.step:,}</text>'
        said = f"{moment.loss:.2f} nats a character"
        yield f'<text class="step" x="{RIGHT}" y="48" text-anchor="end">{said}</text>'
        yield f'<svg width="{LEFT - 48}" height="{height}">'
        for row, name in enumerate(moment.names):
            shown = visible(name) if len(name) <= MAX_NAME else f"{visible(name[:MAX_NAME])}…"
            yield f'<text class="name" x="36" y="{TOP + ROW * row}">{escape(shown)}</text>'
        yield "</svg>"
        yield f'<text x="36" y="{height - 20}">{num_new} of {num} new</text>'
        yield "</g>"


def _steps(
    moments: Sequence[Moment], places: Sequence[tuple[float, float]], y: float
) -> Iterable[str]:
    """Labels of the axis: the steps of every third moment, counted from the last."""
    for moment, (x, _) in [*zip(moments, places, strict=True)][::-3]:
        yield f'<text x="{x}" y="{y}" text-anchor="middle">{moment.step:,}</text>'


def _keyframes(name: str, states: Sequence[str], begins: Sequence[float], duration: float) -> str:
    """An animation that shows each state from its time on, after a change from the one before.

    The last changes into the first, with which the animation begins again.
    """
    frames = [f"0% {{ {states[0]} }}"]
    for before, state, begin in zip(states, states[1:], begins[1:], strict=False):
        for seconds, shown in (begin, before), (begin + FADE, state):
            frames.append(f"{100 * seconds / duration:.2f}% {{ {shown} }}")
    frames.append(f"{100 * (1 - FADE / duration):.2f}% {{ {states[-1]} }}")
    frames.append(f"100% {{ {states[0]} }}")
    return f"@keyframes {name} {{ {' '.join(frames)} }}\n"
