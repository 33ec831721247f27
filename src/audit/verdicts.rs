//! A person's decisions about labels: a table that is written for review, and read back.

use std::collections::HashMap;
use std::io::Cursor;
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
/// not read. The table is as spreadsheets save it: cells are separated by commas, semicolons or tabs, lines end in any
/// way, and neither blanks nor the case of an id or a verdict matter.
///
/// # Errors
/// [`Error::Data`] with the pair and the field for a verdict that is not known, a pair that is named twice, or a table
/// without these columns or without any verdict; [`Error::Io`].
pub fn read(path: &Path) -> Result<HashMap<String, Verdict>> {
    let mut found = HashMap::new();
    for (id, verdict) in rows(path)? {
        let verdict = match verdict.as_str() {
            "" => continue,
            "keep" => Verdict::Keep,
            "flip" => Verdict::Flip,
            "drop" => Verdict::Drop,
            other => {
                let message = format!("pair {id}: expected keep, flip, drop or nothing, got {other:?}");
                return Err(refused(path, audit::VERDICT, message));
            }
        };
        if found.insert(id.clone(), verdict).is_some() {
            return Err(refused(path, col::ID, format!("pair {id} is named twice")));
        }
    }
    if found.is_empty() {
        return Err(refused(path, audit::VERDICT, "no pair has one: fill in keep, flip or drop".into()));
    }
    Ok(found)
}

/// The number of rows with a verdict, whatever it says.
///
/// # Errors
/// As [`read`], for what is no table with these columns.
pub fn given(path: &Path) -> Result<usize> {
    Ok(rows(path)?.iter().filter(|(_, verdict)| !verdict.is_empty()).count())
}

fn refused(path: &Path, field: &str, message: String) -> Error {
    let field = Some(field.to_string()).filter(|field| !field.is_empty());
    Error::Data { path: path.to_path_buf(), line: None, field, message, hint: None }
}

/// Id and verdict of each row, without blanks and in lower case.
fn rows(path: &Path) -> Result<Vec<(String, String)>> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(refused(path, "", "a table in UTF-16: save it as CSV in UTF-8".into()));
    }
    // Texts in another encoding, or with line ends of their own, are not read.
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n");
    let plain = |cell: &str| cell.trim().to_lowercase();
    let wanted = [col::ID, audit::VERDICT];
    let header = text.lines().next().unwrap_or_default();
    let has = |separator: char, name: &str| header.split(separator).any(|cell| plain(&cell.replace('"', "")) == name);
    let known = |separator: &char| wanted.iter().filter(|name| has(*separator, name)).count();
    // Of equal ones the last counts.
    let separator = ['\t', ';', ','].into_iter().max_by_key(known).unwrap_or(',');
    if let Some(name) = wanted.iter().find(|name| !has(separator, name)) {
        return Err(refused(path, name, "the table has no such column in its first line".into()));
    }
    // All columns as text: an id of digits alone is none of them a number.
    let options = CsvReadOptions::default().with_has_header(true).with_infer_schema_length(Some(0));
    let frame = options
        .map_parse_options(|options| options.with_separator(separator as u8))
        .into_reader_with_file_handle(Cursor::new(text.as_bytes()))
        .finish()
        .map_err(|error| {
            let likely = format!("texts with {separator:?} in them need quotes");
            let why = format!("not a table, perhaps of a row with more cells than the first line ({likely}): {error}");
            refused(path, "", why)
        })?;
    let texts = |name: &str| -> Result<Vec<String>> {
        let column = frame.columns().iter().find(|column| plain(column.name()) == name);
        let column = column.ok_or_else(|| refused(path, name, "the table has no such column".into()))?;
        Ok(column.str()?.iter().map(|text| plain(text.unwrap_or_default())).collect())
    };
    Ok(texts(col::ID)?.into_iter().zip(texts(audit::VERDICT)?).collect())
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
        for (table, said) in [
            ("id,verdict\na,\nb,\n", "verdict: no pair has one"),
            ("", "id: the table has no such column"),
            ("id,verdict\na,keep,flip\n", "a row with more cells than the first line"),
            ("\u{1}\u{2}\n", "id: the table has no such column"),
        ] {
            std::fs::write(&path, table).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(said), "{table:?}: {error}");
        }
        let wide: Vec<u8> = "\u{feff}id\tverdict\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        std::fs::write(&path, wide).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("UTF-16"));
    }

    #[test]
    fn tables_are_read_as_spreadsheets_save_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("review.csv");
        for (name, table) in [
            ("semicolons", "id;verdict;prompt\n0a;keep;\"one; two, three\"\n0b;FLIP;x\n0c;;y\n"),
            ("tabs", "id\tverdict\tprompt\n0a\tkeep\tone; two, \"three\"\n0b\tflip\tx\n0c\t\ty\n"),
            ("carriage returns", "id,verdict,prompt\r0a,keep,x\r0b,flip,y\r0c,,z\r"),
            (
                "both, in a text too",
                "\u{feff}\"id\",\"verdict\",\"prompt\"\r\n\"0a\",\"keep\",\"a\nb\r\nc\"\r\n0b,flip,y\r\n",
            ),
            ("blanks and capitals", " ID ,Prompt, Verdict\n 0A ,x, Keep \n0B,y,flip\n,,\n"),
        ] {
            std::fs::write(&path, table).unwrap();
            let found = read(&path).unwrap();
            assert_eq!(found.len(), 2, "{name}");
            assert_eq!((found["0a"], found["0b"]), (Verdict::Keep, Verdict::Flip), "{name}");
            assert_eq!(given(&path).unwrap(), 2, "{name}");
        }
        // Texts in a code page of one byte a letter.
        std::fs::write(&path, b"id,verdict,prompt\n0a,drop,\xe9\n").unwrap();
        assert_eq!(read(&path).unwrap()["0a"], Verdict::Drop);
    }
}
