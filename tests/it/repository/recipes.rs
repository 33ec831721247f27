//! Every recipe resolves and has an effect; what is written about the program is what it does.

use std::path::PathBuf;

use lpc_pipe::pipeline::recipe::Recipe;
use lpc_pipe::settings::{self, Settings};

use crate::support::{Sandbox, files_below, repository};

/// Recipes by path, at any depth.
fn recipes() -> Vec<PathBuf> {
    let folder = repository().join("pipelines");
    files_below(&folder).into_iter().filter(|n| n.ends_with(".toml")).map(|n| folder.join(n)).collect()
}

fn resolved(path: &std::path::Path) -> Recipe {
    settings::resolve(Some(path), &[], &[], &|_| None).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_recipe_resolves_without_a_fault() {
    assert!(recipes().len() >= 19, "{:?}", recipes());
    for path in recipes() {
        let recipe = resolved(&path);
        let text = std::fs::read_to_string(&path).expect("a recipe");
        let has = |table: &str| text.lines().any(|l| l.trim() == format!("[{table}]"));
        // What a recipe leaves to the command line is missing here, and nothing else is wrong.
        let given_later =
            |key: &str| ["train.model", "train.data", "train.out", "prepare.input", "prepare.out"].contains(&key);
        let mut faults = Vec::new();
        if has("train") {
            faults.extend(recipe.train.faults());
        }
        if has("prepare") {
            faults.extend(recipe.prepare.faults());
        }
        if has("sweep") {
            faults.extend(recipe.sweep.faults());
        }
        if has("synth") {
            faults.extend(recipe.synth.faults());
        }
        faults.retain(|f| !given_later(&f.key));
        assert!(faults.is_empty(), "{}: {faults:?}", path.display());
        assert!(has("train") || has("sweep") || has("prepare"), "{}: a recipe of nothing", path.display());
    }
}

#[test]
fn every_recipe_says_how_it_is_launched() {
    for path in recipes() {
        let text = std::fs::read_to_string(&path).expect("a recipe");
        let name = path.strip_prefix(repository()).expect("below the root").to_string_lossy().replace('\\', "/");
        assert!(text.starts_with("# "), "{name}: begins with what it shows");
        let launch = text.lines().find(|l| l.starts_with("# Launch:"));
        let launch = launch.unwrap_or_else(|| panic!("{name}: no line `# Launch:`"));
        assert!(launch.contains(&format!("--config {name}")), "{name}: {launch}");
        // Every command in the comments is one of the program's.
        for line in text.lines().filter(|l| l.starts_with('#')) {
            for (at, _) in line.match_indices("lpc-pipe ") {
                let command = line[at + "lpc-pipe ".len()..].split([' ', '`']).next().unwrap_or("");
                let help = Sandbox::new().run(&[command, "--help"]);
                assert_eq!(help.code, 0, "{name}: `lpc-pipe {command}`\n{}", help.stderr);
            }
        }
    }
}

/// The program has every recipe of the folder, and prints it as it is there.
#[test]
fn the_program_has_every_recipe() {
    let sandbox = Sandbox::new();
    let listed: serde_json::Value = serde_json::from_str(&sandbox.ok("recipes --json").stdout).expect("JSON");
    let mut names: Vec<String> =
        listed.as_array().expect("a list").iter().map(|r| r["name"].as_str().expect("a name").to_string()).collect();
    let table = sandbox.ok("recipes").stdout;
    for path in recipes() {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("a recipe");
        assert_eq!(sandbox.ok(&format!("recipes {name}")).stdout, text, "{name}");
        assert!(table.contains(&name), "{table}");
        let at = names.iter().position(|n| *n == name).unwrap_or_else(|| panic!("{name} is not listed"));
        names.remove(at);
    }
    assert!(names.is_empty(), "no files of {names:?}");
    let unknown = sandbox.run(&["recipes", "smok"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("did you mean smoke?"), "{}", unknown.stderr);
}

/// The smallest recipe does what its head says, down to the report.
#[test]
fn the_smoke_recipe_runs() {
    let sandbox = Sandbox::new();
    let path = repository().join("pipelines/smoke.toml").display().to_string();
    sandbox.ok(&format!("synth --config {path} --rows 60"));
    sandbox.ok(&format!("prepare --config {path}"));
    let config = resolved(&repository().join("pipelines/smoke.toml"));
    assert!(sandbox.exists(&config.prepare.out), "the recipe's own folder");
    sandbox.ok(&format!("train --config {path} --model tiny:16x1 --max-steps 2"));
    sandbox.ok(&format!("report {}", config.train.out));
    assert!(sandbox.text(&format!("{}/report.html", config.train.out)).contains("</html>"));
}

#[test]
fn the_readme_has_the_help_of_the_program() {
    let text = std::fs::read_to_string(repository().join("README.md")).expect("README.md");
    let (begin, end) = ("<!-- help:begin -->", "<!-- help:end -->");
    let block = text.split_once(begin).and_then(|(_, rest)| rest.split_once(end)).map(|(block, _)| block.trim());
    let block = block.unwrap_or_else(|| panic!("README.md: no block between {begin} and {end}"));
    let shown = block.strip_prefix("```text\n").and_then(|b| b.strip_suffix("```"));
    let shown = shown.expect("the block is one fence of text");
    let help = Sandbox::new().ok("--help").stdout;
    let plain = |text: &str| text.trim_end().lines().map(|l| l.trim_end().to_string()).collect::<Vec<_>>();
    assert_eq!(plain(shown), plain(&help), "README.md does not show what `lpc-pipe --help` prints");
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    let root = repository();
    let mut documents: Vec<String> =
        ["README.md", "CONTRIBUTING.md", "data/README.md", "notebooks/README.md"].map(String::from).into();
    documents.extend(
        files_below(&root.join("docs")).into_iter().filter(|n| n.ends_with(".md")).map(|n| format!("docs/{n}")),
    );
    assert!(documents.len() > 6, "{documents:?}");
    let mut broken = Vec::new();
    for document in documents {
        let text = std::fs::read_to_string(root.join(&document)).expect("a document");
        let folder = root.join(&document).parent().expect("a folder").to_path_buf();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#', ' ']).next());
        let local = targets.filter(|target| !target.is_empty() && !target.contains("://"));
        broken.extend(local.filter(|target| !folder.join(target).exists()).map(|t| format!("{document}: {t}")));
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}
