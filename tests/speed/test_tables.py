"""Figures and tables of a profile say what the measured table says."""

import io
import json
from types import SimpleNamespace

import matplotlib
import pandas as pd
import pytest

from neoxlib.inference.timing import Case
from neoxlib.speed import baseline, figures, panels, tables
from neoxlib.speed.budget import Budget
from neoxlib.speed.measure import KEY
from neoxlib.speed.roofline import Roofline, verdicts
from tests.support.npu import trace_events
from tests.support.timed_cases import CONFIG, MODEL, Notes, peak, row, table

ROOF = Roofline(Budget(CONFIG, 1, 1, 1, "float32"), peak())
GRID = table(*(row(i, o, first=i / 10, later=i / 100) for i in (32, 64, 128) for o in (16, 32)))


def texts(axes: object) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_the_heat_map_has_every_case_in_its_cell():
    figure = figures.heat_map(GRID)
    first, later = (axes for axes in figure.axes if axes.images)
    assert (
        texts(first) == ["3.2", "3.2", "6.4", "6.4", "12.8", "12.8"] and texts(later)[-1] == "1.28"
    )
    assert [label.get_text() for label in first.get_yticklabels()] == ["32", "64", "128"]


def test_a_grid_with_holes_batches_and_depths_is_drawn():
    holes = table(
        row(32), row(64, 32), row(32, batch_size=4), row(32, depth=8), row(64, 1, later=None)
    )
    panels = [axes for axes in figures.heat_map(holes).axes if axes.images]
    assert len(panels) == 6
    for draw in (figures.heat_map, figures.latency, figures.phases, figures.percentiles):
        draw(holes).canvas.draw()


def test_one_token_answers_alone_can_be_drawn_and_told():
    one = table(row(32, 1, later=None), row(64, 1, later=None))
    judged = verdicts(one, ROOF)
    for draw in (figures.heat_map, figures.latency, figures.phases, figures.percentiles):
        draw(one).canvas.draw()
    figures.roofline(judged, ROOF.peaks).canvas.draw()
    assert "next token" not in repr(tables.limits(judged)).splitlines()[0]
    assert repr(tables.times(one)).count("batch") == 2


def test_bands_are_the_intervals():
    axes = figures.latency(GRID).axes[0]
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((3.2 * 0.95, 12.8 * 1.05))


def test_phases_are_stacked_to_the_whole():
    axes = figures.phases(GRID).axes[0]
    ends = [bar.get_x() + bar.get_width() for bar in axes.patches[-len(GRID) :]]
    assert ends == pytest.approx(GRID["next_token_ms"].tolist())


def test_points_of_the_roofline_lie_where_the_clocks_put_them():
    judged = verdicts(table(), ROOF)
    axes = figures.roofline(judged, ROOF.peaks).axes[0]
    later = axes.collections[1].get_offsets()
    assert later[:, 1].tolist() == pytest.approx(
        (judged["operations_per_step"] / 2e-3 / 1e12).tolist()
    )
    roof = axes.lines[0].get_ydata()
    assert roof[-1] == 0.1 and roof[1] == 0.1


def test_ratios_are_drawn_with_their_interval():
    compared = baseline.compare_times(
        table(), table(row(32, later=3.0), row(128), row(128, 64)), "own"
    )
    axes = figures.ratios(compared).axes[0]
    spans = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2][:2]
    assert list(spans[1]) == pytest.approx([1.5 / 1.0972, 1.5 * 1.0972], rel=1e-4)


def test_no_cell_of_a_table_is_cut_and_text_cannot_become_markup():
    long = "x" * 90
    table = pd.DataFrame({"name": [f"<b>{long}"], "share": [0.123]})
    shown = tables.number_table(table, {"name": "what", "share": "%"})
    assert (
        long in shown._repr_html_() and "<b>x" not in shown._repr_html_() and "12.3%" in repr(shown)
    )


def test_sentences_are_shown_with_their_case():
    run = Notes()
    judged, said = tables.verdicts(run, table(), ROOF)
    assert repr(said).splitlines()[0].startswith("batch 1, 32 in, 16 out: Next token ")
    assert said._repr_html_().count("<li") == 3
    assert {*KEY, "mbu", "mfu", "bound", "verdict"} <= set(run.tables["limits"]) and "mbu" in judged


def test_a_noisy_case_is_shown_without_a_bound_and_drawn_apart():
    noisy = table(row(32), row(64, noise="other processes used 0.9 of 2 cores"))
    judged, said = tables.verdicts(Notes(), noisy, ROOF)
    assert "not judged: other processes used 0.9 of 2 cores." in repr(said)
    assert "not judged" in said._repr_html_()
    figure = figures.roofline(judged, ROOF.peaks)
    assert "not judged" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_box_names_host_versions_chip_dtype_and_quantization():
    run = Notes()
    run.results["model"] = MODEL | {"quant": "int8", "launch_environment": {"OMP_NUM_THREADS": "1"}}
    shown = repr(tables.box(run))
    for word in ("A processor", "torch 2.13.0", "dtype float32", "quant int8", "OMP_NUM_THREADS=1"):
        assert word in shown


def test_what_was_not_asked_for_is_said_in_a_sentence():
    run = Notes(trace=False, scaling=False)
    assert (
        repr(tables.traced(run, None, Case(1, 2, 3)))
        == "No trace was asked for: the parameter is trace."
    )
    assert "parameter is scaling" in repr(tables.scaled(run, CONFIG, Case(1, 2, 3)))
    assert "nothing to compare" in repr(tables.against_baseline(run, None, table()))


