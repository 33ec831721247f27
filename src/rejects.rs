//! Rejected rows and the reasons. No row disappears without an entry here.

use polars::prelude::*;
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::Result;
use crate::schema::col;

/// Why a row was rejected. A fault of the input stops the work unless such rows are to be
/// skipped; a decision is taken on a sound row and only counted.
pub mod reason {
    /// Fault: the line is not JSON.
    pub const BAD_JSON: &str = "bad-json";
    /// Fault: a field is absent or null.
    pub const MISSING_FIELD: &str = "missing-field";
    /// Fault: a field has another type than expected.
    pub const WRONG_TYPE: &str = "wrong-type";
    /// Fault: a score is NaN or infinite.
    pub const NOT_FINITE: &str = "not-finite";
    /// Fault: the record is not CSV, or has not as many cells as the header.
    pub const BAD_CSV: &str = "bad-csv";
    /// Fault: the line is not UTF-8.
    pub const INVALID_UTF8: &str = "invalid-utf8";
    /// Fault: the line is longer than allowed.
    pub const TOO_LONG: &str = "too-long";
    /// Fault: the prompt is empty.
    pub const NO_PROMPT: &str = "no-prompt";
    /// Fault: the list of completions is empty.
    pub const NO_COMPLETIONS: &str = "no-completions";
    /// Fault: the row fits none of the known layouts.
    pub const UNKNOWN_LAYOUT: &str = "unknown-layout";
    /// Fault: chosen and rejected do not continue the same prompt.
    pub const PROMPT_MISMATCH: &str = "prompt-mismatch";
    /// Fault: a message's role is not known, or a list of messages does not end with the model's.
    pub const WRONG_ROLE: &str = "wrong-role";
    /// Fault: a message or row has something in a field that is not read and may be part of what was said.
    pub const UNREAD_KEY: &str = "unread-key";
    /// Fault: the chat template raises an exception for the row, or fails on it.
    pub const TEMPLATE_REFUSED: &str = "template-refused";
    /// Fault: the row's rendering begins with two beginning-of-sequence tokens.
    pub const TWO_BEGINNINGS: &str = "two-beginnings";
    /// Fault: the chat template writes the row's prompt differently alone and with its response.
    pub const PROMPT_NOT_PREFIX: &str = "prompt-not-prefix";
    /// Fault: the chat template does not end the row's response.
    pub const TURN_NOT_ENDED: &str = "turn-not-ended";
    /// Fault: a token reaches across the boundary of prompt and response.
    pub const TOKEN_ACROSS: &str = "token-across-boundary";
    /// Decision: the conversations of chosen and rejected differ before their last messages.
    pub const DIFFERENT_CONTEXTS: &str = "different-contexts";
    /// Decision: a dialogue does not end with the model's turn.
    pub const NO_RESPONSE: &str = "no-response";
    /// Decision: the people asked prefer neither response.
    pub const NO_PREFERENCE: &str = "no-preference";
    /// Decision: a score of 10 that the ratings by aspect contradict, where such rows are not wanted.
    pub const WRONG_TEN: &str = "wrong-ten";
    /// Decision: fewer than two completions with a response and a score.
    pub const TOO_FEW_COMPLETIONS: &str = "too-few-completions";
    /// Decision: all completions have the same score.
    pub const ALL_TIED: &str = "all-tied";
    /// Decision: chosen and rejected are the same text.
    pub const IDENTICAL_RESPONSES: &str = "identical-responses";
    /// Decision: a given pair has an empty response.
    pub const EMPTY_RESPONSE: &str = "empty-response";
    /// Decision: the same prompt, chosen and rejected were seen in another row.
    pub const DUPLICATE: &str = "duplicate";
    /// Decision: as [`DUPLICATE`], but for letter case and white space.
    pub const NORMALIZED_DUPLICATE: &str = "normalized-duplicate";
    /// Decision: the two scores are closer than the least margin, or those of a given pair contradict its label.
    pub const SMALL_MARGIN: &str = "small-margin";
    /// Decision: the two scores are equal.
    pub const TIED_SCORES: &str = "tied-scores";
    /// Decision: the row has too many completions for pairing every two of them.
    pub const TOO_MANY_COMPLETIONS: &str = "too-many-completions";
    /// Decision: the prompt already has the most pairs that are allowed.
    pub const OVER_PROMPT_CAP: &str = "over-prompt-cap";
    /// Decision: another pair ranks the same two responses to the same prompt the other way round.
    pub const CONFLICTING_LABEL: &str = "conflicting-label";
    /// Decision: the row's source is used for evaluation.
    pub const EXCLUDED_SOURCE: &str = "excluded-source";
    /// Decision: the row is not in the share of its input that was asked for.
    pub const MIX_WEIGHT: &str = "mix-weight";
    /// Decision: this input has already given as many pairs as were asked for.
    pub const MIX_CAP: &str = "mix-cap";
    /// Decision: nearly the same prompt is kept from another row.
    pub const NEAR_DUPLICATE: &str = "near-duplicate";
    /// Decision: the prompt or a response is of several messages, where one is wanted.
    pub const CONVERSATION: &str = "conversation";
    /// Decision: the responses do not differ enough in any trait by which they could be judged.
    pub const NO_VARYING_TRAIT: &str = "no-varying-trait";
    /// Decision: the text has a question of a benchmark in it.
    pub const CONTAMINATED: &str = "contaminated";
    /// Decision: the prompt is in the test split by the name of another file.
    pub const IN_TEST_SPLIT: &str = "in-test-split";

