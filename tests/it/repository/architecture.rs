//! Who may import whom; who may print; who may draw random numbers; how long a file may be.
//!
//! Read from the sources' text: unit tests (`#[cfg(test)]` to the end of the file, and files that are
//! tests only) and comments are left out.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{files_below, repository};

mod structure;

/// Rooms that everybody may use.
const FOUNDATION: [&str; 17] = [
    "artifact",
    "error",
    "frame",
    "gguf",
    "hub",
    "information",
    "manifest",
    "message",
    "progress",
    "prompt",
    "rejects",
    "schema",
    "seed",
    "settings",
    "source",
    "token_file",
    "words",
];

/// What each room may use beyond the foundation; `a::b` opens one module of a room only.
const ROOMS: [(&str, &[&str]); 22] = [
    // Stages: they agree through `schema` and do not know each other.
    ("synth", &[]),
    ("ingest", &[]),
    ("select", &["ingest::Format"]),
    ("pairs", &[]),
    ("noise", &[]),
    ("tokenize", &[]),
    // Tensors.
    ("batch", &["nn::attention::Segment"]),
    ("nn", &[]),
    ("model", &["nn"]),
    ("weights", &["model", "nn"]),
    ("objective", &["nn"]),
    ("lpc", &["nn"]),
    ("policy", &["batch", "lpc", "model", "nn", "weights"]),
    ("train", &["batch", "lpc", "model", "nn", "objective", "policy", "weights"]),
    ("posteriors", &["batch", "lpc", "objective", "policy"]),
    ("generate", &["model"]),
    ("eval", &["model", "nn::attention::Segment"]),
    // Tables: they know nothing of tensors.
    ("analysis", &[]),
    ("audit", &["analysis", "objective::hoelder_suspects"]),
    ("report", &["analysis"]),
    // Wiring.
    (
        "pipeline",
        &[
            "analysis",
            "audit",
            "batch",
            "eval",
            "generate",
            "ingest",
            "lpc",
            "model",
            "nn::Precision",
            "noise",
            "objective",
            "pairs",
            "policy",
            "posteriors",
            "report",
            "select",
            "synth",
            "tokenize",
            "train",
            "weights",
        ],
    ),
    ("cli", &["analysis", "pipeline", "report", "synth", "train::ranks"]),
];

/// Longest file, in lines.
const LONGEST: usize = 500;

/// Longer files, and why.
const LONG: [(&str, &str); 1] = [("tests/it/numbers/parity.rs", "one table of recorded numbers after the other")];

/// The sources, by path from the root, as lines of code.
fn sources() -> BTreeMap<String, Vec<(usize, String)>> {
    let root = repository();
    let mut all = BTreeMap::new();
    for name in files_below(&root.join("src")) {
        let only_tests = name.ends_with("/tests.rs") || name == "report/fixture.rs";
        if !name.ends_with(".rs") || only_tests {
            continue;
        }
        let text = std::fs::read_to_string(root.join("src").join(&name)).expect("a source file");
        let mut code = Vec::new();
        let mut lines = text.lines().enumerate().peekable();
        while let Some((i, line)) = lines.next() {
            // A module of tests ends the file; `#[cfg(test)]` before a declaration does not.
            let opens_tests = line == "#[cfg(test)]"
                && lines.peek().is_some_and(|(_, next)| next.starts_with("mod ") && next.ends_with('{'));
            if opens_tests {
                break;
            }
            if !line.trim_start().starts_with("//") {
                code.push((i + 1, line.to_string()));
            }
        }
        all.insert(format!("src/{name}"), code);
    }
    all
}

/// The room of a source file.
fn room(path: &str) -> &str {
    let inner = path.trim_start_matches("src/");
    inner.split('/').next().unwrap_or(inner).trim_end_matches(".rs")
}

/// Paths that begin with `crate::` in a line, without the `crate::`.
fn imports(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        // `$crate::` and `some_crate::` are not ours.
        if line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &line[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let names = group.split('}').next().unwrap_or("");
            found.extend(names.split(',').map(|n| n.trim().to_string()).filter(|n| !n.is_empty()));
        } else {
            found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect());
        }
    }
    found
}

fn allowed(room: &str) -> Option<&'static [&'static str]> {
    match ROOMS.iter().find(|(name, _)| *name == room) {
        Some((_, allowed)) => Some(allowed),
        None if FOUNDATION.contains(&room) => Some(&[]),
        None => None,
    }
}

/// What lib.rs gives out at the root.
const AT_THE_ROOT: [&str; 2] = ["Error", "Result"];

