//! argilla/ultrafeedback-binarized-preferences-cleaned, and the multi-binarized one: as
//! [`super::binarized`], with the mean ratings and the models under names with hyphens.
//!
//! ```json
//! {"source": "evol_instruct", "prompt": "Why?",
//!  "chosen": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}],
//!  "chosen-rating": 4.75, "chosen-model": "a",
//!  "rejected": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "No."}],
//!  "rejected-rating": 2.5, "rejected-model": "b"}
//! ```

use super::super::value::Object;
use super::has_list;

pub fn fits(row: &Object<'_>) -> bool {
    let hyphenated = ["chosen-rating", "rejected-rating", "chosen-model", "rejected-model"];
    has_list(row, "chosen") && has_list(row, "rejected") && hyphenated.iter().any(|key| row.get(key).is_some())
}
