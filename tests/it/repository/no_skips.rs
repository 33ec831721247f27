//! No test passes by skipping: what it needs and does not find makes it fail, and `#[ignore]` says what it needs.

use crate::support::{files_below, repository};

/// How a test would end early, and say so.
const SKIPS: [&str; 3] = ["return;", "{ return }", "println!(\"skip"];

/// The lines of every file with tests: path, number, text.
fn lines() -> Vec<(String, usize, String)> {
    let mut all = Vec::new();
    for folder in ["src", "tests"] {
        for name in files_below(&repository().join(folder)).into_iter().filter(|n| n.ends_with(".rs")) {
            let path = format!("{folder}/{name}");
            let text = std::fs::read_to_string(repository().join(&path)).expect("a source file");
            all.extend(text.lines().enumerate().map(|(i, line)| (path.clone(), i + 1, line.to_string())));
        }
    }
    all
}

#[test]
fn no_test_ends_early() {
    let (mut tests, mut faults) = (0, Vec::new());
    // Indentation of the test that is open: it ends at the next brace with the same.
    let mut open: Option<usize> = None;
    for (path, number, line) in lines() {
        let indent = line.len() - line.trim_start().len();
        match open {
            None if line.trim() == "#[test]" => {
                tests += 1;
                open = Some(indent);
            }
            Some(begun) if indent == begun && line.trim() == "}" => open = None,
            Some(_) if SKIPS.iter().any(|skip| line.contains(skip)) => {
                faults.push(format!("{path}:{number}: {}", line.trim()));
            }
            _ => {}
        }
    }
    assert!(tests > 500, "only {tests} tests were read");
    assert!(faults.is_empty(), "a test that ends early may have tested nothing\n{}", faults.join("\n"));
}

#[test]
fn an_ignored_test_says_why_and_names_a_command() {
    let is_attribute = |line: &str| line.trim_start().starts_with("#[ignore");
    let ignored: Vec<_> = lines().into_iter().filter(|(_, _, line)| is_attribute(line)).collect();
    assert!(ignored.len() >= 10, "only {} were read", ignored.len());
    for (path, number, line) in ignored {
        assert!(line.contains("= \"") && line.matches('`').count() == 2, "{path}:{number}: {line}");
    }
}