    /// Reasons for dropping a pair that are found only when all pairs of its prompt are known.
    pub const AFTER_PAIRING: [&str; 5] =
        [IN_TEST_SPLIT, DUPLICATE, NORMALIZED_DUPLICATE, OVER_PROMPT_CAP, CONFLICTING_LABEL];

    /// Whether a reason is one of [`unread`]'s.
    pub fn is_unread(reason: &str) -> bool {
        reason.starts_with("unread-")
    }

    /// [`UNREAD_KEY`] with the key in it, for the keys that are common.
    pub fn unread(key: &str) -> &'static str {
        match key {
            "tool_calls" => "unread-tool_calls",
            "tool_call_id" => "unread-tool_call_id",
            "function_call" => "unread-function_call",
            "reasoning_content" => "unread-reasoning_content",
            "reasoning" => "unread-reasoning",
            "thinking" => "unread-thinking",
            "name" => "unread-name",
            "weight" => "unread-weight",
            "tools" => "unread-tools",
            "functions" => "unread-functions",
            "images" => "unread-images",
            "image" => "unread-image",
            "videos" => "unread-videos",
            "video" => "unread-video",
            "audios" => "unread-audios",
            "audio" => "unread-audio",
            "instruction" => "unread-instruction",
            "question" => "unread-question",
            "input" => "unread-input",
            "context" => "unread-context",
            "prompt" => "unread-prompt",
            "winner" => "unread-winner",
            "winner_model_a" => "unread-winner_model_a",
            "better_response_id" => "unread-better_response_id",
            "labels" => "unread-labels",
            "score_0" => "unread-score_0",
            "score_1" => "unread-score_1",
            "score_A" => "unread-score_A",
            "score_B" => "unread-score_B",
            _ => UNREAD_KEY,
        }
    }
}

/// Advice where one row is faulty and others may be sound.
pub const SKIP_ADVICE: &str = "pass --on-bad-row skip to drop and count such rows";

/// One of [`reason`].
pub type Reason = &'static str;

/// One rejected row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// Index among the inputs.
    pub file: u32,
    /// 1-based line; the row for Parquet.
    pub line: u64,
    /// Dotted path of the field at fault, empty where the whole row is.
    pub field: String,
    /// One of [`reason`].
    #[serde(deserialize_with = "read_reason")]
    pub reason: Reason,
    /// Expected and found.
    pub detail: String,
    /// What decides the row's shard: the hash of the normalized prompt, or of the bytes
    /// where no prompt could be read.
    pub group: u64,
}

/// Reads back one of the reasons that are kept with finished pairs.
fn read_reason<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<&'static str, D::Error> {
    let text = String::deserialize(deserializer)?;
    let known = reason::AFTER_PAIRING.into_iter().find(|known| *known == text);
    known.ok_or_else(|| serde::de::Error::custom(format!("unknown reason {text:?}")))
}

/// Where the rows of a stage frame come from, and their groups.
pub struct RowOrigins<'a> {
    files: &'a UInt32Chunked,
    lines: &'a UInt64Chunked,
    groups: &'a UInt64Chunked,
}

