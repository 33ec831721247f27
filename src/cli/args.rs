//! Arguments that set no key of the recipe; those that do are in `flags`.

use std::path::PathBuf;

use clap::Args;

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
    /// Continues a stopped run from its newest sound checkpoint; without one it starts from the beginning
    #[arg(long, display_order = 100)]
    pub resume: bool,
    /// Says what would be done, with how much memory and in which time; trains nothing
    #[arg(long, display_order = 101)]
    pub dry_run: bool,
}

/// Flags of `report`.
#[derive(Debug, Args)]
pub struct Report {
    /// Run or sweep folder
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
