"""The figures of an evaluation report."""

from collections.abc import Sequence

import plotly.graph_objects as go

from raycrnn.evaluation.analysis import Comparison, Evaluation

MODEL_COLOUR, OTHER_COLOUR = "#2f6db3", "#d1495b"


def render_figures(result: Evaluation | Comparison) -> dict[str, go.Figure]:
    """Make the figures by name."""
    named = (
        [("model", result.model), ("other", result.other)] if isinstance(result, Comparison) else [("model", result)]
    )
    figures = {"reliability": _reliability(named), "coverage": _coverage(named)}
    for figure in figures.values():
        figure.update_layout(
            template="plotly_white",
            margin={"l": 55, "r": 15, "t": 30, "b": 50},
            font={"family": "system-ui, sans-serif", "size": 13},
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
            showlegend=len(named) > 1,
        )
    return figures


def _reliability(named: Sequence[tuple[str, Evaluation]]) -> go.Figure:
    """Plot the share of exact transcriptions by confidence, above a histogram of the confidences."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 100],
        y=[0, 100],
        mode="lines",
        line={"color": "#888888", "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )
    for (name, evaluation), colour in zip(named, (MODEL_COLOUR, OTHER_COLOUR), strict=False):
        bins = evaluation.reliability
        figure.add_bar(
            x=[50 * (each.low + each.high) for each in bins],
            y=[each.samples for each in bins],
            marker={"color": colour, "opacity": 0.35},
            yaxis="y2",
            showlegend=False,
            hovertemplate="%{y:,} transcriptions<extra></extra>",
        )
        figure.add_scatter(
            x=[100 * each.confidence for each in bins],
            y=[100 * each.exact for each in bins],
            mode="lines+markers",
            name=name,
            line={"color": colour},
            marker={"size": 8},
            hovertemplate="confidence %{x:.1f} %: %{y:.1f} % exact<extra></extra>",
        )
    figure.update_layout(
        xaxis={"title": "confidence, %", "range": [-2, 102], "anchor": "y2"},
        yaxis={"title": "exact, %", "range": [-3, 103], "domain": [0.34, 1]},
        yaxis2={"title": "count", "domain": [0, 0.24], "nticks": 4, "rangemode": "tozero"},
        bargap=0.1,
    )
    return figure


def _coverage(named: Sequence[tuple[str, Evaluation]]) -> go.Figure:
    """Plot accuracy over coverage, as the confidence threshold varies."""
    figure = go.Figure()
    for (name, evaluation), colour in zip(named, (MODEL_COLOUR, OTHER_COLOUR), strict=False):
        figure.add_scatter(
            x=[100 * point.coverage for point in evaluation.coverage],
            y=[100 * point.exact for point in evaluation.coverage],
            customdata=[point.threshold for point in evaluation.coverage],
            mode="lines",
            name=name,
            line={"color": colour, "width": 2.5},
            hovertemplate="confidence ≥ %{customdata:.3f}: %{x:.1f} % kept, %{y:.1f} % of them exact<extra></extra>",
        )
        kept = evaluation.confident
        if kept.coverage:
            figure.add_scatter(
                x=[100 * kept.coverage],
                y=[100 * kept.exact],
                mode="markers",
                marker={"size": 10, "color": colour},
                showlegend=False,
                hoverinfo="skip",
            )
    figure.update_xaxes(title="transcriptions kept, %", range=[0, 102])
    least = min(point.exact for _, evaluation in named for point in evaluation.coverage)
    figure.update_yaxes(title="exact among them, %", range=[max(-3, 100 * least - 10), 102])
    return figure
