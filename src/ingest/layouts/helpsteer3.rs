//! nvidia/HelpSteer3, preference: a conversation, two responses, and which one people prefer.
//!
//! ```json
//! {"domain": "general", "language": "english", "context": [{"role": "user", "content": "Why?"}],
//!  "response1": "Because.", "response2": "No.", "overall_preference": -2, "individual_preference": []}
//! ```
//!
//! `overall_preference` is an integer from -3 (the first is much better) to 3 (the second is); its size
//! becomes the score of the better response, against 0. Rows with 0 are counted as `no-preference`.

use super::super::record::{Record, Turn, turns};
use super::super::value::{Object, Read, Value};
use super::has;
use super::helpsteer2::preferred;

pub fn fits(row: &Object<'_>) -> bool {
    has(row, "response1") && has(row, "response2") && has(row, "overall_preference")
}

pub fn read(mut row: Object<'_>) -> Read<Record<'_>> {
    let prompt = match row.take("context") {
        Some(Value::Text(text)) => vec![Turn::user(text)],
        list => turns(list, "context")?,
    };
    let (first, second) = (row.text("response1")?, row.text("response2")?);
    let preference = row.number("overall_preference")?;
    let body = preferred(first, second, preference, "overall_preference")?;
    Record::new(prompt, body).checked("context")
}
