"""The translators' catalogue holds every marked text, and keeps what is translated."""

from __future__ import annotations

import pytest

from tools.extract_texts import check_names, collect, document, known_translations, texts_of


def test_marked_texts_are_found_across_lines_and_marks():
    source = 'A = translatable("one <b>")\ndef f():\n    return tr(\n        "two "\n        "parts"\n'
    source += '    ), other("three")\n'
    assert texts_of(source) == [(1, "one <b>"), (4, "two parts")]


def test_a_formatted_text_is_refused():
    with pytest.raises(ValueError, match="line 1: a formatted text cannot be translated"):
        texts_of('tr(f"{count} scenes")')


def test_translations_survive_a_renewal(tmp_path):
    (tmp_path / "module.py").write_text('tr("one <b> & two")\ntr("new")\ntr("one <b> & two")\n')
    file = tmp_path / "gair_de.ts"
    assert known_translations(file) == {}
    places = collect(tmp_path)
    assert places == {"one <b> & two": [("module.py", 1), ("module.py", 3)], "new": [("module.py", 2)]}
    file.write_text(document(places, {"one <b> & two": "eins <b> & zwei", "gone": "weg"}, "de"))
    assert known_translations(file) == {"one <b> & two": "eins <b> & zwei"}
    assert 'type="unfinished"' in file.read_text()


def test_a_translation_that_changes_a_name_in_braces_is_refused():
    check_names({"{count} pixels of {name}": "{name} hat {count} Pixel"})
    with pytest.raises(ValueError, match="lost or changed a name in braces"):
        check_names({"{count} pixels": "{anzahl} Pixel"})
