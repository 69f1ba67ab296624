"""Names of models of any letters and length, in paths, LaTeX and charts; and numbers of seeds that differ."""

import pytest

from tests.unit.small_results import row
from unibert.evaluate import style
from unibert.evaluate.compare.analysis import analyse
from unibert.evaluate.compare.pages import latex, markdown
from unibert.evaluate.compare.report import write_report

NAMES = ["学生", "教师", "..", ".", "***", "a b", "a_b", "a/b", "e5", "rußland", "A_b"]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_every_model_has_a_tensorboard_folder_of_its_own(tmp_path):
    file = tmp_path / "r.jsonl"
    tests = [row(name, code, [1, 0]) for name in NAMES for code in ("de", "x-学", "x-生")]
    file.write_text("".join(one.model_dump_json() + "\n" for one in tests))
    tb = tmp_path / "out" / "tb"
    for _ in range(2):
        write_report([file], tmp_path / "out", resamples=10, tensorboard=True)
        folders = [path for path in tb.iterdir() if path.is_dir()]
        assert len(folders) == len(NAMES) and {"学生", "教师", "e5", "rußland"} < {path.name for path in folders}
        assert all(len(list(folder.glob("events.*"))) == 1 for folder in folders)
        assert len(list(tmp_path.rglob("events.*"))) == len(NAMES), "nothing above or below"


def test_latex_shows_names_as_they_are():
    page = latex(analyse([row(name, "de", [1, 0]) for name in ("a\\b^c~d", "**x", "_{&}")], resamples=10))
    assert r"a\textbackslash{}b\textasciicircum{}c\textasciitilde{}d & \textbf{50.0} [" in page
    assert "\n**x & " in page and r"\_\{\&\} & " in page


def test_other_numbers_of_seeds_are_said():
    many = [row(model, code, [1, 0], seed=seed) for model in "ab" for code in ("de", "ru") for seed in range(3)]
    few = [row(model, "de", [1, 0], task="qa", seed=s) for model, seeds in (("a", 3), ("b", 1)) for s in range(seeds)]
    found = analyse([*many, *few], resamples=10)
    assert found.unlike == ["qa zero-shot: seeds 3 (a), 1 (b)"]
    assert "**Not measured alike**:\n\n- qa zero-shot: seeds 3 (a), 1 (b)" in markdown(found, charts=[], files=[])
    part = [one for one in many if (one.language, one.seed) != ("ru", 2)]
    assert analyse(part, resamples=10).unlike == ["nli zero-shot: seeds 2 to 3 by language (a, b)"]
    assert not analyse(many, resamples=10).unlike


LONG = "student_with_a_rather_long_name_step_00000220"


@pytest.mark.parametrize("models", [["a"], ["a", LONG], ["a", LONG, f"{LONG}1", *"bcdefg"]])
def test_all_that_is_written_in_a_chart_is_on_the_page_and_off_the_bars(models, tmp_path, monkeypatch):
    from unibert.evaluate.compare import charts

    way = "untuned, language removed (rank 1)"
    tests = [row(model, code, [1, 0, 1]) for model in models for code in ("de", "ru")]
    tests += [
        one.model_copy(update={"way": way, "task": task, "key": one.key + task})
        for one in tests
        for task in ("word_translation", "nli")
    ]
    found, figures = analyse(tests, reference="a", resamples=10), []
    monkeypatch.setattr(style.plt, "close", figures.append)
    charts.heatmap(found, tmp_path / "map.png")
    if found.against:
        charts.improvements(found, tmp_path / "improvement.png")
    for figure in figures:
        figure.canvas.draw()
        (axes,), page = figure.axes, figure.bbox
        labels = [*axes.get_xticklabels(), *axes.get_yticklabels(), *figure.texts]
        for text in labels + [text for one in figure.legends for text in one.get_texts()]:
            box = text.get_window_extent()
            inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
            drawn = text.get_text() and (text.axes is None or text in _shown(text.axes))
            assert inside or not drawn, text
        for other in [*figure.legends, *figure.texts]:
            assert not axes.get_window_extent().overlaps(other.get_window_extent())
        for one in figure.legends:
            assert not any(one.get_window_extent().overlaps(text.get_window_extent()) for text in figure.texts)
            assert [text.get_text() for text in one.get_texts()] == style.shortened(found.models[1:])
    monkeypatch.undo()
    style.plt.close("all")


def _shown(axes):
    """The labels of ticks that are drawn."""
    ends = {"x": sorted(axes.get_xlim()), "y": sorted(axes.get_ylim())}
    ticks = {"x": axes.xaxis.get_major_ticks(), "y": axes.yaxis.get_major_ticks()}
    return [
        label
        for way, (low, high) in ends.items()
        for tick in ticks[way]
        if low <= tick.get_loc() <= high
        for label in (tick.label1, tick.label2)
    ]


def test_short_names_stay_apart():
    assert style.shortened(["e5", LONG]) == ["e5", "student_with_a_…e_step_00000220"]
    alike = [f"{LONG[:20]}{middle}{LONG[20:]}" for middle in "12"]
    assert style.shortened(alike) == alike
