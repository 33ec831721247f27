//! Benchmarks of language models: rows of their files -> questions, a model's numbers -> metrics.
//!
//! Prompts, scores and metrics are those of lm-evaluation-harness, so that numbers can be compared with published ones;
//! each task's file says of which version. A model with codes is scored with the prior's z of the question.
//!
//! This room knows nothing of tokenizers: it is given a function from text to token ids.

pub mod arc;
pub mod choices;
pub mod gsm8k;
pub mod metrics;
mod python_random;
pub mod rewardbench;
pub mod row;
pub mod ties;
pub mod truthfulqa;

pub use choices::{Answered, ChoiceScore, Question, QuestionTokens, score};
pub use metrics::{Metric, mean};
pub use row::BenchmarkRow;
