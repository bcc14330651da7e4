from __future__ import annotations

import re

import pytest

from gair_core.evaluation.columns import MEASURES
from gair_core.evaluation.paper_tables import TITLES, paper_costs, paper_table

_CITATION = re.compile(r"\s*\(\w+\d{4}\w*\)")


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("table 1", 13, 12),
        ("table 2", 21, 8),
        ("table 3", 6, 8),
        ("table 4", 7, 4),
        ("table 5", 4, 1),
        ("table 6", 3, 8),
        ("figure 5", 5, 3),
    ],
)
def test_every_cell_has_a_number(name, rows, columns):
    table = paper_table(name)
    assert (len(table.rows), len(table.columns)) == (rows, columns)
    assert {column.split()[0] for column in table.columns} <= MEASURES.keys()
    if name != "figure 5":
        assert all(set(row.values) == set(table.columns) for row in table.rows)
    assert all(float(value) >= 0 for row in table.rows for value in row.values.values())


def test_every_row_stands_in_the_paper(shared):
    text = _CITATION.sub("", (shared / "paper" / "gair_paper.txt").read_text("utf-8"))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for name in TITLES:
        if name in ("table 5", "figure 5"):
            continue
        for row in paper_table(name).rows:
            numbers = " ".join(row.values.values())
            if name in ("table 1", "table 2", "table 4"):
                assert " ".join(filter(None, (row.name, row.note, numbers))) in lines
            else:
                assert any(line.endswith(f" {numbers}") for line in lines), row


def test_table_5_and_figure_5_stand_in_the_paper(shared):
    text = (shared / "paper" / "gair_paper.txt").read_text("utf-8")
    noise = [value for row in paper_table("table 5").rows for value in row.values.values()]
    assert f"RMSE {' '.join(noise)}\n" in text
    all_three = paper_table("figure 5").rows[-1].values
    assert (
        f"non-linear probing ({all_three['socioeconomic nonlinear']}), full fine-tuning "
        f"({all_three['socioeconomic full']}), and linear probing ({all_three['socioeconomic linear']})"
    ) in text
    photo = next(row for row in paper_table("figure 5").rows if row.inputs == "photo")
    of_table_1 = paper_table("table 1").rows[-1].values
    assert dict(photo.values) == {key: of_table_1[key] for key in photo.values}


def test_table_7_stands_in_the_paper(shared):
    text = (shared / "paper" / "gair_paper.txt").read_text("utf-8")
    standard, ours, joint = paper_costs()
    assert (standard.gflops, standard.latency_ms) == (ours.gflops, ours.latency_ms) == (23.10, 10.34)
    assert f"GAIR (Ours) {ours.gflops:.2f} Standard (ViT-B only) {ours.latency_ms:.2f}" in text
    assert f"{joint.gflops:.2f} Optional: Joint w/ NILI {joint.latency_ms:.2f}" in text


def test_the_same_model_has_the_same_numbers_in_all_tables():
    """The paper repeats some results; a slip of the pen would show."""
    for repeated, source in (("table 4", "table 1"), ("table 4", "table 2"), ("table 6", "table 2")):
        full = {row.pretraining: row.values for row in paper_table(source).rows}
        for row in paper_table(repeated).rows:
            if row.pretraining in full:
                known = full[row.pretraining]
                assert {key: value for key, value in row.values.items() if key in known} == {
                    key: known[key] for key in row.values if key in known
                }
