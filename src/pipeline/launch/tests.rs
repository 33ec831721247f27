#![cfg(unix)]

use std::collections::BTreeMap;
use std::process::Command;

use super::shell::{NUMBER, OUT};
use super::*;

fn plan(out: &Path, numbers: Vec<usize>) -> Plan {
    let job = |name, words: &[&str]| Job { name, line: Line::new(words.iter().copied()) };
    Plan {
        about: "sweep",
        out: out.to_path_buf(),
        directory: out.to_path_buf(),
        first: Some(job("inputs", &["noise-sweep", "inputs", "--out", OUT])),
        tasks: job("cell", &["noise-sweep", "cell", "--out", OUT, "--index", NUMBER]),
        numbers,
        last: job("collect", &["noise-sweep", "collect", "--out", OUT]),
        needs_all: false,
        at_once: 3,
    }
}

fn texts(scripts: &[Script]) -> BTreeMap<&'static str, &str> {
    scripts.iter().map(|script| (script.name, script.text.as_str())).collect()
}

/// The values of the `#SBATCH` lines of a script.
fn options(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("#SBATCH ")).collect()
}

#[test]
fn slurm_scripts_hold_what_the_settings_ask_for() {
    let config = SlurmConfig {
        partition: "gpu".into(),
        account: "lab".into(),
        time: "04:00:00".into(),
        memory: "16G".into(),
        cpus: 8,
        gpus: "a100:1".into(),
        signal_seconds: 300,
        max_parallel: 2,
        directives: vec!["--qos=long".into()],
        setup: vec!["module load cuda/12.4".into()],
        ..SlurmConfig::default()
    };
    let scripts =
        slurm::scripts(&plan(Path::new("/runs/100% it's"), vec![1, 2, 3, 5, 7, 8]), Path::new("/bin/lpc"), &config);
    let scripts = texts(&scripts);
    assert_eq!(scripts.keys().copied().collect::<Vec<_>>(), ["1-first.sbatch", "2-tasks.sbatch", "3-last.sbatch"]);
    let tasks = scripts["2-tasks.sbatch"];
    assert_eq!(
        options(tasks),
        [
            "--job-name=sweep-cell",
            "\"--output=/runs/100%% it's/launch/logs/cell-%A_%a.log\"",
            "--open-mode=append",
            "\"--chdir=/runs/100% it's\"",
            "--cpus-per-task=8",
            "--partition=gpu",
            "--account=lab",
            "--time=04:00:00",
            "--mem=16G",
            "--gres=gpu:a100:1",
            "--signal=B:USR1@300",
            "--requeue",
            "--array=1-3,5,7-8%2",
            "--qos=long",
        ]
    );
    let command =
        "/bin/lpc noise-sweep cell --out '/runs/100% it'\\''s' --index \"$SLURM_ARRAY_TASK_ID\" --threads 8 &\n";
    assert!(tasks.contains(command), "{tasks}");
    assert!(tasks.contains("\nmodule load cuda/12.4\n"), "{tasks}");
    assert!(tasks.contains("scontrol requeue \"${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}\""), "{tasks}");
    let first = scripts["1-first.sbatch"];
    assert!(first.contains("scontrol requeue \"$SLURM_JOB_ID\"") && !first.contains("--array"), "{first}");
    let last = scripts["3-last.sbatch"];
    assert!(
        !last.contains("--gres") && !last.contains("--signal") && last.contains("\nexec /bin/lpc noise-sweep collect")
    );
    for text in scripts.values() {
        let checked = Command::new("bash").args(["-n", "-c", text]).output().unwrap();
        assert!(checked.status.success(), "{text}\n{}", String::from_utf8_lossy(&checked.stderr));
    }
    let finished = slurm::scripts(&plan(Path::new("/runs"), vec![]), Path::new("/bin/lpc"), &config);
    assert_eq!(texts(&finished).keys().copied().collect::<Vec<_>>(), ["3-last.sbatch"]);
}

