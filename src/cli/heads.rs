//! The command lines in the heads of the recipes and in README.md are taken by the program: they are parsed, and their
//! settings are resolved and checked.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Cli, Command, parsed, resolved};
use crate::error::Result;
use crate::pipeline::recipe::{Recipe, shipped};
use crate::pipeline::sweep;
use crate::settings::{Settings, refuse};

/// The words of a line as a shell reads them, of which these lines need quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quote, mut open) = (vec![String::new()], None, false);
    for c in line.chars() {
        match (quote, c) {
            (None, '\'' | '"') => (quote, open) = (Some(c), true),
            (Some(end), _) if c == end => quote = None,
            (None, ' ') => {
                if open {
                    words.push(String::new());
                }
                open = false;
            }
            _ => {
                words.last_mut().expect("a word").push(c);
                open = true;
            }
        }
    }
    assert!(quote.is_none(), "{line}");
    if !open {
        words.pop();
    }
    words
}

/// The command lines in the head of a recipe: `# Label:   lpc-pipe ...`, further ones below it, and `\` at a line's end.
fn in_head(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in text.lines().take_while(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim()) {
        let line =
            line.split_once(": ").filter(|(label, _)| !label.contains(' ')).map_or(line, |(_, rest)| rest).trim();
        let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part.trim(), true));
        match lines.last_mut() {
            Some(last) if goes_on => *last = format!("{last} {part}"),
            _ if line.starts_with("lpc-pipe ") => lines.push(part.to_string()),
            _ => continue,
        }
        goes_on = more;
    }
    assert!(!goes_on, "{text}");
    lines
}

/// Checks the settings of a line; returns the folder that a training or a sweep writes.
fn check(line: &str) -> Result<Option<String>> {
    let (cli, flags) = parsed(words(line)).unwrap_or_else(|error| panic!("{line}: {error}"));
    let (recipe, _): (Recipe, _) = resolved(&cli, &flags)?;
    let Cli { command, .. } = &cli;
    match command {
        Command::Synth => recipe.synth.check()?,
        Command::Prepare(_) => recipe.prepare.check()?,
        Command::Train(args) => {
            recipe.train.check()?;
            return Ok(Some(recipe.train.out).filter(|_| !args.dry_run));
        }
        Command::NoiseSweep(_) => {
            refuse(sweep::faults(&recipe))?;
            assert_eq!(sweep::cell_faults(&recipe), [].into(), "{line}");
            return Ok(Some(recipe.sweep.out));
        }
        Command::Audit => recipe.audit.check()?,
        Command::Eval => recipe.eval.check()?,
        Command::Export => recipe.export.check()?,
        Command::Generate => recipe.generate.check()?,
        Command::Demo => recipe.demo.check()?,
        Command::Report(_) => recipe.report.check()?,
        Command::Inspect(_) | Command::Recipes(_) => {}
        other => panic!("{line}: {other:?} is not checked here"),
    }
    Ok(None)
}

#[test]
fn command_lines_in_the_heads_of_recipes_are_taken() {
    for recipe in shipped::all() {
        let lines = in_head(recipe.text);
        assert!(lines.len() >= 3, "{}: {lines:?}", recipe.name);
        let mut written = BTreeSet::new();
        for line in lines {
            match check(&line) {
                Ok(Some(out)) => assert!(written.insert(out), "{}: `{line}` writes where another does", recipe.name),
                Ok(None) => {}
                Err(error) => panic!("{}: `{line}`: {error}", recipe.name),
            }
        }
    }
}

#[test]
fn command_lines_of_the_readme_are_taken() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(path).unwrap();
    let alone = text.lines().filter(|line| line.starts_with("lpc-pipe ")).map(|line| line.split('#').next().unwrap());
    let within = text
        .split('`')
        .filter(|part| part.starts_with("lpc-pipe ") && part.contains(" --") && !part.contains("COMMAND"));
    let lines: Vec<&str> = alone.chain(within).map(str::trim).collect();
    assert!(lines.iter().any(|line| line.contains("--latent none")), "the baseline is missing: {lines:?}");
    for line in lines {
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        check(&line).unwrap_or_else(|error| panic!("`{line}`: {error}"));
    }
}

#[test]
fn lines_are_read_as_a_shell_reads_them() {
    assert_eq!(words("a  'b c' d=\"e f\" ''"), ["a", "b c", "d=e f", ""]);
    let head = "# About: this.\n# Launch:   lpc-pipe train \\\n#    --x 1\n#           lpc-pipe report\n# `lpc-pipe` is told.\n\n# lpc-pipe no";
    assert_eq!(in_head(head), ["lpc-pipe train --x 1", "lpc-pipe report"]);
}