#[test]
fn rooms_import_what_they_may() {
    let mut faults = Vec::new();
    let mut seen = 0;
    for (path, code) in sources() {
        let own = room(&path);
        if matches!(own, "lib" | "main") {
            continue;
        }
        let Some(allowed) = allowed(own) else {
            faults.push(format!("{path}: the room `{own}` is not in the table"));
            continue;
        };
        for (number, line) in code {
            for import in imports(&line) {
                seen += 1;
                let target = import.split("::").next().unwrap_or("");
                let fine = target == own
                    || FOUNDATION.contains(&target)
                    || AT_THE_ROOT.contains(&target)
                    || allowed.iter().any(|a| import == *a || import.starts_with(&format!("{a}::")));
                if !fine {
                    faults.push(format!("{path}:{number}: `{own}` may not use `{import}`"));
                }
            }
        }
    }
    assert!(seen > 200, "only {seen} imports were read");
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_room_of_the_crate_is_in_the_table() {
    let text = std::fs::read_to_string(repository().join("src/lib.rs")).expect("src/lib.rs");
    let declared: BTreeSet<&str> = text.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let table: BTreeSet<&str> = ROOMS.iter().map(|(name, _)| *name).chain(FOUNDATION).collect();
    assert_eq!(declared, table);
    for (name, allowed) in ROOMS {
        for target in allowed {
            let target = target.split("::").next().unwrap_or("");
            assert!(declared.contains(target), "{name} may use {target}, which does not exist");
        }
    }
}

/// Lines of code outside the given rooms that hold one of the words.
fn lines_with(words: &[&str], outside: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, code) in sources() {
        if outside.contains(&room(&path)) {
            continue;
        }
        for (number, line) in code {
            if words.iter().any(|w| line.contains(w)) {
                found.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    found
}

#[test]
fn only_the_command_line_prints() {
    // `print!(` is in `println!(` too, as `eprint!(` in `eprintln!(`.
    let found = lines_with(&["print!(", "println!(", "dbg!(", "std::io::stdout", "std::io::stderr"], &["cli"]);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn randomness_comes_from_the_seed_alone() {
    let made = [
        "ChaCha8Rng::",
        "ChaCha12Rng",
        "ChaCha20Rng",
        "SeedableRng",
        "seed_from_u64",
        "from_os_rng",
        "from_entropy",
        "thread_rng",
        "rand::rng(",
        "rand::random",
        "StdRng",
        "SmallRng",
        "OsRng",
        "getrandom",
        "rand_f",
        "randn",
        "Tensor::rand",
    ];
    let found = lines_with(&made, &["seed"]);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
    // Hash functions with a seed of their own: only where the result does not depend on it.
    let hashing: Vec<String> =
        lines_with(&["RandomState"], &[]).into_iter().filter(|l| !l.starts_with("src/tokenize/bpe.rs:")).collect();
    assert!(hashing.is_empty(), "\n{}", hashing.join("\n"));
}

#[test]
fn the_clock_is_no_input() {
    // Time is measured and stamped; it decides nothing. The stamps are the manifest's.
    let found = lines_with(&["SystemTime::now", "now_utc"], &["manifest", "train"]);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn tables_and_tensors_meet_in_few_places() {
    // The reader of GGUF metadata is candle's.
    let frames = ["synth", "ingest", "select", "pairs", "noise", "analysis", "report", "settings", "cli", "token_file"];
    let mut tensors = Vec::new();
    for (path, code) in sources() {
        if frames.contains(&room(&path)) || (room(&path) == "tokenize" && path != "src/tokenize/gguf.rs") {
            tensors.extend(code.iter().filter(|(_, l)| l.contains("candle_")).map(|(n, l)| format!("{path}:{n}: {l}")));
        }
    }
    assert!(tensors.is_empty(), "tensors in a room of tables\n{}", tensors.join("\n"));
    let mut tables = Vec::new();
    for (path, code) in sources() {
        if ["nn", "model", "weights", "objective", "lpc", "policy", "batch"].contains(&room(&path)) {
            tables.extend(code.iter().filter(|(_, l)| l.contains("polars")).map(|(n, l)| format!("{path}:{n}: {l}")));
        }
    }
    assert!(tables.is_empty(), "frames in a room of tensors\n{}", tables.join("\n"));
}

#[test]
fn files_stay_short() {
    let root = repository();
    let mut faults = Vec::new();
    for folder in ["src", "tests", "benches"] {
        for name in files_below(&root.join(folder)).into_iter().filter(|n| n.ends_with(".rs")) {
            let path = format!("{folder}/{name}");
            let lines = std::fs::read_to_string(root.join(&path)).expect("a source file").lines().count();
            let known = LONG.iter().any(|(long, _)| *long == path);
            if lines > LONGEST && !known {
                faults.push(format!("{path}: {lines} lines; split it, or list it with a reason"));
            }
            if lines <= LONGEST && known {
                faults.push(format!("{path}: {lines} lines; it needs no place on the list"));
            }
        }
    }
    for (path, reason) in LONG {
        assert!(root.join(path).exists(), "{path} ({reason}) is listed but gone");
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn no_path_of_a_machine_is_in_the_sources() {
    let mut faults = Vec::new();
    for (path, code) in sources() {
        let homes = ["/home/", "/root/", "/Users/", "C:\\\\"];
        let found = code.iter().filter(|(_, line)| homes.iter().any(|h| line.contains(h)));
        faults.extend(found.map(|(number, line)| format!("{path}:{number}: {}", line.trim())));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
