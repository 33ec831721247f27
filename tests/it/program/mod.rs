//! What a person or another program relies on: commands, messages, files, and what is left after a crash or a stop.
//!
//! - `audit`: labels that are thought wrong, and pairs that a run holds out.
//! - `shell`: what shells and `man` read.
//! - `cli`: what a person sees: help, tables, errors, exit codes.
//! - `contract`: commands, folders and columns, as other programs rely on them.
//! - `conversations`: which prompts of several turns count as the same, and what belongs to a prompt.
//! - `bad_input`: every way in which a row or a file can be broken.
//! - `refused`: rows that the chat template or the tokenizer refuses.
//! - `help`: what `--help` says.
//! - `no_effect`: settings that would change nothing.
//! - `eval`: benchmarks and preference accuracy.
//! - `generate`: answers of every kind of model, with the prior's codes and with one.
//! - `models`: model folders that other programs made.
//! - `outputs`: files that no command may overwrite.
//! - `crash`: a killed process, a full disk, folders that cannot be written, links, pipes.
//! - `launchers`: plans for many machines, and cells that run one by one.
//! - `terminal`: what is said on a terminal.
//! - `signals`: the real program, interrupted and killed.
//! - `validation`: which parameters a run keeps that holds prompts out, and when it ends early.
//! - `resume`: a run that was stopped and resumed gives the same bits.
//! - `running`: what a training run reports, and when it gives up.
//! - `stopping`: nothing is computed that is not needed, and nothing twice.
//! - `reference`: the cache of reference log-probabilities, and what `score` adds to it.

mod audit;
mod bad_input;
mod cli;
mod contract;
mod conversations;
mod crash;
mod eval;
mod generate;
mod help;
mod known_sets;
mod launchers;
mod models;
mod no_effect;
mod outputs;
mod reference;
mod refused;
mod resume;
mod running;
mod shell;
mod signals;
mod stopping;
mod sweeps;
mod terminal;
mod validation;
