//! What a prepared folder knows of a run's pairs, and `posteriors.parquet` does not: prompts, responses, their scores and
//! who wrote them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::Path;

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::message::MessageColumn;
use crate::prompt;
use crate::schema::{SPLITS, col, prepared};

/// Characters of a text that are kept.
pub const TEXT_KEPT: usize = 240;

/// Rows read at once: texts of a whole split may not fit into memory.
const ROWS_AT_ONCE: usize = 8192;

/// The beginning of a pair's texts, in the observed order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairTexts {
    /// Of the prompt, all its messages.
    pub prompt: String,
    /// Of the response observed as preferred.
    pub chosen: String,
    /// Of the other.
    pub rejected: String,
}

/// Facts of pairs, one entry for each id that was asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PairFacts {
    /// Pairs that the folder has.
    pub found: u64,
    /// Characters of the prompt; NaN where the pair is not there.
    pub prompt_length: Vec<f64>,
    /// Size of the difference of the two scores; NaN where one is missing.
    pub score_margin: Vec<f64>,
    /// Who wrote the chosen and who the rejected response; `None` where one is unknown.
    pub models: Vec<Option<(String, String)>>,
    /// Texts by id, of those whose texts were wanted.
    pub texts: BTreeMap<String, PairTexts>,
}

impl PairFacts {
    /// Reads the facts of the pairs with these ids from a prepared folder, and the texts of those that are `wanted`.
    /// `None` where the folder has no pairs: it may be gone.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be opened, [`Error::Artifact`] where it is damaged, [`Error::Frame`] where a
    /// column is missing or of another type.
    pub fn read(folder: &Path, ids: &[String], wanted: &HashSet<&str>) -> Result<Option<PairFacts>> {
        let files = SPLITS.map(|split| folder.join(prepared::pairs(split)));
        let there: Vec<&Path> = files.iter().map(std::path::PathBuf::as_path).filter(|path| path.is_file()).collect();
        if there.is_empty() {
            return Ok(None);
        }
        let mut facts = PairFacts {
            prompt_length: vec![f64::NAN; ids.len()],
            score_margin: vec![f64::NAN; ids.len()],
            models: vec![None; ids.len()],
            ..PairFacts::default()
        };
        let rows: HashMap<&str, usize> = ids.iter().map(String::as_str).zip(0..).collect();
        for path in there {
            let rows_of_file = count(path)?;
            for start in (0..rows_of_file).step_by(ROWS_AT_ONCE) {
                let frame = part(path, start)?;
                facts.add(&frame, &rows, wanted)?;
            }
        }
        Ok(Some(facts))
    }

    fn add(&mut self, frame: &DataFrame, rows: &HashMap<&str, usize>, wanted: &HashSet<&str>) -> Result<()> {
        let [prompts, chosen, rejected] =
            [col::PROMPT, col::CHOSEN, col::REJECTED].map(|name| MessageColumn::open(frame.column(name)?));
        let (prompts, chosen, rejected) = (prompts?, chosen?, rejected?);
        let ids = frame.column(col::ID)?.str()?.clone();
        let score =
            |name: &str| -> Result<Float64Chunked> { Ok(frame.column(name)?.cast(&DataType::Float64)?.f64()?.clone()) };
        let scores = (score(col::SCORE_CHOSEN)?, score(col::SCORE_REJECTED)?);
        let model =
            |name: &str| -> Result<StringChunked> { Ok(frame.column(name)?.cast(&DataType::String)?.str()?.clone()) };
        let models = (model(col::CHOSEN_MODEL)?, model(col::REJECTED_MODEL)?);
        for i in 0..frame.height() {
            let Some((id, &row)) = ids.get(i).and_then(|id| Some((id, rows.get(id)?))) else { continue };
            self.found += 1;
            let text = prompt::text(prompts.row(i));
            self.prompt_length[row] = text.chars().count() as f64;
            if let (Some(a), Some(b)) = (scores.0.get(i), scores.1.get(i)) {
                self.score_margin[row] = (a - b).abs();
            }
            let both = models.0.get(i).zip(models.1.get(i));
            self.models[row] = both.map(|(a, b)| (a.to_string(), b.to_string()));
            if wanted.contains(id) {
                let texts = PairTexts {
                    prompt: beginning(&text),
                    chosen: beginning(&prompt::text(chosen.row(i))),
                    rejected: beginning(&prompt::text(rejected.row(i))),
                };
                self.texts.insert(id.to_string(), texts);
            }
        }
        Ok(())
    }
}

/// The first [`TEXT_KEPT`] characters of a text; where more were there, the last is an ellipsis.
fn beginning(text: &str) -> String {
    match text.char_indices().nth(TEXT_KEPT) {
        None => text.to_string(),
        Some(_) => text.chars().take(TEXT_KEPT - 1).chain(['…']).collect(),
    }
}

fn reader(path: &Path) -> Result<ParquetReader<File>> {
    Ok(ParquetReader::new(File::open(path).map_err(Error::io(path))?))
}

fn damaged(path: &Path) -> impl Fn(PolarsError) -> Error {
    move |error| Error::artifact(path, format!("not a readable Parquet file: {error}"))
}

fn count(path: &Path) -> Result<usize> {
    reader(path)?.num_rows().map_err(damaged(path))
}

