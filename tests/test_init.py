import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recdiv_core.adapters import guess, look, mapping, shop_config
from recdiv_core.config import Config
from recdiv_core.errors import UserError
from recdiv_core.formats.sniff import sniff
from recdiv_core.settings import load as load_config
from tests.published import FIRST_S, PUBLISHED, RETAIL, lines, online_retail_rows, rows
from tests.test_layouts import config_of, load

RENAMED = ("amazon-2014", "amazon-2018", "amazon-2023", "rees46", "hm", "otto", "online-retail")


def init(*given, out):
    """Look at files as `recdiv init` does, and read the file that it writes."""
    findings = look.look_at([str(path) for path in given])
    shop_config.write(findings, out)
    return findings, load_config(out)


def counts_of(config):
    _, raw, _, kept, counts = load(config)
    users = {event["user_id"] for event in kept}
    kinds = sorted((event["event"], event["timestamp"]) for event in kept)
    return len(raw.table), len(users), kinds, counts.dropped, counts.rejected


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda published: published.layout)
def test_a_published_data_set_is_recognised_and_read_alike(tmp_path, published):
    place = tmp_path / "data"
    place.mkdir()
    published.write(place)
    findings, config = init(place, out=tmp_path / "shop.yaml")
    assert findings.questions == []
    assert counts_of(config) == counts_of(config_of(place, published.layout))


@pytest.mark.parametrize("name", RENAMED)
def test_a_published_log_is_recognised_under_another_name(tmp_path, name):
    published = next(p for p in PUBLISHED if p.layout == name)
    published.write(tmp_path)
    expected = counts_of(config_of(tmp_path, name))
    place = tmp_path / "elsewhere"
    place.mkdir()
    given = [path for path in tmp_path.iterdir() if path.is_file()]
    for path in given:
        is_items = path.name.startswith(("meta", "articles"))
        suffix = path.name[path.name.index(".") :]
        path.rename(place / (path.name if is_items else f"my-{path.stat().st_ino}{suffix}"))
    if name == "otto":
        next(p for p in place.iterdir() if p.stat().st_size < 100).unlink()
    _, config = init(place, out=tmp_path / "shop.yaml")
    assert counts_of(config) == expected


def write_shop(root, head="visitor;sku;when;action", separator=";"):
    root.mkdir(exist_ok=True)
    kinds = ["view"] * 12 + ["add_to_cart"] * 5 + ["purchase"] * 3
    lines(
        root / "log.csv",
        [head]
        + [
            separator.join([f"v{u}", f"{i}", f"2024-03-{1 + n:02} 08:00:00", kinds[n]])
            for u, i, n in rows()
        ],
    )
    lines(
        root / "products.csv",
        ["id,name,color,list_price"] + [f"{i}.0,Blüe shoe {i},blue,{i}.99" for i in range(1, 6)],
        "latin-1",
    )
    return root


def test_a_shop_s_own_files_are_told_apart_and_mapped(tmp_path):
    write_shop(tmp_path / "in")
    findings, config = init(tmp_path / "in", out=tmp_path / "shop.yaml")
    data = config.data
    assert data.clicks.endswith("in/log.csv")
    assert data.items.endswith("in/products.csv")
    assert (data.separator, data.item_separator, data.item_encoding) == (";", "", "latin-1")
    assert data.columns.user_id == "visitor"
    assert data.columns.item_id == "sku"
    assert data.columns.timestamp == "when"
    assert data.columns.event == "action"
    assert data.event_names == {"view": "click", "add_to_cart": "cart"}
    assert data.item_columns == {
        "item_id": "id",
        "title": "name",
        "colour": "color",
        "price": "list_price",
    }
    assert findings.questions == []
    text = (tmp_path / "shop.yaml").read_text()
    assert "view (12), add_to_cart (5), purchase (3)" in text
    plain = text.replace("\n  #", "")
    assert (
        "100% of the log's item ids in the sample are in the catalogue (1.0 taken for 1)" in plain
    )


