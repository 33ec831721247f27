//! Events of the training loop, and the observers that store or show them.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::tensorboard::{self, EventFile};
use crate::artifact;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::schema::metric;

/// Named numbers in a fixed order.
pub type Metrics = Vec<(String, f64)>;

/// An event of the training loop.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainEvent {
    /// A step was taken.
    Step {
        /// Steps taken, from 1.
        step: usize,
        /// Its metrics.
        metrics: Metrics,
    },
    /// The test split was evaluated.
    Evaluation {
        /// Steps taken.
        step: usize,
        /// Metrics with the prefix `eval_`.
        metrics: Metrics,
    },
}

/// Listens to a run.
pub trait Observer {
    /// Takes an event.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be stored.
    fn observe(&mut self, event: &TrainEvent) -> Result<()>;
}

/// Appends events to `metrics.jsonl`: one object a line, `step` first.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens the file and removes lines after `step`, from which a resumed run goes on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path, step: usize) -> Result<JsonLines> {
        let kept: String = match std::fs::read_to_string(path) {
            Ok(text) if step > 0 => {
                let kept = text.lines().filter(|line| line_step(line).is_some_and(|s| s <= step));
                kept.map(|line| format!("{line}\n")).collect()
            }
            _ => String::new(),
        };
        artifact::write_bytes(path, kept.as_bytes())?;
        let file = File::options().append(true).open(path).map_err(Error::io(path))?;
        Ok(JsonLines { path: path.to_path_buf(), file })
    }
}

fn line_step(line: &str) -> Option<usize> {
    serde_json::from_str::<serde_json::Value>(line).ok()?.get("step")?.as_u64().map(|s| s as usize)
}

impl Observer for JsonLines {
    fn observe(&mut self, event: &TrainEvent) -> Result<()> {
        let (TrainEvent::Step { step, metrics } | TrainEvent::Evaluation { step, metrics }) = event;
        let mut line = serde_json::Map::new();
        line.insert("step".into(), (*step).into());
        for (key, value) in metrics {
            line.insert(key.clone(), serde_json::json!(value));
        }
        let mut text = serde_json::Value::Object(line).to_string();
        text.push('\n');
        // One write for each line, so that no reader sees a part of one.
        self.file.write_all(text.as_bytes()).map_err(Error::io(&self.path))
    }
}

/// Writes scalars for TensorBoard.
#[derive(Debug)]
pub struct TensorBoard(EventFile);

impl TensorBoard {
    /// Starts an event file in the folder for a run that goes on after `step`, and removes later steps from the files
    /// that are there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(folder: &Path, step: usize) -> Result<TensorBoard> {
        tensorboard::rewind(folder, step)?;
        Ok(TensorBoard(EventFile::create(folder)?))
    }
}

impl Observer for TensorBoard {
    fn observe(&mut self, event: &TrainEvent) -> Result<()> {
        let (TrainEvent::Step { step, metrics } | TrainEvent::Evaluation { step, metrics }) = event;
        self.0.scalars(*step as i64, metrics.iter().map(|(k, v)| (k.as_str(), *v as f32)))
    }
}

/// Shows the state of the run in one line.
pub struct StatusLine<'a>(pub &'a dyn Progress);

impl Observer for StatusLine<'_> {
    fn observe(&mut self, event: &TrainEvent) -> Result<()> {
        match event {
            TrainEvent::Step { metrics, .. } => {
                let get = |key: &str| metrics.iter().find(|(k, _)| k == key).map(|(_, v)| *v);
                let mut line = format!("loss {:.4}", get(metric::LOSS).unwrap_or(f64::NAN));
                for (name, key) in [
                    ("margin", metric::REWARDS_MARGINS),
                    ("accuracy", metric::REWARDS_ACCURACIES),
                    ("codes", metric::CODE_PERPLEXITY),
                ] {
                    if let Some(value) = get(key) {
                        line += &format!(" · {name} {value:.2}");
                    }
                }
                if let Some(rate) = get(metric::TOKENS_PER_S) {
                    let digits = if rate < 10.0 { 1 } else { 0 };
                    line += &format!(" · {rate:.digits$} tokens/s");
                }
                self.0.status(&line);
                self.0.advance(1);
            }
            TrainEvent::Evaluation { step, metrics } => {
                // Metrics of single sources are in the files alone.
                let whole = metrics.iter().filter(|(k, _)| k.matches('/').count() < 2);
                let parts: Vec<String> = whole.map(|(k, v)| format!("{k} {v:.4}")).collect();
                self.0.note(&format!("step {step}: {}", parts.join(" · ")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_log_has_every_step_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let event = |step| TrainEvent::Step { step, metrics: vec![("loss".into(), 0.5)] };
        let mut log = JsonLines::open(&path, 0).unwrap();
        for step in 1..=4 {
            log.observe(&event(step)).unwrap();
        }
        // Stopped within a line, resumed from the checkpoint at step 2.
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"step\": 5, \"lo").unwrap();
        let mut log = JsonLines::open(&path, 2).unwrap();
        log.observe(&event(3)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let steps: Vec<usize> = text.lines().map(|l| line_step(l).unwrap()).collect();
        assert_eq!(steps, [1, 2, 3]);
    }
}
