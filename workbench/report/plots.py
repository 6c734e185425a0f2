"""Plots as SVG strings to be put inside of an HTML page.

matplotlib knows no CSS, so each colour is drawn as a marker value and replaced by a CSS variable of the page
(report.css) afterwards: one picture serves light and dark. Text stays text, so it can be read aloud, searched and
scaled. Ids are prefixed with the plot's name, for several plots share one page.
"""

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from workbench.report.model import DevPoint, Quant, TrainPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, LINE, ACCENT, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
CSS = {
    INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", ACCENT: "var(--accent)", SECOND: "var(--second)",
}  # fmt: skip
SIZE_INCHES = (5.4, 2.9)
SMOOTH_ABOVE = 30  # fewer points than this are drawn as they are
MAX_POINTS = 400
CHAR_PX, HALF_LINE_PX = 6.2, 7.0  # of a 10.5 px label, for keeping labels apart


def _draw(name: str, title: str, text: str, paint: Callable[["Axes"], None]) -> str:
    """Draw on an empty axes and return inline SVG with `title` and `text` as its accessible name and description."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {  # Any: the key type differs between matplotlib versions
        "svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False, "font.size": 10.5, "text.color": INK,
        "axes.edgecolor": LINE, "axes.labelcolor": MUTED, "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "axes.axisbelow": True, "grid.color": LINE, "grid.linewidth": 0.6,
        "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
        "legend.frameon": False, "lines.solid_capstyle": "round",
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=SIZE_INCHES, dpi=72, layout="constrained")  # one pixel is one point
        paint(figure.add_subplot())
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(out.getvalue(), name, title, text)


def _inline(svg: str, name: str, title: str, text: str) -> str:
    """Strip what a page does not need, name the picture, prefix its ids, hand its colours to CSS."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    for marker, variable in CSS.items():
        svg = svg.replace(marker, variable)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font: \1px var(--sans)", svg)
    box = re.search(r'viewBox="([^"]+)"', svg)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box.group(1) if box else "0 0 400 200"}" role="img"'
    named = f'{head} aria-labelledby="{name}-title {name}-desc">'
    about = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(text)}</desc>'
    return named + about + svg[svg.index(">") + 1 :]


