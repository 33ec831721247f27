//! Commands, and their arguments that set no key of the recipe; those that do are in `flags`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::pipeline::launch;

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The whole job on built-in data, no network: synth, prepare, train with and without LPC, noise sweep, report
    Demo,
    /// Plants preferences into made-up texts, or over real ones, in raw UltraFeedback shape
    Synth,
    /// Reads preference data, builds pairs, flips labels, writes token batches
    Prepare(Prepare),
    /// Joins the shards of one preparation to the folder that an unsharded run would have written
    Merge(Merge),
    /// Per-example log-probabilities of any model on a prepared folder
    Score,
    /// Trains a policy, evaluates it with the prior, writes the code posteriors
    Train(Train),
    /// Answers prompts with a model: with the prior's codes, one code, or all codes side by side
    Generate,
    /// Evaluates a model: preference accuracy, ARC, TruthfulQA, GSM8K, RewardBench
    Eval,
    /// Writes a run's model as a Hugging Face folder, an adapter merged, or as a PEFT adapter
    Export,
    /// A grid of noise, objective, latent and seeds; continues where it was stopped
    NoiseSweep(NoiseSweep),
    /// Ranks a run's training pairs by the evidence that their label is wrong; writes a cleaned prepared folder
    Audit,
    /// Writes report.html and report.md for a run, sweep or audit folder
    Report(Report),
    /// Shows what a file or folder holds: schema, counts, first rows, manifest, one masked example
    Inspect(Inspect),
    /// Lists the recipes that come with the program, or prints one
    Recipes(Recipes),
    /// Writes the shell's script that completes commands and flags to stdout
    Completions(Completions),
    /// Writes manual pages, one a command
    Man(Man),
}

/// Who runs the cells of a sweep, or the shards of a preparation: this process, or whom [`launch::Launcher`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs, reason = "the name says it")]
pub enum LauncherFlag {
    Local,
    Slurm,
    Commands,
    Skypilot,
}

impl LauncherFlag {
    /// The launcher of a plan; none for this process.
    pub fn planned(self) -> Option<launch::Launcher> {
        match self {
            LauncherFlag::Local => None,
            LauncherFlag::Slurm => Some(launch::Launcher::Slurm),
            LauncherFlag::Commands => Some(launch::Launcher::Commands),
            LauncherFlag::Skypilot => Some(launch::Launcher::Skypilot),
        }
    }
}

/// Flags of `prepare` beside those of its settings.
#[derive(Debug, Args)]
pub struct Prepare {
    /// Who prepares the shards: local (this process), slurm (batch scripts, submitted as the settings `slurm` say),
    /// commands (a line a shard, for xargs) or skypilot (a task)
    #[arg(
        long,
        value_enum,
        default_value = "local",
        value_name = "NAME",
        hide_possible_values = true,
        display_order = 100
    )]
    pub launcher: LauncherFlag,
    /// With a launcher: number of shards, each a task, joined by a `merge` that waits for all of them
    #[arg(long, value_name = "N", display_order = 101)]
    pub shards: Option<usize>,
}

/// Flags of `noise-sweep` beside those of its settings.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct NoiseSweep {
    /// Who runs the cells: local (this process), slurm (batch scripts, submitted as the settings `slurm` say), commands
    /// (a line a cell, for xargs) or skypilot (a task)
    #[arg(
        long,
        value_enum,
        default_value = "local",
        value_name = "NAME",
        hide_possible_values = true,
        display_order = 100
    )]
    pub launcher: LauncherFlag,
    /// A part of a sweep that a launcher planned; without one, all of it.
    #[command(subcommand)]
    pub part: Option<SweepPart>,
}

/// The parts of a planned sweep.
#[derive(Debug, Subcommand)]
pub enum SweepPart {
    /// Prepares what the cells share: data and reference log-probabilities
    Inputs(Planned),
    /// Runs one cell; exit code 75: stopped with a checkpoint, run it again
    Cell {
        #[command(flatten)]
        planned: Planned,
        /// Number of the cell, from 1 [default: SLURM_ARRAY_TASK_ID]
        #[arg(long, value_name = "N", display_order = 1)]
        index: Option<usize>,
    },
    /// Writes tables and report from the cells that are there; again as often as wanted
    Collect(Planned),
}

/// The folder of a planned sweep.
#[derive(Debug, Args)]
pub struct Planned {
    /// Folder of a sweep that was begun: its config.toml is the recipe
    #[arg(long, value_name = "DIR", display_order = 0)]
    pub out: PathBuf,
}

impl SweepPart {
    /// The folder of the sweep.
    pub fn out(&self) -> &std::path::Path {
        match self {
            SweepPart::Inputs(planned) | SweepPart::Cell { planned, .. } | SweepPart::Collect(planned) => &planned.out,
        }
    }
}

/// Flags of `merge`.
#[derive(Debug, Args)]
pub struct Merge {
    /// Folders that were prepared with --shard 1/N to N/N, in any order
    #[arg(required = true, value_name = "DIR")]
    pub shards: Vec<PathBuf>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Flags of `train` beside those of its settings.
#[derive(Debug, Args)]
pub struct Train {
    /// Continues a stopped run from its newest sound checkpoint; where there is none it starts from the beginning. Without
    /// this flag the folder of a stopped run is refused
    #[arg(long, display_order = 100)]
    pub resume: bool,
    /// Says what would be done, with how much memory and in which time; trains nothing
    #[arg(long, display_order = 101)]
    pub dry_run: bool,
}

/// Flags of `report`.
#[derive(Debug, Args)]
pub struct Report {
    /// Run, sweep or audit folder
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Folder that `synth` wrote: also scores a run's codes against the planted truth
    #[arg(long, value_name = "DIR")]
    pub truth: Option<PathBuf>,
}

/// Flags of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// File or folder
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}

/// Flags of `recipes`.
#[derive(Debug, Args)]
pub struct Recipes {
    /// Recipe to print, as a file that --config takes; without it all are listed
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// Flags of `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// Shell that reads the script
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// Flags of `man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Folder for the pages; a folder `man1` in it gets one page a command
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}
