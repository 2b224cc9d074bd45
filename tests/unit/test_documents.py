"""Documents of every kind of source: what is read, what is left out, and one sentence of what is
wrong."""

from __future__ import annotations

import bz2
import errno
import gzip
import json
import logging
import lzma
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import fsspec
import huggingface_hub
import pyarrow
import pyarrow.parquet as parquet
import pytest

from crossproof.activations import columns
from crossproof.activations.documents import read_documents
from crossproof.activations.opening import RemoteFile
from crossproof.activations.sources import DocumentSource
from crossproof.activations.tables import column_of
from crossproof.errors import CrossproofError, CrossproofWarning

TEXTS = ["one two", "three ü", "four"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A file of rows, in the format that its ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_list(rows)
    if path.suffix == ".arrow":
        with pyarrow.OSFile(str(path), "wb") as sink:
            arrow = table.data.table
            with pyarrow.ipc.new_stream(sink, arrow.schema) as writer:
                writer.write_table(arrow)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif path.suffix == ".csv":
        table.to_csv(str(path))
    else:
        table.to_parquet(str(path))
    return path


def refusal(source: str | Path) -> str:
    with pytest.raises(CrossproofError) as caught:
        list(read_documents(source))
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet", "arrow"])
def test_every_table_gives_its_column(tmp_path: Path, ending: str) -> None:
    rows = [{"text": text, "other": f"o{text}", "n": at} for at, text in enumerate(TEXTS)]
    path = write(tmp_path / f"[a] b,c?.{ending}", rows)
    assert list(read_documents(path)) == TEXTS
    assert list(read_documents(f"{path},column=other")) == [f"o{text}" for text in TEXTS]
    assert "other, text" in refusal(f"{path},column=missing")
    assert "not" in refusal(f"{path},column=n")


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet", "arrow"])
def test_rows_without_text_are_left_out_and_counted(tmp_path: Path, ending: str) -> None:
    rows = [{"text": text} for text in (*TEXTS, None, "", None)]
    path = write(tmp_path / f"a.{ending}", rows)
    with pytest.warns(CrossproofWarning, match="2 of 6 rows of '.*' are null: left out"):
        assert list(read_documents(path)) == TEXTS
    path = write(tmp_path / f"b.{ending}", [{"text": None, "n": 1}] * 3)
    assert "None of the 3 rows" in refusal(path)


def test_words_of_a_csv_stay_words(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n,text\n1,NA\n2,null\n3,17\n4,None\n5,\n")
    assert list(read_documents(tmp_path / "a.csv")) == ["NA", "null", "17", "None"]


@pytest.mark.parametrize("value", [3, 1.5, True, ["a"], {"a": "b"}])
def test_what_is_no_text_is_refused(tmp_path: Path, value: object) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "x"}]).with_suffix(".jsonl")
    path.write_text(path.read_text() + "\n" + json.dumps({"text": value}))
    assert "Line 2 of" in refusal(path)
    folder = write(tmp_path / "folder" / "train.parquet", [{"text": value}] * 2).parent
    assert "which is not text" in refusal(f"hf:{folder}")


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for name, content in {
        "a.txt": "one<|endoftext|>two",
        "a.jsonl": '{"text": "one"}\r\n{"text": "two"}',
        "a.csv": "text\none\ntwo",
        "a.json": '[{"text": "one"}, {"text": "two"}]',
    }.items():
        (tmp_path / name).write_text(content, encoding="utf-8-sig", newline="")
        assert list(read_documents(tmp_path / name)) == ["one", "two"], name


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
@pytest.mark.parametrize("ending", ["txt", "jsonl"])
def test_another_encoding_is_refused_with_its_line(
    tmp_path: Path, encoding: str, ending: str
) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_text('{"text": "é"}\n', encoding=encoding)
    assert f"Line 1 of '{path}' is not UTF-8 text" in refusal(path)


