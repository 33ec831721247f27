//! What shells and `man` read: both follow from the commands and their flags.

use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;

use crate::artifact;
use crate::error::{Error, Result};

const NAME: &str = "lpc-pipe";

/// The script that completes commands and flags.
pub fn completions(mut command: Command, shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, NAME, &mut script);
    script
}

/// Manual pages in `DIR/man1`, where `man -M DIR` looks for them: one of the program, one of each command and of each part
/// of a command. Their paths.
///
/// # Errors
/// [`Error::Io`].
pub fn manual(mut command: Command, dir: &Path) -> Result<Vec<PathBuf>> {
    command.build();
    let folder = dir.join("man1");
    std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let mut pages = Vec::new();
    add_pages(&command, &folder, &mut pages)?;
    Ok(pages)
}

fn add_pages(command: &Command, folder: &Path, pages: &mut Vec<PathBuf>) -> Result<()> {
    // `build` has named each command as its page is called: lpc-pipe-train.
    let path = folder.join(format!("{}.1", command.get_display_name().unwrap_or(NAME)));
    let mut page = Vec::new();
    let own = command.clone().disable_help_subcommand(true);
    clap_mangen::Man::new(own).render(&mut page).map_err(Error::io(&path))?;
    artifact::write_bytes(&path, &page)?;
    pages.push(path);
    command.get_subcommands().filter(|c| c.get_name() != "help").try_for_each(|c| add_pages(c, folder, pages))
}
