"""Numbers as people write them: decimal signs decided from the whole column, bounds kept, words for nothing."""

import numpy as np
import pytest

from sggp.errors import DataFileError, InputError
from sggp.molecules import read_molecules, read_table
from sggp.molecules.files import is_missing, parse_measurements, parse_numbers, parse_whole, read_numbers
from sggp.molecules.files.measured import measured_numbers

NBSP, THIN, NARROW = "\u00a0", "\u2009", "\u202f"


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1.5", "-2", "+3", ".5", "4."], [1.5, -2, 3, 0.5, 4]),
        (["1e3", "1E-2", "-2.5e+1"], [1000, 0.01, -25]),
        (["−8.8", "–7.5", "－3"], [-8.8, -7.5, -3]),  # minus sign, en dash, full width
        (["1,5", "2,25", "950"], [1.5, 2.25, 950]),
        (["0,123", "950"], [0.123, 950]),
        (["1,5e3", "2"], [1500, 2]),
        (["1,234.5", "1,950", "17"], [1234.5, 1950, 17]),
        (["1.234,5", "1.950", "17"], [1234.5, 1950, 17]),
        (["1,234,567", "1,950"], [1234567, 1950]),
        (["1.234.567", "1.950", "3,5"], [1234567, 1950, 3.5]),
        (["12.5", "1,234"], [12.5, 1234]),
        (["1.234", "7.891"], [1.234, 7.891]),  # three decimals throughout
        (["1.234", "1950"], [1.234, 1950]),  # thousands would show in 1950
        (["1,234", "1950"], [1.234, 1950]),
        (["0.950", "1.234", "7"], [0.95, 1.234, 7]),
        (["1 234", f"1{NBSP}950", f"1{THIN}234{THIN}567", f"2{NARROW}000,5"], [1234, 1950, 1234567, 2000.5]),
        (["1'234.5", "1’950"], [1234.5, 1950]),
        (["95%", "7.5 %"], [95, 7.5]),
        ([" 3 ", "\t4"], [3, 4]),
    ],
)
def test_values(cells, values):
    found, reasons = parse_numbers(cells)
    assert reasons == {}
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    ("cells", "decimal", "values"),
    [
        (["1.234", "950"], ".", [1.234, 950]),
        (["1.234", "950"], ",", [1234, 950]),
        (["1,234", "950"], ",", [1.234, 950]),
        (["1,234", "950"], ".", [1234, 950]),
    ],
)
def test_a_column_of_two_readings_is_refused_until_the_user_decides(cells, decimal, values):
    with pytest.raises(InputError, match=r"cell 1: '1[.,]234' beside '950'.*decimal="):
        parse_numbers(cells)
    np.testing.assert_array_equal(parse_numbers(cells, decimal=decimal)[0], values)


@pytest.mark.parametrize(
    "cells", [["1.5", "1,5"], ["1,5", "7.891"], ["1,234", "1.234"], ["1,234"], ["1,234", "5"]]
)
def test_more_doubts(cells):
    with pytest.raises(InputError, match="decimal="):
        parse_numbers(cells)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("", "no value"),
        ("  ", "no value"),
        ("NaN", "no value: 'NaN'"),
        ("n.d.", "no value: 'n.d.'"),
        ("-", "no value: '-'"),
        ("#N/A", "no value: '#N/A'"),
        ("#DIV/0!", "no value: '#DIV/0!'"),
        ("inf", "not finite: 'inf'"),
        ("1e999", "not finite: '1e999'"),
        ("5 nM", "not a number: '5 nM'"),
        ("~3", "not a number: '~3' is approximate; write the number alone"),
        ("3±1", "not a number: '3±1'"),
        ("1_000", "not a number: '1_000'"),
        ("١٢", "not a number: '١٢'"),
        ("0x1F", "not a number: '0x1F'"),
        ("1.2.2020", "not a number: '1.2.2020' (a decimal comma, or wrong thousands)"),
        ("=1+1", "not a number: '=1+1' is a formula without its value"),
        ("12,34,5", "not a number: '12,34,5' (a decimal comma, or wrong thousands)"),
        ("1-2", "not a number: '1-2'"),
    ],
)
def test_why_a_cell_is_no_number(cell, reason):
    values, reasons = parse_numbers(["1.5", cell, "2.5"])
    assert reasons == {1: reason}
    np.testing.assert_array_equal(values, [1.5, np.nan, 2.5])


