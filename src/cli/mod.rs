//! Arguments -> configuration -> pipeline; the only place that prints.

mod args;
mod bar;
mod flags;
#[cfg(test)]
mod heads;
mod idle;
mod ignored;
mod lines;
mod memory;
mod output;
mod parts;
#[cfg(test)]
mod reference;
mod shell;
mod tables;
mod warning;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};

use crate::artifact;
use crate::error::{Error, Fault, Result};
use crate::pipeline::recipe::{Recipe, shipped};
use crate::pipeline::{
    audit, demo, eval, export, generate, inspect, launch, merge, plant, planted, prepare, score, sweep, train,
};
use crate::progress::Progress;
use crate::report;
use crate::schema;
use crate::seed::Seed;
use crate::settings::{self, Flag, Settings};
use crate::train::ranks;

use args::Command;
use output::{Printer, Terminal};

/// Latent Preference Coding on dataframes: prepare preference data, inject label noise, train DPO, IPO or SimPO with
/// discrete latent codes, and read every example's code posterior back as Parquet.
#[derive(Debug, Parser)]
#[command(name = "lpc-pipe", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct Global {
    /// Recipe file (TOML); flags and --set go over it
    #[arg(long, global = true, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Overrides one key of the recipe, for example --set train.lpc.codes=16 (repeatable)
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Prints the result as JSON: one object, of `recipes` and `man` a list; not for `completions`
    #[arg(long, global = true, display_order = 4)]
    json: bool,
    /// Prints nothing but the result and errors
    #[arg(long, global = true, display_order = 5)]
    quiet: bool,
}

/// Commands, arguments, and the flags of settings.
fn command() -> clap::Command {
    flags::add(Cli::command(), "").mut_subcommands(|command| {
        let name = command.get_name().to_string();
        flags::add(command, &name)
    })
}

/// Runs the program; the exit code is 0 done, 1 failed, 2 usage or configuration, 3 input rejected, 75 stopped on a
/// scheduler's behalf and to be run again.
pub fn main() -> ExitCode {
    memory::keep_freed_blocks();
    let (cli, flags) = parsed(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let printer = Printer::new(cli.global.json, ranks::launched_rank());
    match run(&cli, &flags, &printer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            printer.error(&error);
            // Whoever ran a part of a plan, or warned of a time limit, is to run the same again.
            let part = matches!(&cli.command, Command::NoiseSweep(a) if a.part.is_some());
            let again = matches!(error, Error::Interrupted { .. }) && (part || warning::came());
            ExitCode::from(if again { Error::STOPPED } else { error.exit_code() })
        }
    }
}

