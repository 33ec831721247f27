//! Columns that say which of two responses is better: the sides of a pair are ordered by them, row by row.

use super::super::names::ORDERS;
use super::super::value::{Object, Read, RowFault, Value};
use crate::rejects::reason;

/// Columns by which a row's responses are ordered, as data sets name them; the scores of both sides together.
const COLUMNS: [&[&str]; 10] = [
    &["winner"],
    &["winner_model_a"],
    &["better_response_id"],
    &["rank"],
    &["labels"],
    &["choice"],
    &["score_0", "score_1"],
    &["score_A", "score_B"],
    &["label"],
    &["kto_tag"],
];

/// Columns that hold the one response of a row with a label.
const ONE_RESPONSE: [&str; 4] = ["completion", "response", "output", "messages"];

/// Refuses a row whose sides the user named by columns, where another column says which of the two is better: of such
/// rows a part would have its label the wrong way round.
pub fn require_ordered(row: &Object<'_>, columns: &[String]) -> Read<()> {
    let named = |target: &str| columns.iter().any(|c| c.split_once('=').is_some_and(|(t, _)| t.trim() == target));
    if columns.is_empty() || !(named("chosen") && named("rejected")) {
        return Ok(());
    }
    let says = |key: &&&str| match row.get(key) {
        Some(Value::Number(_) | Value::Digits(_) | Value::Bool(_)) => true,
        Some(Value::Text(text)) => !text.trim().is_empty(),
        _ => false,
    };
    let Some(key) = ORDERS.iter().find(says) else { return Ok(()) };
    let message = format!(
        "{key} says which response is better, and --columns names the sides alike in all rows: order them by {key} first"
    );
    Err(RowFault::new(*key, reason::unread(key), message))
}

/// The column, or two columns, by which the responses of a row with these columns are ordered.
pub fn columns(keys: &[String]) -> Option<&'static [&'static str]> {
    let has = |name: &&str| keys.iter().any(|key| key == name);
    // Rows of other tasks have a label too.
    let orders = |names: &[&str]| *names != ["label"] || is_unpaired(keys) || are_paired(keys);
    COLUMNS.into_iter().find(|names| names.iter().all(has) && orders(names))
}

/// Whether two columns have the same name but for the last character, as those of two responses have.
fn are_paired(keys: &[String]) -> bool {
    let stem = |key: &String| key.char_indices().next_back().map(|(at, _)| key[..at].to_string());
    let stems: Vec<_> = keys.iter().filter_map(stem).filter(|stem| stem.ends_with(['_', '-'])).collect();
    stems.iter().enumerate().any(|(i, stem)| stems[..i].contains(stem))
}

/// Whether rows with these columns have one response and its label each, as KTO reads them.
pub fn is_unpaired(keys: &[String]) -> bool {
    let has = |name: &str| keys.iter().any(|key| key == name);
    has("kto_tag") || has("label") && ONE_RESPONSE.iter().any(|name| has(name))
}