def test_an_empty_log_is_refused_rather_than_replaced_by_the_catalogue(tmp_path):
    write_shop(tmp_path / "in")
    log, items = tmp_path / "in" / "log.csv", tmp_path / "in" / "products.csv"
    log.write_text("")
    with pytest.raises(UserError, match=r"^FILE=\S*log\.csv is an empty file$"):
        look.look_at([str(log), str(items)])
    marker = log.rename(tmp_path / "in" / "_SUCCESS")  # of Spark
    write_shop(tmp_path / "in")
    assert look.look_at([str(log), str(items), str(marker)]).settings["data.clicks"] == str(log)


def test_what_init_writes_for_a_shop_can_be_read(tmp_path):
    write_shop(tmp_path / "in")
    _, config = init(tmp_path / "in", out=tmp_path / "shop.yaml")
    num_items, num_users, kinds, _, rejected = counts_of(config)
    assert (num_items, num_users, len(kinds), rejected.total()) == (5, 5, 20, 0)


def test_a_file_without_a_header_gets_one(tmp_path):
    lines(
        tmp_path / "in" / "log.txt",
        [f"{u}\t{1000 + i}\tview\t{1_400_000_000 + n}" for u, i, n in rows()],
    )
    _, config = init(tmp_path / "in", out=tmp_path / "shop.yaml")
    assert config.data.separator == "\t"
    assert set(config.data.header) >= {"timestamp", "event"}
    assert config.data.header[2:] == ("event", "timestamp")


def test_nested_json_lines_and_several_files_are_one_log(tmp_path):
    place = tmp_path / "in"
    place.mkdir()
    for part in range(5):
        content = "".join(
            json.dumps(
                {
                    "visitorId": u,
                    "events": [{"productId": i, "ts": (1_400_000_000 + n) * 1000, "type": "view"}],
                }
            )
            + "\n"
            for u, i, n in rows()
        )
        (place / f"part-{part}.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    lines(place / "README.md", ["# a shop"])
    _, config = init(place, out=tmp_path / "shop.yaml")
    assert config.data.clicks.endswith("in/part-*.jsonl.gz")
    assert config.data.columns.user_id == "visitorId"
    assert config.data.columns.item_id == "events.productId"
    assert config.data.columns.timestamp == "events.ts"
    assert config.data.columns.event == "events.type"
    assert len(load(config)[3]) == 100


def test_parquet_of_typed_columns_needs_no_settings(tmp_path):
    users, items, places = zip(*rows(), strict=True)
    times = pa.array([1_400_000_000_000_000 + n for n in places], pa.timestamp("us"))
    table = pa.table({"user_id": users, "item_id": items, "timestamp": times})
    pq.write_table(table, tmp_path / "log.parquet")
    findings, config = init(tmp_path / "log.parquet", out=tmp_path / "shop.yaml")
    assert list(findings.settings) == ["data.clicks"]
    assert len(load(config)[3]) == 20


def test_what_cannot_be_told_is_asked_with_its_answers(tmp_path):
    lines(
        tmp_path / "in" / "log.csv",
        ["session,product_id,date,action,agent"]
        + [f"{u},{i},0{1 + n % 9}/02/2024,{'zoomed' if n % 2 else 'view'},x" for u, i, n in rows()],
    )
    findings, _ = init(tmp_path / "in", out=tmp_path / "shop.yaml")
    asked = [question.text for question in findings.questions]
    assert len(asked) == 3
    assert "Which column names the user?" in asked[0]
    assert "a day and a month, or a month and a day?" in asked[1]
    assert "What is the kind of event 'zoomed' (10 rows of the sample)?" in asked[2]
    text = (tmp_path / "shop.yaml").read_text()
    assert "QUESTION" in text
    assert '\n  # timestamp_format: "%d/%m/%Y"\n' in text
    assert '\n    # zoomed: "drop"\n' in text


def test_an_answer_is_given_by_taking_its_mark_away(tmp_path):
    test_what_cannot_be_told_is_asked_with_its_answers(tmp_path)
    text = (tmp_path / "shop.yaml").read_text()
    answers = ('timestamp_format: "%m/%d/%Y"', 'zoomed: "cart"', 'user_id: "agent"')
    for answer in answers:
        assert f"# {answer}" in text
        text = text.replace(f"# {answer}", answer)
    text = text.replace('    user_id: "session"', '    # user_id: "session"')
    (tmp_path / "shop.yaml").write_text(text)
    data = load_config(tmp_path / "shop.yaml").data
    assert data.timestamp_format == "%m/%d/%Y"
    assert data.event_names == {"view": "click", "zoomed": "cart"}
    assert data.columns.user_id == "agent"


def test_an_answer_to_a_table_that_is_not_there_makes_the_table(tmp_path):
    lines(
        tmp_path / "log.csv",
        ["user_id,item_id,timestamp,event"]
        + [f"{u},{i},{1_400_000_000 + n},{'zoomed' if n else 'click'}" for u, i, n in rows()],
    )
    init(tmp_path / "log.csv", out=tmp_path / "shop.yaml")
    text = (tmp_path / "shop.yaml").read_text()
    answer = 'event_names: {zoomed: "cart"}'
    (tmp_path / "shop.yaml").write_text(text.replace(f"# {answer}", answer))
    assert load_config(tmp_path / "shop.yaml").data.event_names == {"zoomed": "cart"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "is an empty file|is empty"),
        ("a.bin", bytes(range(256)) * 40, "binary"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 200, "binary"),
        ("a.pdf", b"%PDF-1.7 and so on", "PDF"),
        ("a.csv.gz", b"\x1f\x8bbroken", "a.csv.gz: "),
        ("a.parquet", b"not parquet", "parquet"),
        ("a.csv", b"just,some\nwords,here\n", "none of the files looks like a click log"),
        ("a.json", b"[1, 2, 3]", "none of the"),
    ],
)
def test_files_that_are_no_log_are_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        look.look_at([str(tmp_path / name)])
    assert "\n" not in str(caught.value)


