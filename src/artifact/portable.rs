//! The Arrow schema that Parquet files carry for their readers.
//!
//! Left to itself, polars writes the types that it has in memory: `string_view` and `large_list`. Readers
//! then give those to their users, where older ones fail and newer ones do not join such a table with
//! another that has plain strings and lists. The bytes of the columns are the same either way.

use std::sync::Arc;

use arrow::datatypes::{DataType as Arrow, Field, Fields, Schema};
use polars::io::parquet::write::KeyValueMetadata;
use polars::prelude::DataType;

/// Metadata by which readers take texts as `string` and lists as `list`, and `marks`. Where a column has a type that
/// this program does not write, the schema is left to polars.
pub fn metadata(frame: &polars::prelude::Schema, marks: &[(String, String)]) -> Option<KeyValueMetadata> {
    let fields: Option<Vec<Field>> = frame.iter().map(|(name, dtype)| field(name, dtype)).collect();
    let encoded = fields.map(|fields| parquet::arrow::encode_arrow_schema(&Schema::new(fields)));
    let schema = encoded.map(|encoded| (parquet::arrow::ARROW_SCHEMA_META_KEY.to_string(), encoded));
    let all: Vec<(String, String)> = schema.into_iter().chain(marks.iter().cloned()).collect();
    (!all.is_empty()).then(|| KeyValueMetadata::from_static(all))
}

fn field(name: &str, dtype: &DataType) -> Option<Field> {
    let arrow = match dtype {
        DataType::Boolean => Arrow::Boolean,
        DataType::UInt8 => Arrow::UInt8,
        DataType::UInt32 => Arrow::UInt32,
        DataType::UInt64 => Arrow::UInt64,
        DataType::Int32 => Arrow::Int32,
        DataType::Int64 => Arrow::Int64,
        DataType::Float32 => Arrow::Float32,
        DataType::Float64 => Arrow::Float64,
        DataType::String => Arrow::Utf8,
        DataType::List(inner) => Arrow::List(Arc::new(field("element", inner)?)),
        DataType::Struct(fields) => {
            let fields: Option<Vec<Field>> = fields.iter().map(|f| field(f.name(), f.dtype())).collect();
            Arrow::Struct(Fields::from(fields?))
        }
        _ => return None,
    };
    Some(Field::new(name, arrow, true))
}

#[cfg(test)]
mod tests {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use polars::prelude::*;

    #[test]
    fn readers_see_plain_texts_and_lists() {
        let messages = df!("role" => ["user", "user"], "content" => ["a", "b"]).unwrap().into_struct("m".into());
        let prompt = Series::new(
            "prompt".into(),
            [
                messages.into_series(),
                Series::new_empty(
                    "m".into(),
                    &DataType::Struct(vec![
                        Field::new("role".into(), DataType::String),
                        Field::new("content".into(), DataType::String),
                    ]),
                ),
            ],
        );
        let mut frame = df!(
            "text" => [Some("x"), None],
            "line" => [1u64, 2],
            "p" => [Some(0.5f64), None],
            "flag" => [true, false],
        )
        .unwrap();
        frame.with_column(prompt.into_column()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.parquet");
        super::super::write_parquet(&path, &mut frame).unwrap();
        assert_eq!(super::super::read_parquet(&path).unwrap(), frame);
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&path).unwrap()).unwrap();
        let told: Vec<String> =
            reader.schema().fields().iter().map(|f| format!("{}: {}", f.name(), f.data_type())).collect();
        let told = told.join("\n");
        assert!(told.contains("text: Utf8\n") && told.contains("line: UInt64\n"), "{told}");
        assert!(told.contains("prompt: List(") && !told.contains("View") && !told.contains("Large"), "{told}");
    }
}
