use std::sync::Arc;

use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::*;

/// One column: values, definition levels, repetition levels.
fn write<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, std::fs::File>,
    values: &[T::T],
    def: &[i16],
    rep: &[i16],
) {
    let mut column = group.next_column().expect("a writer").expect("a column");
    let rep = (!rep.is_empty()).then_some(rep);
    column.typed::<T>().write_batch(values, Some(def), rep).expect("written");
    column.close().expect("closed");
}

fn bytes(values: &[&str]) -> Vec<ByteArray> {
    values.iter().map(|v| ByteArray::from(*v)).collect()
}

const SCHEMA: &str = "message schema {
    optional binary source (STRING);
    optional double kl;
    optional boolean flipped;
    optional int32 code (INTEGER(32,false));
    optional int64 hash (INTEGER(64,false));
    optional group posterior (LIST) { repeated group list { optional float item; } }
    optional group top_tokens (LIST) { repeated group list { optional binary item (STRING); } }
    optional group prompt (LIST) { repeated group list { optional group item {
        optional binary role (STRING); optional binary content (STRING); } } }
    optional int32 day (DATE);
}";

/// Three rows; the third is null in most columns.
fn example() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("example.parquet");
    let schema = Arc::new(parse_message_type(SCHEMA).expect("a schema"));
    let properties = WriterProperties::builder()
        .set_compression(parquet::basic::Compression::ZSTD(parquet::basic::ZstdLevel::default()))
        .build();
    let file = std::fs::File::create(&path).expect("a file");
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).expect("a writer");
    let mut group = writer.next_row_group().expect("a row group");
    write::<ByteArrayType>(&mut group, &bytes(&["travel", "health", "travel"]), &[1, 1, 1], &[]);
    write::<DoubleType>(&mut group, &[0.5, 0.25], &[1, 1, 0], &[]);
    write::<BoolType>(&mut group, &[true, false, false], &[1, 1, 1], &[]);
    // A number above 2^31, which is negative where the sign is misread.
    write::<Int32Type>(&mut group, &[3, 4_000_000_000u32 as i32, 3], &[1, 1, 1], &[]);
    write::<Int64Type>(&mut group, &[(1 << 53) + 1, 7], &[1, 1, 0], &[]);
    write::<FloatType>(&mut group, &[0.25, 0.75, 1.0], &[3, 3, 3, 0], &[0, 1, 0, 0]);
    write::<ByteArrayType>(&mut group, &bytes(&["a", "b"]), &[3, 3, 1, 0], &[0, 1, 0, 0]);
    write::<ByteArrayType>(&mut group, &bytes(&["user", "user"]), &[4, 4, 0], &[0, 0, 0]);
    write::<ByteArrayType>(&mut group, &bytes(&["Hi <b>", "How?"]), &[4, 4, 0], &[0, 0, 0]);
    write::<Int32Type>(&mut group, &[1, 2, 3], &[1, 1, 1], &[]);
    group.close().expect("closed");
    writer.close().expect("closed");
    let path = path.display().to_string();
    (folder, path)
}

#[test]
fn columns_come_back_with_their_nulls() {
    let (_folder, path) = example();
    let table = Table::read(&path).expect("a table");
    assert_eq!(table.rows(), 3);
    assert_eq!(table.texts("source").expect("texts"), ["travel", "health", "travel"]);
    assert_eq!(table.numbers("kl").expect("numbers"), [Some(0.5), Some(0.25), None]);
    assert_eq!(table.flags("flipped").expect("flags"), [true, false, false]);
    assert_eq!(table.all_numbers("code").expect("numbers"), [3.0, 4e9, 3.0]);
    // f64 would make 9007199254740992 of it.
    let digits = [Some("9007199254740993".to_string()), Some("7".into()), None];
    assert_eq!(table.column("hash"), Ok(&Column::Text(digits.into())));
    let lists = Column::Numbers(vec![Some(vec![0.25, 0.75]), Some(vec![1.0]), None]);
    assert_eq!(table.column("posterior"), Ok(&lists));
    let tokens = Column::Texts(vec![Some(vec!["a".into(), "b".into()]), Some(Vec::new()), None]);
    assert_eq!(table.column("top_tokens"), Ok(&tokens));
    let prompts = Column::Texts(vec![Some(vec!["user: Hi <b>".into()]), Some(vec!["user: How?".into()]), None]);
    assert_eq!(table.column("prompt"), Ok(&prompts));
}

#[test]
fn faults_name_the_file_and_the_column() {
    let (_folder, path) = example();
    let table = Table::read(&path).expect("a table");
    let of = |error: Error| {
        assert_eq!(error.file, path);
        error.to_string()
    };
    assert!(
        of(table.texts("origin").expect_err("no column")).contains("column `origin`: no such column; there are source")
    );
    assert!(of(table.texts("kl").expect_err("another kind")).contains("column `kl`: holds numbers, not texts"));
    assert!(of(table.all_numbers("kl").expect_err("a null")).contains("column `kl`: row 3 is null"));
    assert!(of(table.column("day").expect_err("a date")).contains("column `day`: columns of type INT32 are not read"));
    assert!(of(table.sort("posterior").expect_err("lists")).contains("`posterior`"));
    assert!(of(table.keep("source", true).expect_err("another kind")).contains("`source`"));
    assert!(of(table.filter(&[true]).expect_err("a short mask")).contains("1 rows for a table of 3"));
    assert!(of(table.group(&["source"]).and_then(|g| g.mean(&["source"])).expect_err("texts")).contains("no mean"));
    assert!(Table::read("missing.parquet").expect_err("no file").to_string().starts_with("missing.parquet: "));
    std::fs::write(&path, "no Parquet").expect("written");
    assert!(of(Table::read(&path).expect_err("not Parquet")).len() > path.len());
}