/// Runs a batch script of one task with a program and a `scontrol` that are shell scripts, sends it a signal once the
/// program runs, and tells its exit code and what `scontrol` was asked.
fn batch(program: &str, signal: Option<&str>, restarts: &str) -> (i32, String) {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let program = write("program", &format!("touch {}/runs\n{program}", dir.path().display()));
    write("scontrol", &format!("echo \"$@\" > {}/asked", dir.path().display()));
    let config = SlurmConfig { max_requeues: 3, ..SlurmConfig::default() };
    let scripts = slurm::scripts(&plan(dir.path(), vec![1, 2]), &program, &config);
    let script = write("script", texts(&scripts)["2-tasks.sbatch"]);
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let mut child = Command::new("bash")
        .arg(script)
        .envs([("PATH", path.as_str()), ("SLURM_ARRAY_TASK_ID", "2"), ("SLURM_ARRAY_JOB_ID", "40")])
        .env("SLURM_RESTART_COUNT", restarts)
        .spawn()
        .unwrap();
    if let Some(signal) = signal {
        while !dir.path().join("runs").exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        // The program sets its trap right after.
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap().success());
    }
    let code = child.wait().unwrap().code().unwrap();
    (code, std::fs::read_to_string(dir.path().join("asked")).unwrap_or_default())
}

#[test]
fn a_batch_script_requeues_what_was_stopped_at_its_time_limit_and_nothing_else() {
    // Stops on either signal with the code that says so.
    let stops = "trap 'exit 75' USR1 TERM; for i in {1..200}; do sleep 0.05; done; exit 9";
    assert_eq!(batch(stops, Some("USR1"), "2"), (0, "requeue 40_2\n".into()));
    assert_eq!(batch(stops, Some("USR1"), "3"), (75, String::new()), "no more than max_requeues");
    assert_eq!(batch(stops, Some("TERM"), "0"), (75, String::new()), "a cancelled job stays cancelled");
    // Finishes or fails after the warning.
    assert_eq!(
        batch("trap 'exit 0' USR1; for i in {1..200}; do sleep 0.05; done", Some("USR1"), "0"),
        (0, String::new())
    );
    assert_eq!(
        batch("trap 'exit 1' USR1; for i in {1..200}; do sleep 0.05; done", Some("USR1"), "0"),
        (1, String::new())
    );
    assert_eq!(batch("[ \"$5 $6\" = '--index 2' ] && exit 4", None, "0"), (4, String::new()));
    assert_eq!(batch("exit 75", None, "0"), (75, String::new()));
}

#[test]
fn a_path_that_no_script_can_hold_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("two\nlines");
    let refused = plan(&out, vec![1]).put(Launcher::Commands, &SlurmConfig::default(), false).unwrap_err();
    assert!(refused.to_string().contains("no script can hold this path"), "{refused}");
    assert!(!out.exists());
}

#[test]
fn plain_commands_run_every_part() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("it's \"here\"");
    std::fs::create_dir(&out).unwrap();
    let (scripts, next) = commands::scripts(&plan(&out, vec![1, 3]), Path::new("/bin/echo"));
    for script in &scripts {
        artifact::write_bytes(out.join(FOLDER).join(script.name), script.text.as_bytes()).unwrap();
    }
    let ran = Command::new("sh").args(["-c", &next[0]]).output().unwrap();
    let said = String::from_utf8(ran.stdout).unwrap();
    let mut lines: Vec<&str> = said.lines().collect();
    lines[1..3].sort_unstable();
    let out = out.display();
    let wanted = [
        format!("noise-sweep inputs --out {out}"),
        format!("noise-sweep cell --out {out} --index 1"),
        format!("noise-sweep cell --out {out} --index 3"),
        format!("noise-sweep collect --out {out}"),
    ];
    assert_eq!(lines, wanted, "{}", String::from_utf8_lossy(&ran.stderr));
}

