//! A person's decisions about labels: a table that is written for review, and read back.

use std::collections::HashMap;
use std::path::Path;

use polars::prelude::*;

use crate::artifact;
use crate::error::{Error, Result};
use crate::schema::{audit, col};

/// What is to be done with a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The label is right.
    Keep,
    /// The label is wrong: the sides change places.
    Flip,
    /// The pair is not to be trained on.
    Drop,
}

/// One row of the table: what a person needs to decide, and the decision.
#[derive(Debug, Clone, PartialEq)]
pub struct ReviewRow {
    /// Pair id.
    pub id: String,
    /// `keep`, `flip` or `drop`; empty where nobody has decided.
    pub verdict: String,
    /// Probability that the label is wrong.
    pub p_wrong: f64,
    /// Why, in words.
    pub reasons: String,
    /// The prompt.
    pub prompt: String,
    /// The response observed as preferred.
    pub chosen: String,
    /// The other one.
    pub rejected: String,
}

/// Writes the table as CSV with a header.
///
/// # Errors
/// [`Error::Io`]; [`Error::Frame`].
pub fn write(path: &Path, rows: &[ReviewRow]) -> Result<()> {
    let text =
        |name: &str, get: fn(&ReviewRow) -> &str| Column::new(name.into(), rows.iter().map(get).collect::<Vec<&str>>());
    let columns = vec![
        text(col::ID, |r| &r.id),
        text(audit::VERDICT, |r| &r.verdict),
        Column::new(audit::P_WRONG.into(), rows.iter().map(|r| r.p_wrong).collect::<Vec<f64>>()),
        text(audit::REASONS, |r| &r.reasons),
        text(col::PROMPT, |r| &r.prompt),
        text(col::CHOSEN, |r| &r.chosen),
        text(col::REJECTED, |r| &r.rejected),
    ];
    let mut frame = DataFrame::new(rows.len(), columns)?;
    artifact::write(path, |out| Ok(CsvWriter::new(out).finish(&mut frame)?))
}

/// Reads the decisions of a table: those of rows with a verdict, by pair id. Columns other than `id` and `verdict` are
/// not read.
///
/// # Errors
/// [`Error::Data`] with the pair and the field for a verdict that is not known, a pair that is named twice, or a table
/// without these columns.
pub fn read(path: &Path) -> Result<HashMap<String, Verdict>> {
    let refused = |field: &str, message: String| Error::Data {
        path: path.to_path_buf(),
        line: None,
        field: Some(field.into()),
        message,
        hint: None,
    };
    // All columns as text: an id of digits alone is none of them a number.
    let options = CsvReadOptions::default().with_has_header(true).with_infer_schema_length(Some(0));
    let frame = options
        .try_into_reader_with_file_path(Some(path.to_path_buf()))
        .and_then(SerReader::finish)
        .map_err(|e| refused("", format!("not a CSV table: {e}")))?;
    let texts = |name: &str| -> Result<Vec<String>> {
        let column = frame.column(name).map_err(|_| refused(name, "the table has no such column".into()))?;
        Ok(column.str()?.iter().map(|text| text.unwrap_or_default().to_string()).collect())
    };
    let mut found = HashMap::new();
    for (id, verdict) in texts(col::ID)?.into_iter().zip(texts(audit::VERDICT)?) {
        let verdict = match verdict.trim().to_lowercase().as_str() {
            "" => continue,
            "keep" => Verdict::Keep,
            "flip" => Verdict::Flip,
            "drop" => Verdict::Drop,
            other => {
                let message = format!("pair {id}: expected keep, flip, drop or nothing, got {other:?}");
                return Err(refused(audit::VERDICT, message));
            }
        };
        if found.insert(id.clone(), verdict).is_some() {
            return Err(refused(col::ID, format!("pair {id} is named twice")));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, verdict: &str) -> ReviewRow {
        ReviewRow {
            id: id.into(),
            verdict: verdict.into(),
            p_wrong: 0.9,
            reasons: String::new(),
            prompt: "a \"quoted\", prompt\nof two lines".into(),
            chosen: "=1+1".into(),
            rejected: "b".into(),
        }
    }

    #[test]
    fn decisions_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("review.csv");
        write(&path, &[row("a", ""), row("b", "flip"), row("c", " Drop "), row("d", "keep")]).unwrap();
        let found = read(&path).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!((found["b"], found["c"], found["d"]), (Verdict::Flip, Verdict::Drop, Verdict::Keep));
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_pair() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("review.csv");
        write(&path, &[row("a", "keep"), row("b", "perhaps")]).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("verdict: pair b") && error.contains("perhaps"), "{error}");
        write(&path, &[row("a", "keep"), row("a", "drop")]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("twice"));
        std::fs::write(&path, "id,decision\na,keep\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("verdict"));
    }
}