def test_the_trace_of_an_npu_says_whether_decoding_is_bound_by_the_host(tmp_path, capsys):
    run = Notes(trace=True)
    run.folder = tmp_path
    folder = tmp_path / "trace" / "rank0_7_ascend_pt"
    folder.mkdir(parents=True)
    (folder / "trace_view.json").write_text(json.dumps(trace_events.decoding()))
    session = SimpleNamespace(trace=lambda case, folder: str(folder))
    assert "MatMulV2" in repr(tables.traced(run, session, Case(1, 2, 3)))
    shares = run.tables["device_shares"].set_index("phase")
    assert shares.loc["decode", "free"] == pytest.approx(0.55)
    said = capsys.readouterr().out
    assert "decode: the NPU computes 30% of the time" in said and "bound by the host" in said
    labels = [label.get_text() for label in run.figures["timeline"].axes[0].get_yticklabels()]
    assert "rank0, Ascend Hardware, Stream 2" in labels


def test_measured_and_predicted_scaling_never_share_a_panel():
    measured = pd.DataFrame({"ranks": [1, 1, 2], "threads": [1, 2, 1], "speed_up": [1.0, 1.9, 1.7]})
    predicted = pd.DataFrame(
        {"chip": ["910B3"] * 2, "ranks": [1, 2], "predicted_next_ms": [2.0, 1.0]}
    )
    left, right = figures.scaling(measured, predicted).axes
    assert left.get_title(loc="left").startswith("measured here")
    assert "910B3" not in str(left.get_legend_handles_labels())
    assert right.get_title(loc="left").startswith("predicted")
    assert [line.get_label() for line in right.lines] == ["910B3"]


def test_the_timeline_has_a_band_per_rank():
    events = pd.DataFrame(
        {
            "rank": ["rank0", "rank0", "rank1"],
            "thread": ["1", "1", "1"],
            "name": ["decode", "x", "y"],
            "kind": ["decode", "computing", "communication"],
            "start_ms": [0.0, 1.0, 0.0],
            "ms": [5.0, 2.0, 3.0],
            "self_ms": [3.0, 2.0, 3.0],
        }
    )
    axes = figures.timeline(events).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rank0", "rank1"]


@pytest.mark.parametrize("lengths", [(1,), (1, 1), (1, 16, 1)], ids=str)
def test_every_view_of_a_profile_serves_answers_of_one_token(lengths):
    """Saved as a run saves them: what fails there fails only when it is drawn."""
    found = table(
        *(
            row(32 * n, out, later=None if out == 1 else 2.0)
            for n, out in enumerate(lengths, start=1)
        )
    )
    run = Notes(perf_mode="detail", skip_decode=False, trace=False, scaling=False)
    judged, said = tables.verdicts(run, found, ROOF)
    drawn = [draw(found) for draw in (figures.heat_map, figures.latency, figures.phases)]
    drawn += [figures.percentiles(found), figures.roofline(judged, ROOF.peaks)]
    svg = [saved(figure) for figure in drawn]
    assert all((panels.NO_NEXT in text) == (max(lengths) == 1) for text in svg[:4])
    assert panels.NO_NEXT not in svg[4] and said._repr_html_().count("First token") == len(lengths)
    shown = [
        tables.limits(judged),
        tables.predictions(run, judged, ROOF),
        tables.times(found),
        tables.phases(found),
        tables.percentiles(found),
    ]
    assert all(len(view.rows) == len(lengths) for view in shown)
    assert tables.vendor(run, found)["forward_next_token_time(ms)"].tolist()[0] == 0
    compared = tables.against_baseline(run, found, found)
    assert len(compared.rows) == sum(1 if out == 1 else 2 for out in lengths)
    saved(run.figures["baseline"])


def saved(figure) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight")
    return buffer.getvalue()


def test_what_has_too_few_repeats_for_an_interval_is_not_called_one():
    few = table(row(32, repeats=3), row(64, repeats=6))
    first, second = tables.times(few).rows
    assert first[2] == "19\u00a0to\u00a021\u00a0(range\u00a0of\u00a03,\u00a0no\u00a0interval)"
    assert second[2] == "19\u00a0to\u00a021"
    assert len(figures.latency(few.head(1)).axes[0].collections[0].get_paths()) == 0, "no band"
    compared = baseline.compare_times(few, few, "own")
    assert [row[-2:] for row in tables.ratios(compared).rows[:2]] == [("–", "no\u00a0interval")] * 2
    saved(figures.ratios(compared))


def over_hosts(answer: dict | None) -> SimpleNamespace:
    """A session whose ranks answer so when their sums are measured."""
    return SimpleNamespace(config=CONFIG, apply=lambda function, case: answer)


def test_sums_within_and_between_hosts_are_told_apart_and_kept():
    ends = {1: (1e-5, 2e-4), 1 << 20: (1e-3, 4e-2)}
    answer = {"hosts": 2, "lines": ends, "case": {CONFIG.hidden_size: (2e-5, 3e-4)}}
    notes = Notes()
    shown = tables.between_hosts(notes, over_hosts(answer), Case(1, 8, 4))
    assert shown.columns == ("what", "how", "within a host (ms)", "between hosts (ms)")
    kept = notes.tables["hosts"].set_index(["what", "how"])
    assert kept.loc[("latency: a sum of 4 bytes", "measured"), "between_ms"] == pytest.approx(0.2)
    next_token = kept.loc["sums of a next token"]
    assert set(next_token.index) == {"measured", "predicted"} and next_token.notna().all().all()
    assert kept.loc[("sums of a first token", "measured")].isna().all()


def test_ranks_of_one_host_have_no_table_of_sums_between_hosts():
    assert "on one host" in repr(tables.between_hosts(Notes(), over_hosts(None), Case(1, 8, 4)))