/// Some rows of a file of pairs, from `start` on.
fn part(path: &Path, start: usize) -> Result<DataFrame> {
    let columns = [
        col::ID,
        col::PROMPT,
        col::CHOSEN,
        col::REJECTED,
        col::SCORE_CHOSEN,
        col::SCORE_REJECTED,
        col::CHOSEN_MODEL,
        col::REJECTED_MODEL,
    ];
    let columns = columns.map(String::from).to_vec();
    reader(path)?.with_columns(Some(columns)).with_slice(Some((start, ROWS_AT_ONCE))).finish().map_err(damaged(path))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::artifact;
    use crate::message::MessageColumnBuilder;

    /// Writes pairs `p0` to `p{n-1}` as the test split; prompts have i + 1 characters, every third pair no scores, and
    /// one model wrote every chosen response.
    pub fn write(folder: &Path, n: usize) {
        let mut messages = [col::PROMPT, col::CHOSEN, col::REJECTED].map(|name| MessageColumnBuilder::new(name, n));
        for i in 0..n {
            messages[0].push([("user", "p".repeat(i + 1).as_str())]);
            messages[1].push([("assistant", format!("chosen {i} <b>").as_str())]);
            messages[2].push([("assistant", "é".repeat(TEXT_KEPT + i).as_str())]);
        }
        let scores = |from: f64| (0..n).map(|i| (i % 3 != 2).then_some(from + i as f64)).collect::<Vec<_>>();
        let mut frame = df!(
            "id" => (0..n).map(|i| format!("p{i}")).collect::<Vec<_>>(),
            "score_chosen" => scores(1.0), "score_rejected" => scores(3.5),
            "chosen_model" => vec!["one"; n],
            "rejected_model" => (0..n).map(|i| (i > 0).then_some(if i % 2 == 0 { "two" } else { "three" })).collect::<Vec<_>>(),
        )
        .unwrap();
        messages.into_iter().for_each(|column| _ = frame.with_column(column.finish().unwrap()).unwrap());
        artifact::write_parquet(folder.join(prepared::pairs("test")), &mut frame).unwrap();
    }

    #[test]
    fn facts_stand_in_the_order_of_the_ids() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 4);
        let ids = ["p2", "gone", "p0", "p1"].map(String::from);
        let facts = PairFacts::read(dir.path(), &ids, &HashSet::from(["p1", "gone"])).unwrap().unwrap();
        assert_eq!(facts.found, 3);
        assert_eq!((facts.prompt_length[0], facts.prompt_length[2], facts.prompt_length[3]), (3.0, 1.0, 2.0));
        assert!(facts.prompt_length[1].is_nan() && facts.score_margin[1].is_nan());
        // Pair 2 has no scores; the others differ by 2.5, whichever is higher.
        assert!(facts.score_margin[0].is_nan());
        assert_eq!(facts.score_margin[2..], [2.5, 2.5]);
        assert_eq!(facts.models[0], Some(("one".into(), "two".into())));
        assert_eq!((&facts.models[1], &facts.models[2]), (&None, &None), "one side is unknown");
        assert_eq!(facts.texts.keys().collect::<Vec<_>>(), ["p1"]);
        let texts = &facts.texts["p1"];
        assert_eq!((texts.prompt.as_str(), texts.chosen.as_str()), ("pp", "chosen 1 <b>"));
        assert_eq!(texts.rejected, "é".repeat(TEXT_KEPT - 1) + "…");
        assert_eq!(beginning(&"é".repeat(TEXT_KEPT)), "é".repeat(TEXT_KEPT), "it fits");
    }

    #[test]
    fn more_rows_than_are_read_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let n = ROWS_AT_ONCE + 3;
        let text = |word: &str| {
            let mut column = MessageColumnBuilder::new(word, n);
            (0..n).for_each(|i| column.push([("user", format!("{i}").as_str())]));
            column.finish().unwrap()
        };
        let mut frame = df!(
            "id" => (0..n).map(|i| format!("p{i}")).collect::<Vec<_>>(), "score_chosen" => vec![1.0; n],
            "score_rejected" => vec![0.0; n], "chosen_model" => vec!["a"; n], "rejected_model" => vec!["b"; n],
        )
        .unwrap();
        [col::PROMPT, col::CHOSEN, col::REJECTED].iter().for_each(|name| _ = frame.with_column(text(name)).unwrap());
        artifact::write_parquet(dir.path().join(prepared::pairs("train")), &mut frame).unwrap();
        let ids: Vec<String> = (0..n).map(|i| format!("p{i}")).collect();
        let last = ids[n - 1].as_str();
        let facts = PairFacts::read(dir.path(), &ids, &HashSet::from([last])).unwrap().unwrap();
        assert_eq!((facts.found, facts.prompt_length[n - 1]), (n as u64, 4.0));
        assert_eq!(facts.texts[last].chosen, (n - 1).to_string());
    }

    #[test]
    fn a_folder_that_is_gone_is_none_and_a_damaged_file_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let read = || PairFacts::read(dir.path(), &["p0".to_string()], &HashSet::new());
        assert_eq!(read().unwrap(), None);
        artifact::write_bytes(dir.path().join(prepared::pairs("train")), b"no table").unwrap();
        assert!(matches!(read(), Err(Error::Artifact { .. })));
    }
}