/// The values of a YAML file of mappings, block texts, and scalars as JSON writes them, by dotted keys.
fn yaml(text: &str) -> BTreeMap<String, serde_json::Value> {
    let (mut found, mut above, mut block) = (BTreeMap::new(), Vec::<(usize, String)>::new(), None::<(usize, String)>);
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let depth = line.len() - line.trim_start().len();
        if let Some((own, key)) = &block
            && depth > *own
        {
            let value: &mut serde_json::Value = found.get_mut(key).unwrap();
            *value = format!("{}{}\n", value.as_str().unwrap(), line.trim_start()).into();
            continue;
        }
        block = None;
        above.retain(|(other, _)| *other < depth);
        let (name, value) = line.trim_start().split_once(':').unwrap_or_else(|| panic!("{line}"));
        above.push((depth, name.to_string()));
        let key = above.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(" ");
        match value.trim() {
            "" => {}
            "|" => {
                found.insert(key.clone(), "".into());
                block = Some((depth, key));
            }
            scalar => drop(found.insert(key, serde_json::from_str(scalar).unwrap_or_else(|e| panic!("{line}: {e}")))),
        }
    }
    found
}

#[test]
fn a_skypilot_task_has_the_fields_of_one() {
    let config = SlurmConfig { gpus: "A100:1".into(), setup: vec!["a".into(), "b".into()], ..SlurmConfig::default() };
    let (scripts, next) = skypilot::scripts(&plan(Path::new("/runs/my sweep"), vec![2, 3]), &config);
    let scripts = texts(&scripts);
    let task = yaml(scripts["skypilot.yaml"]);
    let wanted = [
        ("name", "lpc-sweep".into()),
        ("workdir", "/runs/my sweep".into()),
        ("resources cpus", "4+".into()),
        ("resources accelerators", "A100:1".into()),
        ("envs LPC_BUCKET", serde_json::Value::Null),
        ("envs LPC_PART", serde_json::Value::Null),
        ("file_mounts /lpc-pipe/out name", "${LPC_BUCKET}".into()),
        ("file_mounts /lpc-pipe/out source", "/runs/my sweep".into()),
        ("file_mounts /lpc-pipe/out mode", "MOUNT_CACHED".into()),
        ("setup", "a\nb\n".into()),
        ("run", "lpc-pipe $LPC_PART\n".into()),
    ];
    assert_eq!(task, wanted.map(|(key, value)| (key.to_string(), value)).into());
    // The launches, with a `sky` that tells its arguments.
    let dir = tempfile::tempdir().unwrap();
    let script = scripts["skypilot.sh"].replace("cd '/runs/my sweep'", "cd /");
    let told = "sky() { printf '%s|' \"$@\"; echo; }\n";
    std::fs::write(dir.path().join("all"), format!("{told}{script}")).unwrap();
    let ran = Command::new("sh").arg("all").current_dir(dir.path()).env("LPC_BUCKET", "b").output().unwrap();
    let said = String::from_utf8(ran.stdout).unwrap();
    let line = |how: &str, name: &str, part: &str| {
        format!(
            "jobs|launch|-y|{how}-n|sweep-{name}|--env|LPC_BUCKET=b|--env|LPC_PART=noise-sweep {part}|/runs/my sweep/launch/skypilot.yaml|"
        )
    };
    let wanted = [
        line("", "inputs", "inputs --out /lpc-pipe/out"),
        line("-d|", "cell-2", "cell --out /lpc-pipe/out --index 2"),
        line("-d|", "cell-3", "cell --out /lpc-pipe/out --index 3"),
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), wanted, "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(next, ["LPC_BUCKET=NAME sh '/runs/my sweep/launch/skypilot.sh'"]);
    let without = Command::new("sh").arg("all").current_dir(dir.path()).env_remove("LPC_BUCKET").output().unwrap();
    assert!(!without.status.success() && without.stdout.is_empty());
}
