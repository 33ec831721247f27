//! Work for many machines: a plan of jobs, written for a scheduler that exists and, for Slurm, submitted to it.
//!
//! A plan has up to three parts: a job for what all tasks share, an array of tasks, and a job that joins them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::artifact;
use crate::error::{Error, Result};
use crate::pipeline::recipe::SlurmConfig;
use crate::schema::launch::{FOLDER, JOBS, LOGS};

mod commands;
pub mod shell;
mod skypilot;
mod slurm;

pub use shell::Line;

/// Who runs the tasks of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Launcher {
    /// A Slurm cluster: batch scripts that are submitted.
    Slurm,
    /// Whoever runs plain commands, such as `xargs`.
    Commands,
    /// SkyPilot: a task for `sky jobs launch`.
    Skypilot,
}

/// One job.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its name, a word.
    pub name: &'static str,
    /// What it runs.
    pub line: Line,
}

/// What is to be run, in which order.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What it is about, a word: part of the names of jobs.
    pub about: &'static str,
    /// Folder that is filled, absolute.
    pub out: PathBuf,
    /// Folder in which the commands run, absolute: names in the recipe are relative to it.
    pub directory: PathBuf,
    /// For what all tasks share. The tasks begin when it has ended, however it ended.
    pub first: Option<Job>,
    /// The tasks.
    pub tasks: Job,
    /// Numbers of the tasks.
    pub numbers: Vec<usize>,
    /// When all tasks have ended.
    pub last: Job,
    /// Whether the last job needs every task to have succeeded.
    pub needs_all: bool,
    /// Tasks at once, where plain commands run on one machine.
    pub at_once: usize,
}

/// What was written and submitted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Launched {
    /// For whom.
    pub launcher: Launcher,
    /// Folder of the scripts.
    pub folder: PathBuf,
    /// The scripts.
    pub files: Vec<PathBuf>,
    /// Tasks to run.
    pub tasks: usize,
    /// Ids of the submitted jobs by name; none where nothing was submitted.
    pub jobs: BTreeMap<String, String>,
    /// What a person does next.
    pub next: Vec<String>,
}

/// A script: its name and its text.
struct Script {
    name: &'static str,
    text: String,
}

/// The folder in which the program was called.
///
/// # Errors
/// [`Error::Io`] where it is gone.
pub fn current_folder() -> Result<PathBuf> {
    std::env::current_dir().map_err(Error::io("."))
}

impl Plan {
    /// Writes the plan for a launcher into `launch/` of its folder; with `submit` a plan for Slurm is submitted.
    ///
    /// # Errors
    /// [`Error::Config`] for a path that no script can hold; [`Error::Io`]; [`Error::Run`] where `sbatch` is missing or
    /// refuses a job, and what was submitted before is cancelled, or where jobs of an earlier launch wait or run.
    pub fn put(&self, launcher: Launcher, slurm: &SlurmConfig, submit: bool) -> Result<Launched> {
        let program = std::env::current_exe().map_err(Error::io("lpc-pipe"))?;
        for path in [&self.out, &self.directory, &program] {
            if path.to_str().is_none_or(|text| text.contains(char::is_control)) {
                return Err(Error::config("", format!("{}: no script can hold this path", path.display())));
            }
        }
        let folder = self.out.join(FOLDER);
        let submit = submit && launcher == Launcher::Slurm;
        if submit {
            slurm::refuse_twice(&folder.join(JOBS))?;
        }
        let (scripts, next) = match launcher {
            Launcher::Slurm => (slurm::scripts(self, &program, slurm), Vec::new()),
            Launcher::Commands => commands::scripts(self, &program),
            Launcher::Skypilot => skypilot::scripts(self, slurm),
        };
        let mut launched =
            Launched { launcher, folder, files: Vec::new(), tasks: self.numbers.len(), jobs: BTreeMap::new(), next };
        for script in &scripts {
            let path = launched.folder.join(script.name);
            artifact::write_bytes(&path, script.text.as_bytes())?;
            launched.files.push(path);
        }
        if launcher == Launcher::Slurm {
            let logs = launched.folder.join(LOGS);
            std::fs::create_dir_all(&logs).map_err(Error::io(&logs))?;
            if submit {
                launched.jobs = slurm::submit(self, &launched.folder)?;
                artifact::write_json(launched.folder.join(JOBS), &launched.jobs)?;
                let ids: Vec<&str> = launched.jobs.values().map(String::as_str).collect();
                launched.next = vec![format!("squeue --jobs={}", ids.join(","))];
            }
        }
        Ok(launched)
    }

    /// The name of a job for people.
    fn title(&self, job: &Job) -> String {
        format!("{}-{}", self.about, job.name)
    }

    /// The folder that is filled, as text; [`Plan::put`] has refused others.
    fn out_text(&self) -> String {
        text_of(&self.out)
    }
}

fn text_of(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests;
