//! A plan for SkyPilot: one task for `sky jobs launch`, whose environment says which part it is, and the launches.

use super::shell::{Line, quoted};
use super::{Plan, Script, text_of};
use crate::pipeline::recipe::SlurmConfig;
use crate::schema::launch::FOLDER;

/// Name of the task.
const TASK: &str = "skypilot.yaml";
/// Name of the script with the launches.
const ALL: &str = "skypilot.sh";
/// Where the folder that is filled is on the machines.
const MOUNTED: &str = "/lpc-pipe/out";

/// Text as a scalar of YAML: that of JSON is one.
fn scalar(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The scripts, and what a person does next. Of the settings for Slurm, the processors and the setup are taken.
pub(super) fn scripts(plan: &Plan, slurm: &SlurmConfig) -> (Vec<Script>, Vec<String>) {
    let path = quoted(&text_of(&plan.out.join(FOLDER).join(TASK)));
    let line = |line: &Line, number: &str| line.shell(MOUNTED, number);
    let launch = |name: &str, how: &str, part: &str| {
        format!("sky jobs launch -y {how}-n {name} --env LPC_BUCKET=\"$LPC_BUCKET\" --env LPC_PART={part} {path}\n")
    };
    let single = |name: &str, own: &Line| launch(name, "", &quoted(&line(own, "")));
    let mut all = format!(
        "#!/bin/sh\n# Written by lpc-pipe: the launches of {}. LPC_BUCKET is the name of a bucket for the folder.\n\
         : \"${{LPC_BUCKET:?name a bucket: LPC_BUCKET=NAME sh {ALL}}}\"\n",
        text_of(&plan.out)
    );
    all += &format!("cd {} || exit 1\n", quoted(&text_of(&plan.directory)));
    if !plan.numbers.is_empty() {
        if let Some(first) = &plan.first {
            all += "# Waits until it has ended.\n";
            all += &single(&plan.title(first), &first.line);
        }
        let numbers = plan.numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
        let task =
            launch(&format!("{}-$n", plan.title(&plan.tasks)), "-d ", &format!("\"{}\"", line(&plan.tasks.line, "$n")));
        all += &format!("for n in {numbers}; do\n    {task}done\n");
    }
    all += "# When `sky jobs queue` shows that all have ended:\n";
    all += &format!("# {}", single(&plan.title(&plan.last), &plan.last.line));
    let mut task = format!(
        "# Written by lpc-pipe for `sky jobs launch`: {ALL} beside this file has the launches.\n\
         # The program must be on PATH of the machines: add what installs it to `setup`. Files that the recipe names must be\n\
         # below `workdir`, on the hub, or in further lines of `file_mounts`.\n\
         name: {}\n\
         workdir: {}\n\
         resources:\n  cpus: {}\n",
        scalar(&format!("lpc-{}", plan.about)),
        scalar(&text_of(&plan.directory)),
        scalar(&format!("{}+", slurm.cpus)),
    );
    if !slurm.gpus.is_empty() {
        task += &format!(
            "  # From slurm.gpus; SkyPilot's own names, such as A100:1, are needed here.\n  accelerators: {}\n",
            scalar(&slurm.gpus)
        );
    }
    task += "envs:\n  LPC_BUCKET: null\n  LPC_PART: null\n";
    task += &format!(
        "file_mounts:\n  {MOUNTED}:\n    name: {}\n    source: {}\n    mode: \"MOUNT_CACHED\"\n",
        scalar("${LPC_BUCKET}"),
        scalar(&plan.out_text()),
    );
    if !slurm.setup.is_empty() {
        task += "setup: |\n";
        slurm.setup.iter().for_each(|line| task += &format!("  {line}\n"));
    }
    task += "run: |\n  lpc-pipe $LPC_PART\n";
    let next = vec![format!("LPC_BUCKET=NAME sh {}", quoted(&text_of(&plan.out.join(FOLDER).join(ALL))))];
    (vec![Script { name: TASK, text: task }, Script { name: ALL, text: all }], next)
}
