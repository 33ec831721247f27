//! Notebooks are executed from top to bottom, keep their outputs, and read columns that the program writes.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::{Sandbox, columns, files_below, repository};

/// The notebooks and what is in them.
fn notebooks() -> Vec<(String, Value)> {
    let folder = repository().join("notebooks");
    let names: Vec<String> = files_below(&folder).into_iter().filter(|n| n.ends_with(".ipynb")).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    let read = |name: String| {
        let text = std::fs::read_to_string(folder.join(&name)).expect("a notebook");
        let notebook = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        (name, notebook)
    };
    names.into_iter().map(read).collect()
}

fn cells(notebook: &Value) -> &Vec<Value> {
    notebook["cells"].as_array().expect("cells")
}

/// Lines of a cell or an output as one text; some are stored as a list.
fn joined(text: &Value) -> String {
    match text {
        Value::Array(lines) => lines.iter().map(|l| l.as_str().expect("text")).collect(),
        other => other.as_str().unwrap_or_default().to_string(),
    }
}

/// The code of all cells.
fn code(notebook: &Value) -> String {
    let code = cells(notebook).iter().filter(|c| c["cell_type"] == "code");
    code.map(|c| joined(&c["source"]) + "\n").collect()
}

#[test]
fn notebooks_are_executed_and_keep_their_outputs() {
    for (name, notebook) in notebooks() {
        assert_eq!(notebook["nbformat"], 4, "{name}");
        assert!(notebook["nbformat_minor"].is_u64(), "{name}");
        assert_eq!(notebook["metadata"]["kernelspec"]["name"], "rust", "{name}");
        let first = &cells(&notebook)[0];
        assert_eq!(first["cell_type"], "markdown", "{name}: the first cell says where the data come from");
        assert!(joined(&first["source"]).contains("\nlpc-pipe "), "{name}: the command that wrote the data");
        let (mut executed, mut shown) = (0, 0);
        for cell in cells(&notebook) {
            let kind = cell["cell_type"].as_str().unwrap_or("");
            assert!(["code", "markdown"].contains(&kind), "{name}: {cell}");
            assert!(cell["metadata"].is_object() && cell["source"].is_array(), "{name}: {cell}");
            assert_eq!(kind == "code", cell["outputs"].is_array(), "{name}: outputs belong to code cells");
            assert_eq!(kind == "code", cell.get("execution_count").is_some(), "{name}: {cell}");
            if kind != "code" {
                continue;
            }
            executed += 1;
            assert_eq!(cell["execution_count"], executed, "{name}: executed from top to bottom\n{}", cell["source"]);
            let outputs = cell["outputs"].as_array().expect("outputs");
            assert!(!outputs.is_empty(), "{name}: a cell without output\n{}", cell["source"]);
            for output in outputs {
                assert_ne!(output["output_type"], "error", "{name}: {output}");
                assert_ne!(output["name"], "stderr", "{name}: {output}");
                let (html, svg) = (joined(&output["data"]["text/html"]), joined(&output["data"]["image/svg+xml"]));
                assert!(!(html + &svg).contains("<style"), "{name}: a web page strips styles");
                shown += usize::from(joined(&output["data"]["text/html"]).contains("<table"));
                shown += usize::from(svg.starts_with("<svg"));
            }
        }
        assert!(shown >= 3, "{name}: only {shown} tables and pictures");
    }
}