/// The words of a command line: arguments, and the flags of settings that were given.
fn parsed(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<(Cli, Vec<Flag>), clap::Error> {
    let matches = command().try_get_matches_from(words)?;
    let cli = Cli::from_arg_matches(&matches)?;
    // Flags of all commands are known to the parts of a command too.
    let mut innermost = matches.subcommand().map(|(_, matches)| matches);
    while let Some((_, inner)) = innermost.and_then(|matches| matches.subcommand()) {
        innermost = Some(inner);
    }
    Ok((cli, innermost.map(flags::given).unwrap_or_default()))
}

fn run(cli: &Cli, flags: &[Flag], printer: &Printer) -> Result<()> {
    let (recipe, left_out) = resolved(cli, flags)?;
    work(cli, &recipe, left_out, printer).map_err(|error| flags::named(error, flags))
}

/// All settings of a command, and a note where some of the recipe file are left out.
fn resolved(cli: &Cli, flags: &[Flag]) -> Result<(Recipe, Option<String>)> {
    let planned = match &cli.command {
        Command::NoiseSweep(args::NoiseSweep { part: Some(part), .. }) => Some(part.out().join(schema::run::CONFIG)),
        _ => None,
    };
    if let Some(file) = &planned {
        if cli.global.config.is_some() || !cli.global.set.is_empty() {
            let message =
                format!("a part of a sweep has the recipe {}: --config and --set are for the launch", file.display());
            return Err(Error::config("", message));
        }
        if !file.is_file() {
            return Err(Error::artifact(file, "no sweep was begun here")
                .with_hint("noise-sweep --config FILE.toml --out DIR --launcher NAME begins one"));
        }
    }
    if let Some(flag) = flags.iter().find(|flag| flag.key == "seed")
        && let Some(why) = idle::seed(&cli.command)
    {
        return Err(flags::named(Error::Config(vec![Fault::new(flag.key.as_str(), why)]), flags));
    }
    let config = planned.as_deref().or(cli.global.config.as_deref());
    let idle = |key: &str| idle::setting(&cli.command, key);
    let mut recipe: Recipe = settings::resolve(config, &cli.global.set, flags, &idle)?;
    if let Command::NoiseSweep(args::NoiseSweep { part: Some(part), .. }) = &cli.command {
        // Where the folder is now, wherever it was begun.
        recipe.sweep.out = part.out().display().to_string();
    }
    let left_out = if let Command::Train(_) = &cli.command {
        idle::left_out(&mut recipe, config, &cli.global.set, flags)
    } else {
        None
    };
    Ok((recipe, left_out))
}

fn work(cli: &Cli, recipe: &Recipe, left_out: Option<String>, printer: &Printer) -> Result<()> {
    let global = &cli.global;
    if recipe.threads > 0 {
        // Fails only where a pool exists already, which is then used.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(recipe.threads).build_global();
    }
    let ranks = match &cli.command {
        Command::Train(_) => ranks::join()?,
        _ if ranks::launched() > 1 => {
            return Err(Error::config("", "of all commands only `train` works over several processes"));
        }
        _ => ranks::Ranks::alone(),
    };
    let terminal = Terminal::new(global.quiet || !ranks.first());
    let seed = Seed(recipe.seed);
    if let Some(note) = &left_out {
        terminal.note(note);
    }
    match &cli.command {
        Command::Demo => {
            terminal.catch_interrupts();
            printer.result(&demo::run(recipe, &terminal)?, tables::demo)
        }
        Command::Synth => {
            printer.result(&plant::run(&recipe.synth, seed, &terminal)?, |s| tables::synth(s, &recipe.synth.out))
        }
        Command::Prepare(a) => {
            terminal.catch_interrupts();
            match (a.launcher.planned(), a.shards) {
                (Some(launcher), Some(shards)) => {
                    let submit = !recipe.prepare.dry_run;
                    let launched = prepare::launch(recipe, shards, launcher, submit, &terminal)?;
                    printed(&launched, submit, printer)
                }
                (Some(_), None) => Err(Error::config("", "--launcher needs --shards N: each shard is a task")),
                (None, Some(_)) => Err(Error::config("", "--shards has no effect without --launcher")),
                (None, None) => printer.result(&prepare::run(&recipe.prepare, seed, &terminal)?, tables::prepare),
            }
        }
        Command::Merge(a) => printer.result(&merge::run(&a.shards, &a.out, &terminal)?, tables::prepare),
        Command::Score => printer.result(&score::run(&recipe.score, seed, &terminal)?, tables::score),
        Command::Train(a) => {
            terminal.catch_interrupts();
            trained(a, recipe, &ranks, &terminal, printer)
        }
        Command::Generate => {
            terminal.catch_interrupts();
            printer.result(&generate::run(&recipe.generate, seed, &terminal)?, tables::generate)
        }
        Command::Eval => {
            terminal.catch_interrupts();
            printer.result(&eval::run(&recipe.eval, seed, &terminal)?, tables::eval)
        }
        Command::Export => printer.result(&export::run(&recipe.export, &terminal)?, tables::export),
        Command::NoiseSweep(a) => {
            terminal.catch_interrupts();
            match &a.part {
                Some(part) => swept_in_part(part, recipe, &terminal, printer),
                None => swept(a.launcher, recipe, &terminal, printer),
            }
        }
        Command::Audit => {
            terminal.catch_interrupts();
            printer.result(&audit::run(&recipe.audit, &terminal)?, tables::audit)
        }
        Command::Report(a) => {
            recipe.report.check()?;
            let found = a.truth.as_deref().map(|truth| planted::recover_run(truth, &a.dir)).transpose()?;
            let preferences = found.as_ref().and_then(|f| f.preferences.as_ref());
            let names = [schema::report::HTML, schema::report::MARKDOWN, schema::report::PROJECTION];
            artifact::may_add(&a.dir, &names)?;
            let planted = found.as_ref().map_or(&[] as &[_], |found| &found.labels);
            let config = recipe.report.clone();
            let options = report::ReportOptions { config, seed, preferences, planted, progress: &terminal };
            let report::WrittenReport { page, codes, meaning } = report::write_with(&a.dir, &options)?;
            let mut told = serde_json::json!({"report": page, "planted": found.as_ref().map(|f| &f.scores)});
            told["codes"] = serde_json::to_value(&codes)?;
            for key in ["prepared", "associations", "representatives", "projection"] {
                told[key] = serde_json::Value::Null;
            }
            if let serde_json::Value::Object(meaning) = serde_json::to_value(&meaning)? {
                meaning.into_iter().for_each(|(key, value)| told[key] = value);
            }
            if let Some(codes) = told["codes"].as_object_mut() {
                codes.insert("preferences".into(), serde_json::to_value(preferences)?);
            }
            printer.result(&told, |_| {
                let scores = found.as_ref().map_or_else(String::new, |f| tables::planted(&f.scores));
                let codes = codes.as_ref().zip(found.as_ref().map(|f| f.preferences.as_ref()));
                let codes = codes.map_or_else(String::new, |(codes, found)| tables::codes(codes, found));
                let associations = meaning
                    .as_ref()
                    .filter(|_| found.is_some())
                    .map_or_else(String::new, |meaning| tables::associations(&meaning.associations));
                format!("{scores}{codes}{associations}{}\n", page.display())
            })
        }
        Command::Inspect(a) => printer.result(&inspect::run(&a.path)?, inspect::Inspection::to_text),
        Command::Recipes(a) => match &a.name {
            Some(name) => printer.result(&shipped::find(name)?, |recipe| recipe.text.to_string()),
            None => printer.result(&shipped::all(), |recipes| tables::recipes(recipes)),
        },
        Command::Completions(a) => printer.script(&shell::completions(command(), a.shell)),
        Command::Man(a) => printer.result(&shell::manual(command(), &a.dir)?, |pages| {
            format!("{}: {} pages; `man -M {0} lpc-pipe` shows one\n", a.dir.display(), pages.len())
        }),
    }
}

fn trained(
    args: &args::Train,
    recipe: &Recipe,
    ranks: &ranks::Ranks,
    terminal: &Terminal,
    printer: &Printer,
) -> Result<()> {
    let (config, seed) = (&recipe.train, Seed(recipe.seed));
    config.idle_rates().iter().for_each(|line| terminal.warn(line));
    if args.dry_run {
        return printer.result(&train::dry_run(config, seed, terminal)?, tables::dry_run);
    }
    let ended = train::run_among(config, seed, args.resume, terminal, ranks)?;
    if matches!(ended, train::Ended::Already(_)) {
        terminal.note("this run is finished already; nothing was done");
    }
    match ended {
        train::Ended::Finished(summary) | train::Ended::Already(summary) => {
            printer.result(&summary, |s| tables::run(s, &config.out))
        }
        train::Ended::Interrupted { step: 0, what, .. } => {
            Err(interrupted(format!("interrupted before the first step; {what}"), &again(&[])))
        }
        train::Ended::Interrupted { step, steps, what } => {
            let message = format!("interrupted after step {step} of {steps}; {what}");
            Err(interrupted(message, &again(&["--resume"])))
        }
    }
}

/// Shows what a launcher wrote; the scripts too where nothing was to be submitted.
fn printed(launched: &launch::Launched, submit: bool, printer: &Printer) -> Result<()> {
    let mut scripts = String::new();
    if !submit {
        for file in &launched.files {
            let text = std::fs::read_to_string(file).map_err(Error::io(file))?;
            scripts += &format!("== {}\n{text}\n", file.display());
        }
    }
    printer.result(launched, |launched| scripts + &tables::launched(launched))
}

fn swept_in_part(part: &args::SweepPart, recipe: &Recipe, terminal: &Terminal, printer: &Printer) -> Result<()> {
    match part {
        args::SweepPart::Inputs(_) => printer.result(&sweep::share(recipe, terminal)?, tables::shared),
        args::SweepPart::Cell { index, .. } => {
            printer.result(&sweep::run_cell(recipe, *index, terminal)?, tables::cell)
        }
        args::SweepPart::Collect(_) => {
            let collected = sweep::collect(recipe, terminal)?;
            printer.result(&collected, tables::collected)
        }
    }
}

fn swept(launcher: args::LauncherFlag, recipe: &Recipe, terminal: &Terminal, printer: &Printer) -> Result<()> {
    // Once, and not by every cell.
    recipe.train.idle_rates().iter().for_each(|line| terminal.warn(line));
    if let Some(launcher) = launcher.planned() {
        let submit = !recipe.sweep.dry_run;
        return printed(&sweep::launch(recipe, launcher, submit, terminal)?, submit, printer);
    }
    if recipe.sweep.dry_run {
        return printer.result(&sweep::dry_run(recipe, terminal)?, tables::sweep_plan);
    }
    let outcome = sweep::run(recipe, terminal)?;
    printer.result(&outcome, tables::sweep)?;
    if terminal.interrupted() {
        let message = "interrupted; finished cells are kept, and stopped ones have a checkpoint".into();
        return Err(interrupted(message, &again(&[])));
    }
    outcome.check()
}

fn interrupted(message: String, command: &str) -> Error {
    Error::Interrupted { message, hint: Some(format!("go on with\n  {command}")) }
}

/// This command again, as a shell reads it, with these flags where it does not have them yet.
fn again(flags: &[&str]) -> String {
    let mut words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    for flag in flags {
        if !words.iter().any(|word| word == flag) {
            words.push((*flag).to_string());
        }
    }
    words.iter().map(|word| launch::shell::quoted(word)).collect::<Vec<_>>().join(" ")
}