def test_lone_surrogates_become_the_replacement_character(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a \\ud83d b \\ude00"}\n{"text": "\\ud83d\\ude00"}')
    assert list(read_documents(path)) == ["a \ufffd b \ufffd", "\U0001f600"]
    path.write_text('{"text": "w", "n": "\\ud83d"}')
    assert list(read_documents(path)) == ["w"]


@pytest.mark.parametrize(("ending", "open_"), [("gz", gzip), ("bz2", bz2), ("xz", lzma)])
def test_compressed_files_are_read(tmp_path: Path, ending: str, open_: Any) -> None:
    whole = ("one two\n<|endoftext|>" * 2000).encode()
    path = tmp_path / f"a.txt.{ending}"
    path.write_bytes(open_.compress(whole))
    assert list(read_documents(path)) == ["one two"] * 2000
    path = path.rename(tmp_path / f"A.TXT.{ending.upper()}")
    assert list(read_documents(path)) == ["one two"] * 2000
    path.write_bytes(open_.compress(whole)[:-20])
    assert "cannot be read at line" in refusal(path)
    path.write_bytes(whole)
    assert "cannot be read at line 1" in refusal(path)


def test_damage_is_named_with_its_line_or_file(tmp_path: Path) -> None:
    good = {"text": "x"}
    for bad in ("{", '{"text": ', "[" * 100_000, '{"text": "a\x00"}', '{"text": 1e', "x"):
        path = tmp_path / "a.jsonl"
        path.write_text(f"{json.dumps(good)}\n\n{bad}\n")
        assert f"Line 3 of '{path}'" in refusal(path)
    for ending in ("parquet", "arrow", "json"):
        path = tmp_path / ending / f"train.{ending}"
        path = write(path, [good] * 20)
        path.write_bytes(path.read_bytes()[:-30])
        for source in (path, f"hf:{path.parent}"):
            assert f"train.{ending}" in refusal(source)
            assert "restore it" in refusal(source)


def test_folders_say_which_file_split_configuration_or_column(tmp_path: Path) -> None:
    row = [{"text": "x"}]
    folder = write(tmp_path / "cast" / "a.jsonl", row).parent
    write(folder / "b.jsonl", [{"text": "y", "meta": 1}])
    assert list(read_documents(f"hf:{folder}")) == ["x", "y"]
    write(folder / "c.jsonl", [{"meta": 1}])
    assert "Line 1 of" in refusal(f"hf:{folder}")
    assert "c.jsonl' is not a JSON object with the field 'text'" in refusal(f"hf:{folder}")
    folder = write(tmp_path / "test" / "test.jsonl", row).parent
    assert "no split 'train', only test: add ',split=NAME'" in refusal(f"hf:{folder}")
    assert list(read_documents(f"hf:{folder},split=test")) == ["x"]
    folder = write(tmp_path / "content" / "train.jsonl", [{"content": "x"}]).parent
    assert "It has: content. Nearest: content." in refusal(f"hf:{folder}")
    assert list(read_documents(f"hf:{folder},column=content")) == ["x"]
    for name in "ab":
        write(tmp_path / "configs" / f"{name}.jsonl", [{"text": name}])
    (tmp_path / "configs" / "README.md").write_text(
        "---\nconfigs:\n- config_name: a\n  data_files: a.jsonl\n"
        "- config_name: b\n  data_files: b.jsonl\n---\n"
    )
    source = f"hf:{tmp_path / 'configs'}"
    assert "several configurations (a, b): add ',config=NAME'" in refusal(source)
    assert "no configuration 'c', only a, b" in refusal(f"{source},config=c")
    assert list(read_documents(f"{source},config=b,split=train,column=text")) == ["b"]


def test_folders_that_hold_no_data_set_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no files of a known kind" in refusal(f"hf:{tmp_path / 'empty'}")
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text("import datasets\n")
    assert "needs a loading script, which is never run" in refusal(f"hf:{tmp_path / 'script'}")
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: no/*.jsonl\n---\n"
    )
    assert "holds no files of a known kind" in refusal(f"hf:{tmp_path / 'named'}")
    folder = write(tmp_path / "yaml" / "train.jsonl", [{"text": "x"}]).parent
    (folder / "README.md").write_text("---\nconfigs: [\n---\n")
    assert "cannot be read" in refusal(f"hf:{folder}")
    folder = write(tmp_path / "a?b" / "train.jsonl", [{"text": "x"}]).parent
    write(tmp_path / "acb" / "train.jsonl", [{"text": "other"}])
    assert "takes for a pattern: rename it" in refusal(f"hf:{folder}")
    assert "names no data set" in refusal("hf:")
    assert "check the name, or the network" in refusal("hf:nobody/nothing")
    (tmp_path / "empty.csv").write_text("")
    assert "is empty" in refusal(tmp_path / "empty.csv")
    (tmp_path / "header.csv").write_text("text\n")
    assert "has no rows" in refusal(tmp_path / "header.csv")


def test_what_save_to_disk_wrote_is_read(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"text": TEXTS})
    table.save_to_disk(str(tmp_path / "one"))
    splits = datasets.DatasetDict({"train": table, "test": table.select([0])})
    splits.save_to_disk(str(tmp_path / "several"))
    assert list(read_documents(f"hf:{tmp_path / 'one'}")) == TEXTS
    assert list(read_documents(f"hf:{tmp_path / 'several'}")) == TEXTS
    assert list(read_documents(f"hf:{tmp_path / 'several'},split=test")) == TEXTS[:1]
    assert "no split 'dev', only train, test" in refusal(f"hf:{tmp_path / 'several'},split=dev")


def test_a_folder_is_not_taken_for_a_builder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "text" / "train.jsonl", [{"text": "x"}])
    monkeypatch.chdir(tmp_path)
    assert list(read_documents("hf:text")) == ["x"]


def test_an_unwritable_cache_and_a_gated_set_name_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "a" / "train.jsonl", [{"text": "x"}]).parent
    for error, words in (
        (OSError(errno.EROFS, "Read-only file system"), "set HF_HOME to a writable folder"),
        (OSError("Dataset 'a' is a gated dataset on the Hub."), "accept its conditions"),
    ):

        def failing(*_: object, problem: OSError = error, **__: object) -> None:
            raise problem

        monkeypatch.setattr(columns, "load_dataset_builder", failing)
        assert words in refusal(f"hf:{folder}")


def test_warnings_of_the_library_are_printed_when_all_went_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[str] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: shown.append(record.getMessage()))
    monkeypatch.setattr(logging.getLogger("datasets"), "handlers", [handler])
    source = DocumentSource("x")
    with columns._errors_of(source):
        logging.getLogger("datasets").warning("an older copy is used")
    assert shown == ["an older copy is used"]

    def damaged() -> None:
        with columns._errors_of(source):
            logging.getLogger("datasets").error("a file is damaged")
            raise ValueError("x")

    with pytest.raises(CrossproofError):
        damaged()
    assert len(shown) == 1


def test_options_that_do_not_suit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")
    assert "only a data set" in refusal(f"{path},split=test")
    assert "leave out ',column='" in refusal(f"{path},column=text")
    assert "no text file" in refusal(tmp_path / "b.txt")
    folder = DocumentSource.parse("hf:a,b,split=c,column=d e")
    assert folder == DocumentSource("a,b", True, split="c", column="d e")


@pytest.mark.parametrize("text", ["null", "\ufeff null\nnull", "null\n" + '{"text": "a"}'])
def test_json_that_begins_with_null_is_refused(tmp_path: Path, text: str) -> None:
    """pyarrow's own reader of JSON would stop the process."""
    path = tmp_path / "a" / "train.json"
    path.parent.mkdir()
    path.write_text(text)
    for source in (path, f"hf:{path.parent}"):
        assert "train.json'" in refusal(source)
        assert "holds null" in refusal(source) or "is not JSON" in refusal(source)


@pytest.mark.parametrize("ending", ["txt", "jsonl", "csv", "parquet"])
def test_what_git_lfs_left_in_a_files_place_is_no_text(tmp_path: Path, ending: str) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / f"a.{ending}").write_text(pointer)
    for source in (tmp_path / f"a.{ending}", f"hf:{tmp_path}"):
        assert f"a.{ending}' is a Git LFS pointer: run `git lfs pull`" in refusal(source)


def test_tables_without_rows_say_so(tmp_path: Path) -> None:
    parquet.write_table(
        pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "a.parquet"
    )
    assert "has no rows" in refusal(tmp_path / "a.parquet")


def test_names_that_no_file_can_have_are_missing_files(tmp_path: Path) -> None:
    for name in ("x" * 5000 + ".txt", "x" * 5000 + ".parquet", "a\0b.jsonl"):
        assert "no text file" in refusal(name)
    assert "cannot be read" in refusal(f"hf:/{'x' * 5000}")


SAME = {
    "text": TEXTS,
    "null": ["a", None, "b"],
    "number": ["a", 3, "b"],
    "true": ["a", True],
    "list": ["a", ["b"]],
}


@pytest.mark.parametrize("kind", SAME)
@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "json", "jsonl.gz", "json.xz"])
def test_every_way_to_the_same_rows_reads_or_refuses_them_alike(
    tmp_path: Path, kind: str, ending: str
) -> None:
    rows = [{"text": value} for value in SAME[kind]]
    lines = json.dumps(rows) if ending.startswith("json.") or ending == "json" else None
    content = (lines or "\n".join(map(json.dumps, rows))).encode()
    compress = {"gz": gzip.compress, "xz": lzma.compress}.get(ending.rpartition(".")[2], bytes)
    path = tmp_path / "data" / f"train.{ending}"
    path.parent.mkdir()
    path.write_bytes(compress(content))
    for source in (path, f"hf:{path.parent}", f"hf:{path}"):
        if kind in ("text", "null"):
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                assert list(read_documents(source)) == [v for v in SAME[kind] if v]
            assert bool(said) == (kind == "null")
        else:
            assert "2 of '" in refusal(source)
            assert "which is not text" in refusal(source)


TABLES = {
    "numbers": pyarrow.array([3, 4]),
    "bytes": pyarrow.array([b"a", b"b"]),
    "lists": pyarrow.array([["a"], ["b"]]),
    "objects": pyarrow.array([{"text": "a"}, {"text": "b"}]),
    "times": pyarrow.array([1, 2], pyarrow.timestamp("ms")),
}


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_files_of_a_folder_are_not_cast_to_what_the_first_one_holds(
    tmp_path: Path, ending: str
) -> None:
    folder = write(tmp_path / "a" / f"a.{ending}", [{"text": "x"}]).parent
    for name, values in TABLES.items():
        put(folder / f"b.{ending}", pyarrow.table({"text": values}))
        kind = str(values.type).partition("<")[0]
        assert f"b.{ending}' holds {kind}" in refusal(f"hf:{folder}"), name
    put(folder / f"b.{ending}", pyarrow.table({"more": pyarrow.array(["y"])}))
    assert f"b.{ending}' has no column 'text'. It has: more" in refusal(f"hf:{folder}")


def put(path: Path, table: pyarrow.Table) -> None:
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
        return
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_text_is_text_in_every_encoding_of_arrow(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    values = pyarrow.array(["a", None, "b", "a"])
    for kind in (
        values,
        values.dictionary_encode(),
        values.cast(pyarrow.large_string()),
        values.cast(pyarrow.string_view()),
    ):
        nested = pyarrow.array([{"text": 1}] * 4)
        put(path, pyarrow.table({"a": nested, "text": kind, "text.b": pyarrow.array([*"wxyz"])}))
        with pytest.warns(CrossproofWarning, match="1 of 4 rows"):
            assert list(read_documents(path)) == ["a", "b", "a"]
        assert list(read_documents(f"{path},column=text.b")) == [*"wxyz"]
    put(path, pyarrow.Table.from_arrays([values, values], ["text", "text"]))
    assert "several columns 'text'" in refusal(path)


def test_splits_of_a_folder_can_be_sliced_and_joined(tmp_path: Path) -> None:
    folder = write(tmp_path / "a" / "train.jsonl", [{"text": f"t{i}"} for i in range(10)]).parent
    write(folder / "test.jsonl", [{"text": "u"}])
    source = f"hf:{folder},split="
    assert list(read_documents(f"{source}train[:20%]")) == ["t0", "t1"]
    assert list(read_documents(f"{source}train[8:]+test")) == ["t8", "t9", "u"]
    assert len(list(read_documents(f"{source}all"))) == 11
    for wrong in ("dev", "dev[:3]"):
        assert "only train, test" in refusal(f"{source}{wrong}"), wrong
    assert "no split 'train[:3': write NAME, NAME[:10%]" in refusal(f"{source}train[:3")


def test_cells_of_a_csv_are_read_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('n,text\n1,007\n2,"a, ""b""\nc"\n\n3,2.50\n4\n5,x\n')
    with pytest.warns(CrossproofWarning, match="1 of 5 rows"):
        assert list(read_documents(path)) == ["007", 'a, "b"\nc', "2.50", "x"]
    for bad, line in (("6,y,z\n", 9), ('6,"y\n', 9), ('6,"y"z\n', 9)):
        path.write_text('n,text\n1,007\n2,"a, ""b""\nc"\n\n3,2.50\n4\n5,x\n' + bad)
        assert f"Line {line} of '{path}'" in refusal(path), bad
    folder = path.parent / "tabs"
    folder.mkdir()
    (folder / "train.tsv").write_text("n\ttext\n1\tNA, b\n")
    assert list(read_documents(f"hf:{folder}")) == ["NA, b"]
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: a\n  data_files: train.tsv\n  sep: 'A'\n---\n"
    )
    assert "no column 'text'" in refusal(f"hf:{folder}")  # as the configuration cuts it


def test_a_data_set_of_the_hub_is_read_by_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its builder names addresses; what they hold is streamed and read like a folder's files."""
    repository = tmp_path / "hub" / "datasets--owner--name"
    folder = write(repository / "snapshots" / "abc" / "train.jsonl", [{"text": "x"}]).parent
    with_number = folder / "more.jsonl"
    with_number.write_text('{"text": 3}')
    builder = datasets.load_dataset_builder(str(folder))
    files = {"train": ["hf://datasets/owner/name@abc/train.jsonl"], "test": [str(with_number)]}
    monkeypatch.setattr(builder.config, "data_files", files)
    monkeypatch.setattr(columns, "load_dataset_builder", lambda *_: builder)
    asked: list[str] = []

    def stream(file: RemoteFile, _: str) -> Any:
        asked.append(file.address)
        return (folder / file.name).open("rb")

    monkeypatch.setattr(RemoteFile, "open", stream)
    assert list(read_documents("hf:owner/name")) == ["x"]
    assert asked == files["train"]
    assert "which is not text" in refusal("hf:owner/name,split=test")
    monkeypatch.setattr(columns, "load_dataset_builder", partial(unless_remote, builder))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr(columns, "snapshot_download", partial(snapshot, tmp_path / "hub"))
    monkeypatch.setattr(builder.config, "data_files", {"train": [str(folder / "train.jsonl")]})
    assert list(read_documents("hf:owner/name")) == ["x"]  # no network: what is there already
    assert "check the name" in refusal("hf:owner/name/x")


def unless_remote(builder: datasets.DatasetBuilder, name: str, _: object) -> Any:
    if name.startswith("owner"):
        raise ConnectionError("Couldn't reach it.")
    return builder


def snapshot(cache: Path, name: str, **options: Any) -> str:
    return str(huggingface_hub.snapshot_download(name, cache_dir=cache, **options))


def test_files_that_a_data_set_leaves_out_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "a" / "deep" / "a.jsonl", [{"text": "x"}]).parents[1]
    write(folder / "b.parquet", [{"text": "y"}])
    (folder / ".hidden.txt").write_text("z")
    with pytest.warns(CrossproofWarning, match=r"from its \.(parquet|jsonl) files: .* left out"):
        assert list(read_documents(f"hf:{folder}")) in (["x"], ["y"])
    write(tmp_path / "b" / "train.jsonl", [{"text": "x"}])
    write(tmp_path / "b" / "test.parquet", [{"text": "y"}])
    assert "several kinds of files" in refusal(f"hf:{tmp_path / 'b'}")


def test_archives_that_are_none_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "train.zip").write_bytes(b"PK")
    assert "cannot be read" in refusal(f"hf:{tmp_path / 'a'}")


def test_sources_spell_configuration_split_and_column(tmp_path: Path) -> None:
    for spelt, meant in {
        "hf:a/b": DocumentSource("a/b", True),
        "hf:a/b:c": DocumentSource("a/b", True, config="c"),
        "hf:a/b:test": DocumentSource("a/b", True, split="test"),
        "hf:a/b:c:train[:10%]#body": DocumentSource("a/b", True, "c", "train[:10%]", "body"),
        "hf:a/b::odd": DocumentSource("a/b", True, split="odd"),
        "a.jsonl#body,weight=.5": DocumentSource("a.jsonl", column="body", weight=0.5),
        f"{tmp_path}": DocumentSource(str(tmp_path), True),
    }.items():
        assert DocumentSource.parse(spelt) == meant, spelt
    assert "too many colons" in refusal("hf:a:b:c:d")
    assert "no number above 0" in refusal("a.txt,weight=-1")
    assert "give all one" in refusal("a.txt,weight=1 + b.txt")


def test_patterns_and_several_sources_follow_one_another(tmp_path: Path) -> None:
    for at, text in enumerate(TEXTS):
        write(tmp_path / "deep" / str(at) / "a.jsonl", [{"text": text}])
    assert list(read_documents(f"{tmp_path}/**/*.jsonl")) == TEXTS
    (tmp_path / "b.txt").write_text("five")
    assert list(read_documents(f"{tmp_path}/deep/*/*.jsonl + {tmp_path}/b.txt")) == [*TEXTS, "five"]
    assert list(read_documents(f"{tmp_path / 'deep' / '0'}")) == TEXTS[:1]
    assert "no text file" in refusal(f"{tmp_path}/*.parquet")


def test_weights_are_shares_of_the_characters(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(["aaaa"] * 30))
    (tmp_path / "b.txt").write_text("<|endoftext|>".join(["bb"] * 30))
    mixed = "".join(read_documents(f"{tmp_path}/a.txt,weight=0.75 + {tmp_path}/b.txt,weight=0.25"))
    assert mixed.count("a") == 120  # the first that ends
    assert abs(mixed.count("b") - 40) <= 4  # no more than a document away
    assert mixed[:60].count("b") in range(10, 20)


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet", "arrow", "jsonl.zst"])
@pytest.mark.parametrize("keys", [("role", "content"), ("from", "value")])
def test_chats_are_spelt_by_what_is_given(
    tmp_path: Path, ending: str, keys: tuple[str, str]
) -> None:
    rows = [{"chat": [dict(zip(keys, ("human", text), strict=True))]} for text in TEXTS]
    path = tmp_path / f"a.{ending}"
    if ending == "jsonl.zst":
        lines = "\n".join(map(json.dumps, rows)).encode()
        path.write_bytes(pyarrow.compress(lines, codec="zstd", asbytes=True))
    else:
        write(path, rows)
    spelt = read_documents(f"{path}#chat", lambda chat: f"<{chat[0]['role']}>{chat[0]['content']}")
    assert list(spelt) == [f"<user>{text}" for text in TEXTS]
    assert "chat template" in refusal(f"{path}#chat")


def test_chats_of_save_to_disk_are_chats(tmp_path: Path) -> None:
    chats = [[{"role": "user", "content": text}] for text in TEXTS]
    datasets.Dataset.from_dict({"text": chats}).save_to_disk(str(tmp_path / "a"))
    assert list(read_documents(tmp_path / "a", lambda chat: chat[0]["content"])) == TEXTS


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.zst", ".parquet", ".arrow"])
def test_files_elsewhere_are_read_as_they_arrive(tmp_path: Path, ending: str) -> None:
    rows = [{"text": text} for text in TEXTS]
    if ending == ".jsonl.zst":
        content = pyarrow.compress(
            "\n".join(map(json.dumps, rows)).encode(), codec="zstd", asbytes=True
        )
    else:
        content = write(tmp_path / f"a{ending}", rows).read_bytes()
    address = f"memory://{tmp_path.name}/a{ending}"
    with fsspec.open(address, "wb") as file:
        file.write(content)
    assert list(column_of(RemoteFile(address), "text")) == TEXTS
    with pytest.raises(CrossproofError, match="cannot be read"):
        list(column_of(RemoteFile(f"memory://{tmp_path.name}/none{ending}"), "text"))
