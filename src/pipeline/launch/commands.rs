//! A plan as plain commands: a line for each task, and a script that runs all parts on one machine.

use std::path::Path;

use super::shell::{Line, quoted};
use super::{Plan, Script, text_of};
use crate::schema::launch::FOLDER;

/// Name of the file with a line for each task.
const TASKS: &str = "tasks.txt";
/// Name of the script that runs all parts.
const ALL: &str = "all.sh";

/// The scripts, and what a person does next.
pub(super) fn scripts(plan: &Plan, program: &Path) -> (Vec<Script>, Vec<String>) {
    let command =
        |line: &Line, number: &str| format!("{} {}", quoted(&text_of(program)), line.shell(&plan.out_text(), number));
    let directory = quoted(&text_of(&plan.directory));
    let tasks: String = plan
        .numbers
        .iter()
        .map(|n| format!("cd {directory} && {}\n", command(&plan.tasks.line, &n.to_string())))
        .collect();
    let folder = plan.out.join(FOLDER);
    let mut all = format!("#!/bin/sh\n# Written by lpc-pipe: all parts of {}, on one machine.\n", text_of(&plan.out));
    all += &format!("cd {directory} || exit 1\n");
    if !plan.numbers.is_empty() {
        if let Some(first) = &plan.first {
            all += &format!("{} || exit\n", command(&first.line, ""));
        }
        // Between zero bytes, so that xargs reads no quotes of its own.
        let file = quoted(&text_of(&folder.join(TASKS)));
        let stop = if plan.needs_all { " || exit" } else { "" };
        all += &format!("tr '\\n' '\\0' < {file} | xargs -0 -n 1 -P {} sh -c{stop}\n", plan.at_once);
    }
    all += &format!("{}\n", command(&plan.last.line, ""));
    let next = vec![format!("sh {}", quoted(&text_of(&folder.join(ALL))))];
    (vec![Script { name: TASKS, text: tasks }, Script { name: ALL, text: all }], next)
}