def test_bounds_are_values_with_a_side():
    cells = [">10", "<0.1", ">=7.5", "≤3", "≥ 2", "> -4", "5.5", "<", ">>100"]
    values, censored, reasons = parse_measurements(cells)
    np.testing.assert_array_equal(values, [10, 0.1, 7.5, 3, 2, -4, 5.5, np.nan, 100])
    assert censored == ("above", "below", "above", "below", "above", "above", None, None, "above")
    assert list(reasons) == [7]
    values, reasons = parse_numbers(cells)
    assert np.isfinite(values).nonzero()[0].tolist() == [6]
    assert reasons[0] == "not a number but a bound: '>10'"
    assert parse_measurements([">1,5", "2"])[0].tolist() == [1.5, 2]


def test_decisions_are_said():
    assert read_numbers(["1", "2,5"]).notes == ((1, "decimal commas, as in '2,5'"),)
    assert read_numbers(["1", "n.d.", "NA"]).notes == ((1, "'n.d.', 'NA' read as no value"),)
    assert "every number has three decimals" in read_numbers(["1.234"]).notes[0][1]
    assert "since '1950' has no thousands" in read_numbers(["1.234", "1950"]).notes[0][1]
    assert read_numbers(["1.5", "1,234"]).notes == ((1, "commas separate thousands, as in '1,234'"),)
    assert read_numbers(["1", "2.5"]).notes == ()
    assert is_missing(" N/A ")
    assert not is_missing("0")