def run_init(monkeypatch, capsys, *arguments):
    from pipelines import init as script

    monkeypatch.setattr(sys, "argv", ["init", *map(str, arguments)])
    status = script.main()
    return status, capsys.readouterr()


def test_the_command_prints_one_json_line_and_does_not_overwrite(tmp_path, monkeypatch, capsys):
    write_shop(tmp_path / "in")
    out = tmp_path / "my shop.yaml"
    status, said = run_init(monkeypatch, capsys, tmp_path / "in", "--out", out)
    assert status == 0
    assert json.loads(said.out) == {"config": str(out), "layout": "", "questions": []}
    assert "click log" in said.err
    assert "catalogue" in said.err
    before = out.read_text()
    status, said = run_init(monkeypatch, capsys, tmp_path / "in", "--out", out)
    assert (status, said.out) == (2, "")
    assert said.err == f"error: --out {out} exists and is not overwritten\n"
    assert out.read_text() == before


@pytest.mark.parametrize("out", ["nowhere/shop.yaml", "x" * 300, "a\0b"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch, capsys, out):
    write_shop(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    status, said = run_init(monkeypatch, capsys, "in", "--out", out)
    assert status == 2
    assert "--out" in said.err
    assert said.err.count("\n") == 1


def test_names_of_files_and_columns_cannot_break_the_config(tmp_path):
    place = tmp_path / 'it\'s: "a" #shop\n- x'
    place.mkdir()
    head = "user id: #1;item\\id;ti'me;{action}"
    write_shop(place, head)
    _, config = init(place / "log.csv", place / "products.csv", out=tmp_path / "shop.yaml")
    assert config.data.clicks == str(place / "log.csv")
    assert config.data.columns.user_id == "user id: #1"


def test_looking_imports_neither_torch_nor_ray(tmp_path):
    write_shop(tmp_path / "in")
    code = (
        "import sys; from pipelines import init; sys.argv = ['init', 'in', '--out', 'o.yaml'];"
        "assert init.main() == 0;"
        "print([m for m in ('torch', 'ray', 'mlflow', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_only_the_start_of_a_large_file_is_read(tmp_path):
    path = tmp_path / "log.csv"
    with path.open("w") as stream:
        stream.write("user_id,item_id,timestamp\n")
        stream.write("1,2,1400000000\n" * 3_000_000)
        stream.write('"a broken end')
    assert sniff(str(path)).table.num_rows <= 10_000


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_text_in_a_finding_is_read_back_from_the_yaml(tmp_path_factory, value, note):
    findings = mapping.Findings()
    findings.set("data.clicks", value, note)
    findings.set("data.item_columns", {"title": value})
    out = tmp_path_factory.mktemp("init") / "shop.yaml"
    shop_config.write(findings, out)
    config = load_config(out)
    assert config.data.clicks == value
    assert config.data.item_columns == {"title": value}


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("CustomerID", "user_id"),
        ("visitor_id", "user_id"),
        ("articleId", "item_id"),
        ("StockCode", "item_id"),
        ("event_time", "timestamp"),
        ("createdAt", "timestamp"),
        ("eventType", "event"),
        ("searchTerm", "query"),
        ("Customer No.", "user_id"),
        ("Cust. ID", "user_id"),
        ("Item No.", "item_id"),
    ],
)
def test_usual_names_of_columns_are_known(name, role):
    column = guess.Column(
        name, pa.array({"timestamp": ["2024-01-01"], "event": ["view"]}.get(role, ["a", "b"]))
    )
    other = guess.Column("misc", pa.array(["x", "y"]))
    assert guess.guess_roles([other, column], guess.OF_LOG)[role].column == name


def test_the_default_config_is_not_changed_by_looking():
    assert load_config() == Config()


def test_kinds_of_event_are_found_in_the_names_of_folders(tmp_path):
    for kind in ("view", "basket", "order"):
        lines(
            tmp_path / "in" / f"event={kind}" / "part-0.csv",
            ["user_id,item_id,timestamp"] + [f"{u},{i},{1_400_000_000 + n}" for u, i, n in rows()],
        )
    _, config = init(tmp_path / "in", out=tmp_path / "shop.yaml")
    assert config.data.clicks == str(tmp_path / "in")
    assert config.data.event_names == {"view": "click", "basket": "cart", "order": "purchase"}


def test_a_log_without_a_catalogue_names_the_attributes_of_items(tmp_path):
    lines(
        tmp_path / "log.csv",
        ["uid,product_id,ts,product_name,genre"]
        + [f"u{u},{i},{1_400_000_000 + n},Shoe {i},shoes" for u, i, n in rows()],
    )
    _, config = init(tmp_path / "log.csv", out=tmp_path / "shop.yaml")
    assert config.data.items == ""
    assert config.data.columns.title == "product_name"
    assert config.data.columns.category == "genre"


NAMES_OF_FILES = st.sampled_from(["a.csv", "a.tsv", "a.json", "a.jsonl.gz", "a.txt", "a.parquet"])
CELLS = st.sampled_from(
    ["1", "u1", "", "NULL", '"', '"x', "2024-01-01", "1400000000", "view", "a,b", "Ü", "\0", "{"]
)
TABLES = st.lists(st.lists(CELLS, min_size=1, max_size=5).map(",".join), max_size=8)
CONTENTS = st.one_of(st.binary(max_size=200), TABLES.map(lambda table: "\n".join(table).encode()))


@given(NAMES_OF_FILES, CONTENTS)
def test_any_bytes_end_in_a_config_or_in_one_line(tmp_path_factory, name, content):
    place = tmp_path_factory.mktemp("fuzz")
    (place / name).write_bytes(content)
    said = ""
    try:
        shop_config.write(look.look_at([str(place)]), place / "shop.yaml")
        load_config(place / "shop.yaml")
    except UserError as error:
        said = str(error)
    assert "\n" not in said


@pytest.mark.parametrize("name", ["array.json", "literals.json", "lines.json"])
def test_all_ways_of_json_are_read_as_init_found_them(tmp_path, name):
    events = [{"user_id": u, "item_id": f"i{i}", "timestamp": FIRST_S + n} for u, i, n in rows()]
    content = {
        "array.json": json.dumps(events),
        "literals.json": "".join(f"{event!r}\n" for event in events),
        "lines.json": "".join(json.dumps(event) + "\n" for event in events),
    }[name]
    (tmp_path / name).write_text(content)
    _, config = init(tmp_path / name, out=tmp_path / "shop.yaml")
    assert len(load(config)[3]) == 20


def test_a_log_whose_extension_prepare_does_not_know_is_to_be_renamed(tmp_path):
    lines(
        tmp_path / "clicks.export",
        ["user_id,item_id,timestamp"] + [f"{u},{i},{FIRST_S + n}" for u, i, n in rows()],
    )
    with pytest.raises(UserError, match=r"clicks.export has an unknown extension.*rename it"):
        look.look_at([str(tmp_path)])


@pytest.mark.parametrize("name", ["retailrocket", "rees46", "otto", "ubi"])
def test_a_shop_s_own_catalogue_is_read_beside_a_published_log(tmp_path, name):
    place = tmp_path / "in"
    place.mkdir()
    published = next(p for p in PUBLISHED if p.layout == name)
    published.write(place)
    for path in place.glob("item_prop*"):
        path.unlink()
    ids = [f"{15_000 + i}" if name == "otto" else f"{i}" for i in range(1, 6)]
    lines(place / "my-items.csv", ["sku,name"] + [f"{item},Thing {item}" for item in ids])
    _, config = init(place, out=tmp_path / "shop.yaml")
    assert config.data.layout == name
    _, raw, _, kept, counts = load(config)
    assert set(raw.table["title"].to_pylist()) == {f"Thing {item}" for item in ids}
    assert len(kept) == sum(published.kinds.values())
    assert counts.rejected == {}


def test_all_ids_of_a_large_catalogue_are_compared_with_the_log(tmp_path):
    size = 30_000
    lines(tmp_path / "in" / "items.csv", ["sku,name"] + [f"s{n},Thing {n}" for n in range(size)])
    lines(
        tmp_path / "in" / "log.csv",
        ["user_id,sku,timestamp"] + [f"u{n % 9},s{size - 1 - n},{FIRST_S + n}" for n in range(99)],
    )
    findings, _ = init(tmp_path / "in", out=tmp_path / "shop.yaml")
    assert findings.questions == []
    assert "100% of the log's item ids" in findings.notes["data.items"]


def test_a_workbook_is_recognised(tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="needs openpyxl, of the extra xlsx")
    book = openpyxl.Workbook()
    book.active.append(RETAIL.split(","))
    for row in online_retail_rows():
        book.active.append([*row, "United Kingdom"])
    book.save(tmp_path / "sales of 2010.xlsx")
    _, config = init(tmp_path / "sales of 2010.xlsx", out=tmp_path / "shop.yaml")
    assert config.data.layout == "online-retail"
    assert len(load(config)[3]) == 18


def test_rare_kinds_of_event_are_looked_for_beyond_the_first_rows(tmp_path):
    kinds = ["click"] * 29_000 + ["buy"] * 1_000
    lines(
        tmp_path / "log.csv",
        ["user_id,item_id,timestamp,event"]
        + [f"u{n % 99},i{n % 77},{FIRST_S + n},{kind}" for n, kind in enumerate(kinds)],
    )
    _, config = init(tmp_path / "log.csv", out=tmp_path / "shop.yaml")
    assert config.data.event_names == {"buy": "purchase"}


def test_numbers_in_a_column_called_timestamp_are_the_order_of_a_log(tmp_path):
    rows_of_log = "".join(f"u{n % 9},i{n % 7},{n}\n" for n in range(99))
    (tmp_path / "clicks.csv").write_text(f"user_id,item_id,timestamp\n{rows_of_log}")
    findings, config = init(tmp_path / "clicks.csv", out=tmp_path / "shop.yaml")
    assert not findings.questions
    assert config.data.columns.timestamp == "timestamp"


def test_a_log_whose_times_have_an_unknown_format_is_asked_about_it(tmp_path):
    rows_of_log = "".join(f"u{n % 9},i{n % 7},{n % 27 + 1}. Dez 2023\n" for n in range(99))
    (tmp_path / "clicks.csv").write_text(f"user_id,item_id,day\n{rows_of_log}")
    findings, _ = init(tmp_path / "clicks.csv", out=tmp_path / "shop.yaml")
    (question,) = findings.questions
    assert "set data.timestamp_format" in question.text
    assert question.answers == (("data.columns.timestamp", "day"),)


def test_a_month_in_words_is_a_time_whatever_the_column_is_called(tmp_path):
    times = [f'"Dec {n % 27 + 1}, 2023, {n % 12 + 1}:30 PM"' for n in range(99)]
    rows_of_log = "".join(f"u{n % 9},i{n % 7},{time}\n" for n, time in enumerate(times))
    (tmp_path / "clicks.csv").write_text(f"user_id,item_id,placed\n{rows_of_log}")
    findings, config = init(tmp_path / "clicks.csv", out=tmp_path / "shop.yaml")
    assert config.data.columns.timestamp == "placed"
    assert not findings.questions
    assert len(load(config)[3]) == 99


def test_a_column_called_order_is_the_order_of_a_log_without_times(tmp_path):
    rows_of_log = "".join(f"u{k % 9},i{k % 20},{k // 9}\n" for k in range(90))
    (tmp_path / "clicks.csv").write_text(f"user_id,item_id,order\n{rows_of_log}")
    findings, config = init(tmp_path / "clicks.csv", out=tmp_path / "shop.yaml")
    assert findings.questions == []
    assert config.data.columns.timestamp == "order"
    assert config.data.columns.session_id == "session_id"


def log_of(head, row, separator=","):
    """Return the lines of a log; `row` makes the fields of user, item and number of an event."""
    return [head] + [separator.join(map(str, row(u, i, n))) for u, i, n in rows()]


def test_names_in_another_language_are_guessed_by_their_values_and_asked(tmp_path):
    lines(
        tmp_path / "in" / "bestellungen.csv",
        log_of("Kunde;Artikel;Datum", lambda u, i, n: (f"k{u}", i, f"{n + 1}.03.2024 08:00"), ";"),
    )
    lines(
        tmp_path / "in" / "artikel.csv",
        ["Artikel;Betrag;Marke;Bezeichnung"]
        + [f"{i};{i},50 EUR;M{i % 2};Schuh {i}" for i in range(1, 6)],
    )
    findings, config = init(tmp_path / "in", out=tmp_path / "shop.yaml")
    columns = config.data.columns
    assert (columns.user_id, columns.item_id, columns.timestamp) == ("Kunde", "Artikel", "Datum")
    assert config.data.item_columns == {
        "title": "Bezeichnung",
        "category": "Marke",
        "price": "Betrag",
    }
    assert [question.text.split("?")[0] for question in findings.questions] == [
        "Is 'Bezeichnung' the title",
        "Is 'Marke' the category",
    ]
    assert len(load(config)[3]) == 20


def test_a_user_and_an_item_that_only_their_places_tell_are_asked(tmp_path):
    lines(
        tmp_path / "log.csv",
        log_of("用户,商品,时间", lambda u, i, n: (u, f"g{i}", FIRST_S + n)),
    )
    findings, config = init(tmp_path / "log.csv", out=tmp_path / "shop.yaml")
    assert (config.data.columns.user_id, config.data.columns.item_id) == ("用户", "商品")
    assert [question.answers[0] for question in findings.questions] == [
        ("data.columns.user_id", "用户"),
        ("data.columns.item_id", "商品"),
    ]
    text = (tmp_path / "shop.yaml").read_text()
    assert '    # user_id: "商品"\n    user_id: "用户"' in text


def test_a_catalogue_in_another_language_is_found_by_the_ids_of_the_log(tmp_path):
    lines(
        tmp_path / "in" / "log.csv",
        log_of("user_id,item_id,timestamp", lambda u, i, n: (f"u{u}", f"g{i}", FIRST_S + n)),
    )
    lines(tmp_path / "in" / "kunden.csv", ["Nr,Ort"] + [f"u{u},Ort {u}" for u in range(1, 6)])
    lines(tmp_path / "in" / "waren.csv", ["Nr,Titel"] + [f"g{i},Schuh {i}" for i in range(1, 6)])
    _, config = init(tmp_path / "in", out=tmp_path / "shop.yaml")
    assert config.data.items.endswith("in/waren.csv")
    assert config.data.item_columns == {"item_id": "Nr", "title": "Titel"}


def test_a_name_that_occurs_twice_is_a_name(tmp_path):
    lines(
        tmp_path / "log.csv",
        log_of("user_id,id,item_id,id,timestamp", lambda u, i, n: (u, n, i, i, FIRST_S + n)),
    )
    findings, config = init(tmp_path / "log.csv", out=tmp_path / "shop.yaml")
    assert (findings.questions, config.data.header) == ([], ())
    assert counts_of(config)[3:] == ({}, {})


def test_a_column_that_occurs_twice_and_has_a_role_is_refused(tmp_path):
    lines(
        tmp_path / "log.csv",
        log_of("item_id,item_id,user_id,timestamp", lambda u, i, n: (i, i, u, FIRST_S + n)),
    )
    with pytest.raises(UserError, match=r"more than one column 'item_id', .* its item_id"):
        init(tmp_path / "log.csv", out=tmp_path / "shop.yaml")


def test_a_prepared_data_set_is_refused(tmp_path):
    for name in ("manifest.json", "catalogue.parquet"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"is a prepared data set: run `recdiv train"):
        init(tmp_path, out=tmp_path / "shop.yaml")


def test_prices_with_a_currency_are_prices_for_init_and_for_prepare(tmp_path):
    lines(
        tmp_path / "in" / "log.csv",
        log_of("user_id,item_id,timestamp", lambda u, i, n: (u, i, FIRST_S + n)),
    )
    items = [f"{i};Shoe {i};1.{i}00,99 EUR" for i in range(1, 6)]
    lines(tmp_path / "in" / "items.csv", ["item_id;title;list_price", *items])
    _, config = init(tmp_path / "in", out=tmp_path / "shop.yaml")
    assert config.data.item_columns == {"price": "list_price"}
    prices = load(config)[1].table["price"].to_pylist()
    assert sorted(prices) == [1100.99, 1200.99, 1300.99, 1400.99, 1500.99]


def test_a_first_row_with_two_equal_values_is_no_header(tmp_path):
    lines(tmp_path / "log.csv", ["ann,ann,view,x", "ann,bob,view,y", "bob,ann,cart,z"])
    assert not sniff(str(tmp_path / "log.csv")).has_header


def test_blanks_after_the_separator_hide_no_times(tmp_path):
    lines(
        tmp_path / "log.csv",
        ["user_id, item_id, timestamp"] + [f"{u}, {i}, {FIRST_S + n}" for u, i, n in rows()],
    )
    findings, config = init(tmp_path / "log.csv", out=tmp_path / "shop.yaml")
    assert findings.questions == []
    assert len(load(config)[3]) == 20


def test_a_time_of_day_goes_before_a_date(tmp_path):
    lines(
        tmp_path / "log.csv",
        log_of(
            "event_date,event_timestamp,user_pseudo_id,item_id",
            lambda u, i, n: ("20240301", (FIRST_S + n) * 1_000_000, f"{u}.7", i),
        ),
    )
    _, config = init(tmp_path / "log.csv", out=tmp_path / "shop.yaml")
    assert config.data.columns.timestamp == "event_timestamp"


def test_a_time_of_day_in_a_column_of_its_own_is_told(tmp_path):
    lines(
        tmp_path / "log.csv",
        log_of("customer_email,item_id,date,time", lambda u, i, n: (u, i, "2024-03-01", "10:30")),
    )
    findings, config = init(tmp_path / "log.csv", out=tmp_path / "shop.yaml")
    assert (config.data.columns.user_id, config.data.columns.timestamp) == (
        "customer_email",
        "date",
    )
    (said,) = [evidence for column, _, evidence in findings.table if column == "  time"]
    assert "not read" in said


def test_a_user_of_a_list_of_events_may_occur_once(tmp_path):
    content = "".join(
        json.dumps(
            {
                "customer": {"id": u},
                "events": [{"product": {"id": i}, "ts": FIRST_S + n} for _, i, n in rows()],
            }
        )
        + "\n"
        for u in range(60)
    )
    (tmp_path / "log.jsonl").write_text(content)
    _, config = init(tmp_path / "log.jsonl", out=tmp_path / "shop.yaml")
    columns = config.data.columns
    assert (columns.user_id, columns.item_id) == ("customer.id", "events.product.id")


@pytest.mark.parametrize(("written", "change"), [("g{}", "capital letters"), ("00{}", "zeros")])
def test_ids_that_prepare_would_not_find_are_asked(tmp_path, written, change):
    lines(
        tmp_path / "in" / "log.csv",
        log_of(
            "user_id,item_id,timestamp",
            lambda u, i, n: (u, written.format(i).upper().lstrip("0"), FIRST_S + n),
        ),
    )
    items = [f"{written.format(i)},Thing {i}" for i in range(1, 6)]
    lines(tmp_path / "in" / "items.csv", ["item_id,title", *items])
    findings, _ = init(tmp_path / "in", out=tmp_path / "shop.yaml")
    (question,) = findings.questions
    assert change in question.text
    assert "`prepare` compares ids as they are written" in question.text


def test_a_file_in_a_directory_of_the_log_is_not_listed_as_unused(tmp_path):
    (tmp_path / "log").mkdir()
    for day in ("1", "2"):
        rows = "".join(f"u{n},i{n % 7},2024-01-0{day}\n" for n in range(20))
        (tmp_path / "log" / f"day_{day}.csv").write_text("user_id,item_id,timestamp\n" + rows)
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    given = (tmp_path / "log", tmp_path / "notes.csv")
    findings, _ = init(*given, out=tmp_path / "shop.yaml")
    assert [name for name, role, _ in findings.table if role == "not used"] == ["notes.csv"]


def test_a_catalogue_with_a_row_per_size_says_why_it_is_not_used(tmp_path):
    rows = "".join(f"u{n},i{n % 7},2024-01-01\n" for n in range(20))
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + rows)
    sizes = "".join(f"i{n},shoe {n},{size}\n" for n in range(7) for size in "SML")
    (tmp_path / "items.csv").write_text("item_id,title,size\n" + sizes)
    given = (tmp_path / "log.csv", tmp_path / "items.csv")
    findings, config = init(*given, out=tmp_path / "shop.yaml")
    unused = [said for name, role, said in findings.table if role == "not used"]
    assert config.data.items == ""
    assert len(unused) == 1
    assert unused[0].endswith(
        "a catalogue has one row per item, and 'item_id' has 7 values in 21 rows"
    )
