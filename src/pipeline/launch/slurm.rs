//! A plan for Slurm: a batch script for each part, submitted with what each waits for.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use super::shell::quoted;
use super::{Job, Plan, Script, text_of};
use crate::error::{Error, Result};
use crate::pipeline::recipe::SlurmConfig;
use crate::schema::launch::{FOLDER, LOGS};

/// Number of a task, as shell text.
const NUMBER: &str = "\"$SLURM_ARRAY_TASK_ID\"";
/// The job as `scontrol` names it: a job of its own, and a task of an array.
const OWN_ID: &str = "$SLURM_JOB_ID";
const TASK_ID: &str = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}";

/// The scripts, in the order in which they are submitted.
pub(super) fn scripts(plan: &Plan, program: &Path, slurm: &SlurmConfig) -> Vec<Script> {
    let mut scripts = Vec::new();
    if !plan.numbers.is_empty() {
        if let Some(first) = &plan.first {
            scripts.push(Script { name: "1-first.sbatch", text: script(plan, first, program, slurm, &Part::First) });
        }
        scripts.push(Script { name: "2-tasks.sbatch", text: script(plan, &plan.tasks, program, slurm, &Part::Tasks) });
    }
    scripts.push(Script { name: "3-last.sbatch", text: script(plan, &plan.last, program, slurm, &Part::Last) });
    scripts
}

/// Which part of a plan a script is.
#[derive(PartialEq)]
enum Part {
    First,
    Tasks,
    Last,
}

fn script(plan: &Plan, job: &Job, program: &Path, slurm: &SlurmConfig, part: &Part) -> String {
    let log = if *part == Part::Tasks { "%A_%a" } else { "%j" };
    // In names of files `%` begins what Slurm replaces.
    let logs = text_of(&plan.out.join(FOLDER).join(LOGS)).replace('%', "%%");
    let mut options = vec![
        format!("--job-name={}", plan.title(job)),
        format!("--output={logs}/{}-{log}.log", job.name),
        // A job that was requeued goes on in the same log.
        "--open-mode=append".into(),
        format!("--chdir={}", text_of(&plan.directory)),
        format!("--cpus-per-task={}", slurm.cpus),
    ];
    let mut given = |option: &str, value: &str| {
        if !value.is_empty() {
            options.push(format!("{option}{value}"));
        }
    };
    given("--partition=", &slurm.partition);
    given("--account=", &slurm.account);
    given("--time=", &slurm.time);
    given("--mem=", &slurm.memory);
    if *part != Part::Last {
        given("--gres=gpu:", &slurm.gpus);
        // To the script itself, which passes it on: without `B:` it would reach job steps alone, and there is none.
        options.push(format!("--signal=B:USR1@{}", slurm.signal_seconds));
        options.push("--requeue".into());
    }
    if *part == Part::Tasks {
        let most = if slurm.max_parallel == 0 { String::new() } else { format!("%{}", slurm.max_parallel) };
        options.push(format!("--array={}{most}", ranges(&plan.numbers)));
    }
    let mut text = String::from("#!/bin/bash\n");
    for option in &options {
        let _ = writeln!(text, "#SBATCH {}", directive(option));
    }
    for option in &slurm.directives {
        let _ = writeln!(text, "#SBATCH {option}");
    }
    let _ = writeln!(text, "\n# Written by lpc-pipe: {} of {}.", job.name, text_of(&plan.out));
    for line in &slurm.setup {
        let _ = writeln!(text, "{line}");
    }
    let threads = job.line.and(&["--threads", &slurm.cpus.to_string()]);
    let command = format!("{} {}", quoted(&text_of(program)), threads.shell(&plan.out_text(), NUMBER));
    match part {
        Part::Last => text + "\nexec " + &command + "\n",
        Part::First => text + &requeued(&command, OWN_ID, slurm.max_requeues),
        Part::Tasks => text + &requeued(&command, TASK_ID, slurm.max_requeues),
    }
}

/// Runs the command, passes the time limit's signal on to it, and requeues the job where the command then stopped with
/// [`Error::STOPPED`].
///
/// The command runs beside the shell, because a shell sees a signal only after a command that it waits for has ended. A
/// job that was cancelled gets SIGTERM alone and is not requeued.
fn requeued(command: &str, id: &str, most: u64) -> String {
    let stopped = Error::STOPPED;
    format!(
        r#"
child=
warned=0
trap 'warned=1; again=1; [ -z "$child" ] || kill -USR1 "$child" 2> /dev/null' USR1
trap 'again=1; [ -z "$child" ] || kill -TERM "$child" 2> /dev/null' TERM
{command} &
child=$!
# A signal ends `wait` early.
while :; do
    again=0
    wait "$child"
    code=$?
    [ "$again" -eq 1 ] || break
done
# {stopped}: stopped at the time limit with a checkpoint, and to be run again.
if [ "$code" -eq {stopped} ] && [ "$warned" -eq 1 ]; then
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {most} ]; then
        scontrol requeue "{id}" && exit 0
    else
        echo "requeued {most} times already: slurm.max_requeues" >&2
    fi
fi
exit "$code"
"#
    )
}