def test_other_columns_of_the_table_decide(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("smiles;ic50;logp\nCCO;1.234;1,5\nCN;950;2\n")
    table = read_table(path)
    found = table.numbers("ic50")
    assert found.values.tolist() == [1234, 950]
    assert table.said("ic50", found) == [
        "column 'ic50', line 2: the point of '1.234' separates thousands, as other columns show"
    ]
    path.write_text("smiles,ic50,logp\nCCO,1.234,1.5\nCN,950,2\n")
    assert read_table(path).numbers("ic50").values.tolist() == [1.234, 950]


def test_a_doubt_in_a_file_names_line_column_and_the_way_out(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("smiles,ic50\nCCO,\nCN,1.234\nCCC,950\n")
    with pytest.raises(DataFileError, match=r"a.csv line 3, column 'ic50': '1.234' beside '950'.*--decimal"):
        read_molecules(path, need_values=True)
    read = read_molecules(read_table(path, decimal=","), need_values=True)
    assert read.values.tolist() == [1234, 950]
    with pytest.raises(InputError, match="decimal"):
        read_table(path, decimal=";")


def test_a_column_of_text_with_one_number_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("smiles,note\n" + "".join(f"{'C' * i},text {i}\n" for i in range(1, 9)) + "CO,3\nCF,\n")
    with pytest.raises(DataFileError, match=r"1 of 9 filled cells are numbers \(line 2: 'text 1'\)"):
        read_molecules(path, value_column="note")


def test_bounds_in_a_column_of_relations(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "smiles,standard_relation,value\nCCO,'=',5\nCN,'>',10\nCC,<=,2\nC,>,\nCCC,,7\nCCCC,=,>8\n"
    )
    read = read_molecules(path, need_values=True, bounds=True)
    assert read.values.tolist() == [5, 10, 2, 7, 8]
    assert read.censored == (None, "above", "below", None, "above")
    assert any("'standard_relation' says which values are bounds" in note for note in read.notes)
    plain = read_molecules(path, need_values=True)
    assert plain.values.tolist() == [5, 7]
    assert plain.censored == (None, None)
    assert [(r.line, r.reason) for r in plain.rejected] == [
        (3, "value: not a number but a bound: '>10'"),
        (4, "value: not a number but a bound: '<2'"),
        (5, "value: no value"),
        (7, "value: not a number but a bound: '>8'"),
    ]


def test_whole_numbers_as_pandas_writes_them():
    assert parse_whole(["13", "14.0", "-2", "x", "", "1.5", "1e3"]) == (
        [13, 14, -2, None, None, None, None],
        {
            3: "not a whole number: 'x'",
            4: "no value",
            5: "not a whole number: '1.5'",
            6: "not a whole number: '1e3'",
        },
    )


def test_one_row_of_another_relation_hides_no_bounds(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("smiles,standard_relation,value\nCCO,=,5\nCN,>,10\nCC,~,2\nCCC,>,<7\nC,,3\n")
    read = read_molecules(path, need_values=True, bounds=True)
    assert read.values.tolist() == [5, 10, 3]
    assert read.censored == (None, "above", None)
    assert [(r.line, r.reason) for r in read.rejected] == [
        (4, "value: its relation '~' is neither =, > nor <"),
        (5, "value: not a number: its relation '>' is not that in its cell"),
    ]


def test_a_column_of_people_is_no_column_of_relations(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("smiles,operator,value\nCCO,Anna,5\nCN,Ben,10\nCC,>,2\n")
    read = read_molecules(path, need_values=True, bounds=True)
    assert read.values.tolist() == [5, 10, 2]
    assert read.censored == (None, None, None)


@pytest.mark.parametrize("name", ["unit", "Units", "standard_units", "value unit", "Value (units)"])
def test_values_in_several_units_are_refused(tmp_path, name):
    path = tmp_path / "a.csv"
    path.write_text(f"smiles,value,{name}\nCCO,10,nM\nCN,,mM\nCC,5,µM\nCCC,3,\n", encoding="utf-8")
    with pytest.raises(
        DataFileError, match=r"line 4, column .*: 'µM', but 'nM' in line 2: values of 'value'"
    ):
        read_molecules(path, need_values=True)
    path.write_text(f"smiles,value,{name}\nCCO,10,uM\nCN,,mM\nCC,5,µM\nCCC,3,\n", encoding="utf-8")
    assert read_molecules(path, need_values=True).values.tolist() == [10, 5, 3]


def test_relations_of_several_measured_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("smiles,a,b,b_relation,relation\nCCO,10,2,>,=\nCN,5,1,,=\n")
    table = read_table(path)
    assert measured_numbers(table, "b", among=("a", "b")).censored == ("above", None)
    assert measured_numbers(table, "a", among=("a", "b")).censored == (None, None)
    path.write_text("smiles,a,b,relation\nCCO,10,2,>\nCN,5,1,=\n")
    with pytest.raises(DataFileError, match="of which of a, b does column 'relation' say"):
        measured_numbers(read_table(path), "a", among=("a", "b"))
    assert measured_numbers(read_table(path), "a").censored == ("above", None)


@pytest.mark.parametrize("sign", ["±", " ± ", "+-", " +/- "])
def test_what_follows_plus_minus_is_the_standard_error(tmp_path, sign):
    cells = [f"5{sign}0.2", "6.1", f">7{sign}1", f"5{sign}x", f"5{sign}-1", "± 1", "5±1±2", "8", "9"]
    rows = "\n".join(f"{'C' * (i + 1)},{cell}" for i, cell in enumerate(cells))
    path = tmp_path / "a.csv"
    path.write_text(f"smiles,y\n{rows}\n")
    read = read_molecules(path, need_values=True, bounds=True)
    assert read.values.tolist() == [5, 6.1, 7, 8, 9]
    assert np.array_equal(read.errors, [0.2, np.nan, 1, np.nan, np.nan], equal_nan=True)
    assert read.censored == (None, None, "above", None, None)
    assert {row.line for row in read.rejected} == {5, 6, 7, 8}
    assert any("the standard error, as in" in note for note in read.notes)


def test_a_column_of_plus_minus_is_found_and_may_have_decimal_commas(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("smiles;y\nCCO;5,1±0,2\nCCC;6,25 ± 1\n")
    read = read_molecules(path, need_values=True)
    assert (read.values.tolist(), read.errors.tolist()) == ([5.1, 6.25], [0.2, 1])


@pytest.mark.parametrize(("value", "scale"), [("pIC50", "IC50 (nM)"), ("pChEMBL Value", "Standard Value")])
def test_a_relation_of_the_concentration_is_not_that_of_its_logarithm(tmp_path, value, scale):
    """An IC50 above 10,000 nM was read as a pIC50 above 5."""
    path = tmp_path / "a.csv"
    rows = "CCO,=,100,7\nCCC,>,10000,5\nCCN,=,10,8\n"
    path.write_text(f"smiles,relation,{scale},{value}\n{rows}")
    with pytest.raises(DataFileError, match=f"of '{scale[:4]}.*' or of '{value}'"):
        read_molecules(path, value_column=value, bounds=True)
    read = read_molecules(path, value_column=scale, bounds=True)
    assert (read.values.tolist(), read.censored) == ([100, 10000, 10], (None, "above", None))
    path.write_text(f"smiles,{value} relation,{scale},{value}\n{rows.replace('>', '<')}")
    assert read_molecules(path, value_column=value, bounds=True).censored == (None, "below", None)
    path.write_text(f"smiles,relation,{scale},{value}\n{rows.replace('>', '=')}")
    assert read_molecules(path, value_column=value).values.tolist() == [7, 5, 8]


def test_an_error_in_per_cent_of_its_value_is_no_standard_error(tmp_path):
    """20±5% was 20 with a standard error of 5 where all were told so; in a column of per cent both are."""
    path = tmp_path / "t.csv"
    path.write_text("y,share\n20±5%,20%±5%\n30±2%,30%±2%\n40,50%\n50,60%\n60,70%\n")
    table = read_table(path)
    found, share = measured_numbers(table, "y"), measured_numbers(table, "share")
    assert found.errors == {}
    assert (
        found.reasons[0]
        == "not a number: '20±5%' tells its error in per cent; write it in units of the value"
    )
    assert set(found.reasons) == {0, 1}
    assert share.errors == {0: 5.0, 1: 2.0}