def _smooth(values: Sequence[float]) -> list[float]:
    """Centred moving average over about a thirtieth of the run; a trailing one would lag behind the first fall."""
    half = max(1, len(values) // 60)
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def loss_svg(train: Sequence[TrainPoint], dev: Sequence[DevPoint]) -> str:
    """Training loss over steps, with the loss on dev where it was measured; empty without points."""
    judged = [(p.step, p.loss) for p in dev if p.loss is not None]
    if not train and not judged:
        return ""
    stride = -(-len(train) // MAX_POINTS) or 1
    steps, losses = [p.step for p in train], [p.loss for p in train]

    def paint(ax: "Axes") -> None:
        smooth = len(train) > SMOOTH_ABOVE
        if smooth:
            ax.plot(steps[::stride], losses[::stride], color=MUTED, linewidth=0.7, alpha=0.45)
        if train:
            drawn = _smooth(losses) if smooth else losses
            label = "training, smoothed" if smooth else "training"
            ax.plot(steps[::stride], drawn[::stride], color=ACCENT, linewidth=1.7, label=label)
        if judged:
            x, y = zip(*judged, strict=True)
            ax.plot(x, y, color=SECOND, linewidth=1.2, marker="o", markersize=4, label="dev")
        ax.set(xlabel="step", ylabel="loss per token")
        ax.set_ylim(bottom=0)
        ax.legend(loc="upper right")

    text = f"Training loss from {losses[0]:.2f} to {losses[-1]:.2f} over {steps[-1]} steps. " if train else ""
    text += f"Loss on dev ends at {judged[-1][1]:.2f}." if judged else ""
    return _draw("loss", "Loss over training steps", text.strip(), paint)


def dev_svg(dev: Sequence[DevPoint]) -> str:
    """Exact match on dev over steps, with the kept checkpoint marked; empty without points."""
    points = [(p.step, p.exact, p.chosen) for p in dev if p.exact is not None]
    if not points:
        return ""

    def paint(ax: "Axes") -> None:
        ax.plot([p[0] for p in points], [p[1] for p in points], color=ACCENT, linewidth=1.7, marker="o", markersize=4)
        for step, exact, chosen in points:
            if chosen:
                ax.plot([step], [exact], marker="o", markersize=11, markerfacecolor="none", color=SECOND)
                side = "right" if step > (points[0][0] + points[-1][0]) / 2 else "left"
                ax.annotate(
                    f"kept, {exact:.1f}", (step, exact), xytext=(0, -16), textcoords="offset points", ha=side, color=INK
                )
        ax.set(xlabel="step", ylabel="exact match on dev, %")
        ax.set_ylim(0, max(10.0, min(103.0, 1.2 * max(p[1] for p in points))))

    last = points[-1]
    kept = "".join(f" The checkpoint of step {s} was kept, with {e:.1f} %." for s, e, c in points if c)
    return _draw("dev", "Exact match on dev over training steps", f"{last[1]:.1f} % at step {last[0]}.{kept}", paint)


def quant_svg(quants: Sequence[Quant]) -> str:
    """File size against exact match on dev, one dot a quant, the chosen one filled; empty without scored quants."""
    scored = sorted(
        ((q.bytes / 1e6, q.dev_exact, q) for q in quants if q.dev_exact is not None), key=lambda s: (s[0], -s[1])
    )
    if not scored:
        return ""

    def paint(ax: "Axes") -> None:
        sizes, scores = [s[0] for s in scored], [s[1] for s in scored]
        margin = 0.22 * (max(sizes) - min(sizes)) or 0.1 * max(sizes)
        ax.set_xlim(min(sizes) - margin, max(sizes) + margin)
        ax.set_ylim(-4, max(10.0, min(106.0, 1.25 * max(scores))))
        dots = [ax.transData.transform(point) for point in zip(sizes, scores, strict=True)]
        taken = [(float(x) - 5, float(y) - 5, float(x) + 5, float(y) + 5) for x, y in dots]
        for size, exact, quant in scored:
            colour, fill = (ACCENT, ACCENT) if quant.chosen else (MUTED, "none")
            ax.plot([size], [exact], marker="o", markersize=8, color=colour, markerfacecolor=fill, linestyle="none")
        for (size, exact, quant), (x, y) in zip(scored, dots, strict=True):
            label = f"{quant.name}, {exact:.1f}"
            dx, dy, side = _free_place(x, y, label, taken)
            ax.annotate(
                label, (size, exact), xytext=(dx, dy), textcoords="offset points", ha=side, va="center",
                color=INK if quant.chosen else MUTED, weight="bold" if quant.chosen else "normal",
            )  # fmt: skip
        ax.set(xlabel="file size, MB", ylabel="exact match on dev, %")

    text = "; ".join(f"{q.name} {mb:.0f} MB {e:.1f} %{', chosen' if q.chosen else ''}" for mb, e, q in scored)
    return _draw("quants", "File size against exact match on dev", text + ".", paint)


def _free_place(x: float, y: float, label: str, taken: list[tuple[float, float, float, float]]) -> tuple[int, int, str]:
    """The first place around a dot where a label covers nothing; adds it to `taken`."""
    width = CHAR_PX * len(label)
    places = [(0, 14, "center"), (0, -14, "center"), (9, 0, "left"), (-9, 0, "right"), (0, 28, "center")]
    for dx, dy, side in places:
        left = x + dx - {"center": width / 2, "left": 0, "right": width}[side]
        box = (left, y + dy - HALF_LINE_PX, left + width, y + dy + HALF_LINE_PX)
        if not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
            taken.append(box)
            return dx, dy, side
    return places[0]