impl<'a> RowOrigins<'a> {
    /// Opens the columns `file`, `line` and `group`.
    ///
    /// # Errors
    /// [`crate::Error::Frame`] where one is missing.
    pub fn open(frame: &'a DataFrame) -> Result<RowOrigins<'a>> {
        let (files, lines) = (frame.column(col::FILE)?.u32()?, frame.column(col::LINE)?.u64()?);
        Ok(RowOrigins { files, lines, groups: frame.column(col::GROUP)?.u64()? })
    }

    /// Input file of row `i`, by index.
    pub fn file(&self, i: usize) -> u32 {
        self.files.get(i).unwrap_or_default()
    }

    /// Input file of row `i`, by index, and its line there.
    pub fn position(&self, i: usize) -> (u32, u64) {
        (self.file(i), self.lines.get(i).unwrap_or_default())
    }

    /// Hash of row `i`'s normalized prompt.
    pub fn group(&self, i: usize) -> u64 {
        self.groups.get(i).unwrap_or_default()
    }

    /// Row `i` as a rejected one.
    pub fn reject(&self, i: usize, field: &str, reason: &'static str, detail: String) -> Reject {
        let (file, line) = self.position(i);
        Reject { file, line, field: field.into(), reason, detail, group: self.group(i) }
    }
}

/// Separates a frame into the rows that are kept and the rejected ones, which have an entry in `fates`.
///
/// # Errors
/// [`crate::Error::Frame`] where there are more or fewer fates than rows.
pub fn separate(frame: DataFrame, fates: Vec<Option<Reject>>) -> Result<(DataFrame, Vec<Reject>)> {
    let keep: BooleanChunked = fates.iter().map(|fate| Some(fate.is_none())).collect();
    let rejects: Vec<Reject> = fates.into_iter().flatten().collect();
    Ok((if rejects.is_empty() { frame } else { frame.filter(&keep)? }, rejects))
}

/// Rejected rows as a frame: the columns of `rejects.parquet`, `file` still an index.
///
/// # Errors
/// [`crate::Error::Frame`].
pub fn to_frame(rejects: &[Reject]) -> Result<DataFrame> {
    let text = |name: &str, get: &dyn Fn(&Reject) -> &str| {
        StringChunked::from_iter_values(name.into(), rejects.iter().map(get)).into_column()
    };
    Ok(DataFrame::new(
        rejects.len(),
        vec![
            UInt32Chunked::from_vec(col::FILE.into(), rejects.iter().map(|r| r.file).collect()).into_column(),
            UInt64Chunked::from_vec(col::LINE.into(), rejects.iter().map(|r| r.line).collect()).into_column(),
            text(col::FIELD, &|r| &r.field),
            text(col::REASON, &|r| r.reason),
            text(col::DETAIL, &|r| &r.detail),
        ],
    )?)
}

/// Joins frames made by [`to_frame`] to the table `rejects.parquet`: sorted by file and line, files by
/// their names.
///
/// # Errors
/// [`crate::Error::Frame`].
pub fn table(frames: Vec<DataFrame>, files: &[String]) -> Result<DataFrame> {
    let mut all = to_frame(&[])?;
    for frame in frames {
        all.vstack_mut_owned(frame)?;
    }
    all.rechunk_mut_par();
    let (file, line) = (all.column(col::FILE)?.u32()?, all.column(col::LINE)?.u64()?);
    let reason = all.column(col::REASON)?.str()?;
    let mut order: Vec<IdxSize> = (0..all.height() as IdxSize).collect();
    let key = |i: IdxSize| (file.get(i as usize), line.get(i as usize), reason.get(i as usize));
    order.sort_by(|a, b| key(*a).cmp(&key(*b)));
    let mut all = all.take(&IdxCa::from_vec("rows".into(), order))?;
    let name = |index: Option<u32>| index.and_then(|i| files.get(i as usize)).map_or("", String::as_str);
    let names = StringChunked::from_iter_values(col::FILE.into(), all.column(col::FILE)?.u32()?.iter().map(name));
    all.with_column(names.into_column())?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_are_sorted_by_file_and_line() {
        let make = |file, line| Reject {
            file,
            line,
            field: "prompt".into(),
            reason: reason::MISSING_FIELD,
            detail: "missing".into(),
            group: 0,
        };
        let frames = [vec![make(1, 1), make(0, 9)], vec![], vec![make(0, 2)]];
        let frames = frames.iter().map(|rows| to_frame(rows).unwrap()).collect();
        let frame = table(frames, &["a".into(), "b".into()]).unwrap();
        let names: Vec<String> = frame.get_column_names().iter().map(|n| n.to_string()).collect();
        assert_eq!(names, crate::schema::REJECT_COLUMNS);
        let lines: Vec<_> = frame.column("line").unwrap().u64().unwrap().iter().flatten().collect();
        assert_eq!(lines, [2, 9, 1]);
        assert_eq!(frame.column("file").unwrap().str().unwrap().get(2), Some("b"));
    }
}