/// An option as `sbatch` reads it from a script.
fn directive(option: &str) -> String {
    if option.contains(|c: char| c.is_whitespace() || "\"'\\#".contains(c)) {
        let escaped = option.replace('\\', "\\\\").replace('"', "\\\"");
        return format!("\"{escaped}\"");
    }
    option.to_string()
}

/// Numbers in rising order as `sbatch --array` takes them: `1-3,5`.
pub(super) fn ranges(numbers: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &n in numbers {
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == n => *end = n,
            _ => ranges.push((n, n)),
        }
    }
    let text = |&(from, to): &(usize, usize)| if from == to { from.to_string() } else { format!("{from}-{to}") };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

/// Refuses a second submission while jobs of an earlier one wait or run: their tasks would be done twice.
///
/// Ids that Slurm has forgotten are those of jobs that ended. Where `squeue` is missing nothing is refused: `sbatch` will
/// be missing too.
///
/// # Errors
/// [`Error::Run`] with the ids of these jobs; [`Error::Artifact`] for a damaged list of jobs.
pub(super) fn refuse_twice(listed: &Path) -> Result<()> {
    if !listed.is_file() {
        return Ok(());
    }
    let bytes = std::fs::read(listed).map_err(Error::io(listed))?;
    let damaged = |e| Error::artifact(listed, format!("damaged: {e}"));
    let jobs: BTreeMap<String, String> = serde_json::from_slice(&bytes).map_err(damaged)?;
    let ids = jobs.values().map(String::as_str).collect::<Vec<_>>().join(",");
    let asked = Command::new("squeue").args(["--noheader", "--format=%A", "--jobs", &ids]).output();
    let Ok(output) = asked else { return Ok(()) };
    if String::from_utf8_lossy(&output.stdout).trim().is_empty() {
        return Ok(());
    }
    Err(Error::run(format!("jobs of an earlier launch into this folder wait or run: {ids}")).with_hint(format!(
        "wait until `squeue --jobs={ids}` shows none, or end them with `scancel {}`",
        ids.replace(',', " ")
    )))
}

/// Submits the scripts in a folder. Returns the ids of the jobs by name.
///
/// # Errors
/// [`Error::Run`] where `sbatch` is missing or refuses a job; what was submitted before is cancelled.
pub(super) fn submit(plan: &Plan, folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut jobs = BTreeMap::new();
    let mut send = |job: &Job, name: &str, waits: Option<String>| -> Result<String> {
        let mut command = Command::new("sbatch");
        command.arg("--parsable");
        if let Some(waits) = waits {
            command.arg(format!("--dependency={waits}")).arg("--kill-on-invalid-dep=yes");
        }
        match sent(command.arg(folder.join(name))) {
            Ok(id) => {
                jobs.insert(job.name.to_string(), id.clone());
                Ok(id)
            }
            Err(error) => {
                // What waits for a job that is not there would wait for ever, or run for nothing.
                if !jobs.is_empty() {
                    let _ = Command::new("scancel").args(jobs.values()).status();
                }
                Err(error)
            }
        }
    };
    let mut before = None;
    if !plan.numbers.is_empty() {
        if let Some(first) = &plan.first {
            let id = send(first, "1-first.sbatch", None)?;
            before = Some(format!("afterany:{id}"));
        }
        let id = send(&plan.tasks, "2-tasks.sbatch", before)?;
        before = Some(format!("{}:{id}", if plan.needs_all { "afterok" } else { "afterany" }));
    }
    send(&plan.last, "3-last.sbatch", before)?;
    Ok(jobs)
}

/// Runs `sbatch --parsable`; the id of the job.
fn sent(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|e| {
        Error::run(format!("sbatch cannot be run: {e}"))
            .with_hint("launch where Slurm is installed; --dry-run writes the scripts and submits nothing")
    })?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    if !output.status.success() {
        return Err(Error::run(format!("sbatch refused a job: {}", said(&output.stderr)))
            .with_hint("partition, account, time and the like are settings of [slurm]; an array may have as many tasks as the cluster's MaxArraySize"));
    }
    // The id, and after a semicolon the cluster where there are several.
    let text = said(&output.stdout);
    let id = text.split(';').next().unwrap_or_default();
    if id.is_empty() || !id.chars().all(|c| c.is_ascii_digit()) {
        return Err(Error::run(format!("sbatch --parsable said {text:?}, and not the id of a job")));
    }
    Ok(id.to_string())
}
