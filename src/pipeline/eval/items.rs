//! Items as rows of `items.parquet`.

use polars::prelude::*;

use crate::error::Result;
use crate::schema::{col, eval, posterior};

/// One item of a task, with what the model made of it.
#[derive(Debug, Clone, Default)]
pub struct Item {
    /// Name of the task.
    pub task: String,
    /// Its place in the data, from 0.
    pub index: u32,
    /// As the data name it; empty where they do not.
    pub id: String,
    /// What pairs it with an item of another evaluation: see [`key`].
    pub key: String,
    /// Id of its prompt, where others of the task may have the same; none where each stands by itself.
    pub prompt_id: Option<String>,
    /// Source tag, or subset.
    pub source: Option<String>,
    /// Value of each metric, by metric and filter.
    pub metrics: Vec<(String, f64)>,
    /// Log-probabilities (or rewards) of its choices, nats.
    pub scores: Vec<f64>,
    /// The choice with the highest.
    pub chosen: Option<u32>,
    /// Whether each choice is right.
    pub right: Vec<bool>,
    /// The model's text.
    pub output: Option<String>,
    /// Most probable code given the prompt.
    pub prior_code: Option<u32>,
}

/// The id, or a hash of the texts of an item that has none: question, choices.
pub fn key<'a>(id: &str, texts: impl IntoIterator<Item = &'a str>) -> String {
    if !id.is_empty() {
        return id.to_string();
    }
    let mut hasher = blake3::Hasher::new_derive_key("lpc-pipe 1 item");
    for text in texts {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_string()
}

/// Name of a metric's column.
pub fn column(name: &str, filter: &str) -> String {
    if filter == "none" { name.to_string() } else { format!("{name},{filter}") }
}

/// The rows. Columns of metrics are those that some item has.
pub fn frame(items: &[Item]) -> Result<DataFrame> {
    let texts = |name: &str, of: &dyn Fn(&Item) -> Option<String>| {
        Column::new(name.into(), items.iter().map(of).collect::<Vec<Option<String>>>())
    };
    let numbers = |name: &str, of: &dyn Fn(&Item) -> Option<u32>| {
        Column::new(name.into(), items.iter().map(of).collect::<Vec<Option<u32>>>())
    };
    let scores: Vec<Series> = items.iter().map(|i| Series::new("".into(), i.scores.as_slice())).collect();
    let right: Vec<Series> = items.iter().map(|i| Series::new("".into(), i.right.as_slice())).collect();
    let mut columns = vec![
        texts(eval::TASK, &|i| Some(i.task.clone())),
        numbers(eval::ITEM, &|i| Some(i.index)),
        texts(col::ID, &|i| Some(i.id.clone())),
        texts(eval::KEY, &|i| Some(i.key.clone())),
        texts(col::PROMPT_ID, &|i| i.prompt_id.clone()),
        texts(col::SOURCE, &|i| i.source.clone()),
        Column::new(eval::SCORES.into(), scores),
        Column::new(eval::RIGHT.into(), right),
        numbers(eval::CHOSEN, &|i| i.chosen),
        texts(eval::OUTPUT, &|i| i.output.clone()),
        numbers(posterior::PRIOR_CODE, &|i| i.prior_code),
    ];
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in items.iter().flat_map(|item| &item.metrics) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    for name in names {
        let value = |item: &Item| item.metrics.iter().find(|(own, _)| own == name).map(|(_, value)| *value);
        columns.push(Column::new(name.into(), items.iter().map(value).collect::<Vec<Option<f64>>>()));
    }
    Ok(DataFrame::new(items.len(), columns)?)
}