/// The files that notebooks read, made small by the program itself: by the path below the folder of runs.
fn written() -> BTreeMap<&'static str, Vec<String>> {
    let sandbox = Sandbox::new();
    sandbox.prepared(60);
    sandbox.ok("train --data data --out run --model tiny:16x1 --codes 3 --batch 8 --max-steps 2 --quiet");
    sandbox.ok("report run --quiet");
    sandbox.ok("audit --run run --out audit --folds 2 --repeats 1 --quiet");
    let sweep = "[prepare]\ninput = [\"raw\"]\n[train]\nmodel = \"tiny:16x1\"\nbatch = 16\nmax_steps = 1\n\
                 [sweep]\nnoise_p = [0.0, 0.2]\nlatent = [\"none\", \"lpc\"]\nseeds = [1]\n";
    sandbox.write("sweep.toml", sweep);
    sandbox.ok("noise-sweep --config sweep.toml --out sweep --quiet");
    let files = [
        ("demo/corpus/truth/truth.parquet", "raw/truth/truth.parquet"),
        ("demo/prepared/pairs/train.parquet", "data/pairs/train.parquet"),
        ("demo/prepared/pairs/test.parquet", "data/pairs/test.parquet"),
        ("demo/prepared/rejects.parquet", "data/rejects.parquet"),
        ("demo/lpc-dpo/posteriors.parquet", "run/posteriors.parquet"),
        ("demo/lpc-dpo/codes.parquet", "run/codes.parquet"),
        ("demo/lpc-dpo/projection.parquet", "run/projection.parquet"),
        ("demo/sweep/results.parquet", "sweep/results.parquet"),
        ("demo/sweep/summary.parquet", "sweep/summary.parquet"),
        ("demo/sweep/curves.parquet", "sweep/curves.parquet"),
        ("flipped/prepared/pairs/train.parquet", "data/pairs/train.parquet"),
        ("flipped/audit/audit.parquet", "audit/audit.parquet"),
    ];
    files.map(|(named, made)| (named, columns(&sandbox.parquet(made)))).into()
}

/// Names of columns in calls of a method: its first text, or all texts of a list.
fn named<'a>(code: &'a str, method: &str) -> Vec<&'a str> {
    let call = format!(".{method}(");
    let mut names = Vec::new();
    for (at, _) in code.match_indices(&call) {
        let rest = code[at + call.len()..].trim_start();
        if let Some(text) = rest.strip_prefix('"') {
            names.extend(text.split('"').next());
        } else if let Some(list) = rest.strip_prefix("&[").and_then(|list| list.split(']').next()) {
            names.extend(list.split('"').skip(1).step_by(2));
        }
    }
    names
}

#[test]
fn notebooks_read_columns_that_the_program_writes() {
    const READ: [&str; 11] = [
        "texts",
        "numbers",
        "all_numbers",
        "flags",
        "text_lists",
        "number_lists",
        "group",
        "mean",
        "select",
        "keep",
        "sort",
    ];
    let files = written();
    for (name, notebook) in notebooks() {
        let code = code(&notebook);
        // A notebook's own columns, and the count of a group.
        let mut known = vec!["n".to_string()];
        known.extend(["with_texts", "with_numbers"].iter().flat_map(|m| named(&code, m)).map(String::from));
        let calls = code.matches("Table::read(").count();
        let paths: Vec<&str> =
            code.split("Table::read(format!(\"{runs}/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(!paths.is_empty() && paths.len() == calls, "{name}: {paths:?} in {calls} calls");
        for path in paths {
            let columns = files.get(path).unwrap_or_else(|| panic!("{name}: the program writes no {path}"));
            known.extend(columns.iter().cloned());
        }
        let read: Vec<&str> = READ.iter().flat_map(|method| named(&code, method)).collect();
        assert!(read.len() >= 6, "{name}: only {read:?} are read");
        for column in read {
            assert!(known.iter().any(|k| k == column), "{name}: no column `{column}` in {known:?}");
        }
    }
}

/// The parser that the test above rests on.
#[test]
fn columns_are_found_in_calls() {
    let code = "a.keep(\"source\", b)?.select(&[\n    \"kl\", \"margin\",\n])?.all_numbers(&x)?.texts( \"id\")";
    assert_eq!(named(code, "keep"), ["source"]);
    assert_eq!(named(code, "select"), ["kl", "margin"]);
    assert!(named(code, "all_numbers").is_empty());
    assert_eq!(named(code, "texts"), ["id"]);
}
