//! Lists of structs as flat columns and offsets: the one place that knows how
//! polars lays nested columns out. Stages then work on flat columns, without a
//! frame or a series per row.

use polars::prelude::*;

use crate::error::Result;

/// A list-of-structs column taken apart: row `i` owns the flat rows `offsets[i]..offsets[i + 1]`.
#[derive(Debug, Clone)]
pub struct ListOfStructs {
    offsets: Vec<i64>,
    fields: Vec<Series>,
}

impl ListOfStructs {
    /// Takes a column apart (no text is copied).
    ///
    /// # Errors
    /// [`crate::Error::Frame`] where it is not a list of structs.
    pub fn open(column: &Column) -> Result<ListOfStructs> {
        let list = column.list()?.rechunk().into_owned();
        let offsets = match list.downcast_iter().next() {
            Some(chunk) => chunk.offsets().as_slice().to_vec(),
            None => vec![0],
        };
        let fields = list.get_inner().struct_()?.fields_as_series();
        Ok(ListOfStructs { offsets, fields })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The flat rows that belong to row `i`.
    pub fn range(&self, i: usize) -> std::ops::Range<usize> {
        self.offsets[i] as usize..self.offsets[i + 1] as usize
    }

    /// The flat rows of all rows.
    fn range_of_all(&self) -> std::ops::Range<usize> {
        self.offsets[0] as usize..self.offsets[self.len()] as usize
    }

    /// One field, flat.
    ///
    /// # Errors
    /// [`crate::Error::Frame`] where there is no such field.
    pub fn field(&self, name: &str) -> Result<&Series> {
        let found = self.fields.iter().find(|f| f.name().as_str() == name);
        Ok(found.ok_or_else(|| polars_err!(StructFieldNotFound: "{name}"))?)
    }
}

/// Builds a list-of-structs column from flat fields; row `i` gets the flat rows `offsets[i]..offsets[i + 1]`.
///
/// # Errors
/// [`crate::Error::Frame`] where the offsets do not fit the fields.
pub fn list_of_structs(name: &str, offsets: Vec<i64>, fields: &[Series]) -> Result<Column> {
    let rows = fields.first().map_or(0, |f| f.len());
    let flat = StructChunked::from_series("item".into(), rows, fields.iter())?.into_series().rechunk();
    let values = flat.chunks()[0].clone();
    let kind = LargeListArray::default_datatype(values.dtype().clone());
    let array: ArrayRef = Box::new(LargeListArray::try_new(kind, offsets.try_into()?, values, None)?);
    Ok(Series::try_from((PlSmallStr::from_str(name), array))?.into_column())
}

/// A list-of-structs column with its texts copied into buffers of their own. Rows that were gathered or
/// sliced keep the texts of all rows alive, and polars writes those too when the texts are nested.
///
/// # Errors
/// [`crate::Error::Frame`] where it is not a list of structs.
pub fn compacted(column: &Column) -> Result<Column> {
    let open = ListOfStructs::open(column)?;
    let flat = open.range_of_all();
    let first = open.offsets[0];
    let offsets: Vec<i64> = open.offsets.iter().map(|offset| offset - first).collect();
    let copy = |field: &Series| -> Result<Series> {
        let Ok(texts) = field.str() else { return Ok(field.slice(first, flat.len())) };
        let mut builder = StringChunkedBuilder::new(field.name().clone(), flat.len());
        flat.clone().for_each(|k| builder.append_option(texts.get(k)));
        Ok(builder.finish().into_series())
    };
    let fields = open.fields.iter().map(copy).collect::<Result<Vec<_>>>()?;
    list_of_structs(column.name(), offsets, &fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Column {
        let a = Series::new("a".into(), ["x", "y", "z"]);
        let b = Series::new("b".into(), [Some(1.0), None, Some(3.0)]);
        list_of_structs("l", vec![0, 1, 1, 3], &[a, b]).unwrap()
    }

    #[test]
    fn lists_survive_a_round_trip_and_a_gather() {
        let column = sample();
        assert_eq!(column.len(), 3);
        let open = ListOfStructs::open(&column).unwrap();
        assert_eq!((open.range(0), open.range(1), open.range(2)), (0..1, 1..1, 1..3));
        assert_eq!(open.field("b").unwrap().f64().unwrap().get(2), Some(3.0));
        assert!(open.field("c").is_err());

        let turned = ListOfStructs::open(&column.take_slice(&[2, 0]).unwrap()).unwrap();
        let texts = turned.field("a").unwrap().str().unwrap();
        let row = |i: usize| turned.range(i).map(|k| texts.get(k).unwrap().to_string()).collect::<Vec<_>>();
        assert_eq!((row(0), row(1)), (vec!["y".to_string(), "z".into()], vec!["x".to_string()]));

        let tail = ListOfStructs::open(&column.slice(1, 2)).unwrap();
        assert_eq!(tail.len(), 2);
        assert_eq!(tail.range(1).len(), 2);
    }

    #[test]
    fn offsets_beyond_the_fields_are_refused() {
        let a = Series::new("a".into(), ["x"]);
        assert!(list_of_structs("l", vec![0, 2], &[a]).is_err());
        assert!(ListOfStructs::open(&Column::new("n".into(), [1, 2])).is_err());
    }

    #[test]
    fn no_rows_are_fine() {
        let column = list_of_structs("l", vec![0], &[Series::new_empty("a".into(), &DataType::String)]).unwrap();
        assert!(ListOfStructs::open(&column).unwrap().is_empty());
    }
}