#[test]
fn a_null_in_a_list_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("null.parquet");
    let schema = "message schema { optional group prior (LIST) { repeated group list { optional float item; } } }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let file = std::fs::File::create(&path).expect("a file");
    let mut writer = SerializedFileWriter::new(file, schema, Default::default()).expect("a writer");
    let mut group = writer.next_row_group().expect("a row group");
    write::<FloatType>(&mut group, &[1.0], &[3, 2], &[0, 1]);
    group.close().expect("closed");
    writer.close().expect("closed");
    let error = Table::read(&path).expect_err("a null").to_string();
    assert!(error.contains("column `prior`: row 1: a null in a list"), "{error}");
}

fn small() -> Table {
    let texts = |values: [&str; 4]| values.map(String::from);
    Table::new("small")
        .with_texts("source", texts(["b", "a", "b", "c"]))
        .and_then(|t| t.with_numbers("kl", [Some(1.0), Some(5.0), Some(2.0), None]))
        .and_then(|t| t.with("flipped", Column::Flag([true, false, false, true].map(Some).to_vec())))
        .expect("a table")
}

#[test]
fn groups_count_and_average() {
    let table = small();
    let by_source = table.group(&["source"]).and_then(|g| g.mean(&["kl", "flipped"])).expect("means");
    assert_eq!(by_source.texts("source").expect("keys"), ["a", "b", "c"]);
    assert_eq!(by_source.all_numbers("n").expect("counts"), [1.0, 2.0, 1.0]);
    assert_eq!(by_source.numbers("kl").expect("means"), [Some(5.0), Some(1.5), None]);
    assert_eq!(by_source.all_numbers("flipped").expect("shares"), [0.0, 0.5, 1.0]);
    let both = table.group(&["flipped", "source"]).and_then(|g| g.count()).expect("counts");
    assert_eq!(both.flags("flipped").expect("keys"), [false, false, true, true]);
    assert_eq!(both.texts("source").expect("keys"), ["a", "b", "b", "c"]);
}

#[test]
fn rows_are_kept_sorted_and_joined() {
    let table = small();
    assert_eq!(table.keep("source", "b").and_then(|t| t.all_numbers("kl")).expect("rows"), [1.0, 2.0]);
    assert_eq!(table.keep("kl", 5.0).and_then(|t| t.texts("source")).expect("rows"), ["a"]);
    assert_eq!(table.keep("flipped", true).expect("rows").rows(), 2);
    let sorted = table.sort("kl").expect("rows");
    assert_eq!(sorted.numbers("kl").expect("numbers"), [None, Some(1.0), Some(2.0), Some(5.0)]);
    assert_eq!(sorted.reverse().head(1).texts("source").expect("texts"), ["a"]);
    let other = Table::new("other").with_texts("source", ["b".into(), "c".into()]).expect("a table");
    let other = other.with_numbers("accuracy", [Some(0.5), Some(0.75)]).expect("a table");
    let joined = table.join(&other, "source").expect("a table");
    assert_eq!(joined.numbers("accuracy").expect("numbers"), [Some(0.5), None, Some(0.5), Some(0.75)]);
    assert_eq!(joined.select(&["accuracy", "kl"]).expect("a table").names(), ["accuracy", "kl"]);
    let twice = other.join(&table, "source").expect_err("b is there twice").to_string();
    assert!(twice.contains("small: column `source`: the value of row 3 is there twice"), "{twice}");
}

#[test]
fn a_table_is_shown_with_attributes_and_its_text_escaped() {
    let (_folder, path) = example();
    let html = Table::read(&path).expect("a table").html();
    assert!(html.contains("<td align=\"left\">user: Hi &lt;b&gt;</td>"), "{html}");
    assert!(html.contains("<td align=\"right\">0.2500</td>") && html.contains("<td align=\"right\"></td>"), "{html}");
    assert!(!html.contains("style") && !html.contains("class="), "{html}");
    let long = Table::new("long").with_numbers("n", (0..30).map(|i| Some(f64::from(i)))).expect("a table");
    assert!(
        long.html().contains("<td align=\"right\">23</td>") && !long.html().contains("<td align=\"right\">24</td>")
    );
    assert!(long.html().ends_with("<p>24 of 30 rows</p>"), "{}", long.html());
    let words = "word ".repeat(20);
    let cut = Table::new("cut").with_texts("text", [words, "x".repeat(80)]).expect("a table").html();
    assert!(cut.contains("word word…</td>") && cut.contains(&format!(">{}…</td>", "x".repeat(71))), "{cut}");
    for (value, shown) in [(3.0, "3"), (0.123456, "0.1235"), (-12.3456, "-12.35"), (1e-9, "1.000e-9")] {
        assert_eq!(crate::show::number(value), shown);
    }
}
