//! Within rooms: no file imports itself over others; no room gives out another one's names; a public type's name is
//! given once.

use std::collections::{BTreeMap, BTreeSet};

use super::{room, sources};

/// Rooms whose files still import each other in a circle, and why. An entry that is not needed fails the test.
const CIRCLES: [(&str, &str); 2] = [
    ("ingest", "layouts read records, whose faults name their layout"),
    ("synth", "rows over real texts are rows of the planted corpus too"),
];

/// Module path of a source file, from its room on.
fn module(path: &str) -> Vec<&str> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    inner.split('/').collect()
}

/// First names of what follows a `::`: one, or those of a group in braces.
fn first_names(rest: &str) -> Vec<&str> {
    let word = |text: &'_ str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let Some(group) = rest.strip_prefix('{') else { return vec![&rest[..word(rest)]] };
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' | ',' if depth == 0 => {
                let name = group[start..at].trim_start();
                found.push(&name[..word(name)]);
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// Names reached by `crate::ROOM::` or by as many `super::` as lead to the room.
fn names_of_the_room<'a>(code: &'a str, module: &[&str]) -> Vec<&'a str> {
    let starts_path = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || "_:$".contains(c));
    let absolute = format!("crate::{}::", module[0]);
    let mut found = Vec::new();
    for (at, prefix) in code.match_indices(&absolute) {
        if starts_path(at) {
            found.extend(first_names(&code[at + prefix.len()..]));
        }
    }
    for (at, _) in code.match_indices("super::") {
        let ups = code[at..].split("super::").take_while(|part| part.is_empty()).count();
        if starts_path(at) && ups + 1 == module.len() {
            found.extend(first_names(&code[at + ups * "super::".len()..]));
        }
    }
    found
}

/// What follows `pub use`, up to the semicolon.
fn re_exports(code: &str) -> impl Iterator<Item = &str> {
    code.match_indices("pub use ").filter_map(|(at, prefix)| code[at + prefix.len()..].split(';').next())
}

/// Which child modules of a room import which; `mod` stands for the room's own file. A module and the modules in it are
/// one.
fn imports_within(files: &[(Vec<&str>, &str)]) -> BTreeMap<String, BTreeSet<String>> {
    let children: BTreeSet<&str> = files.iter().filter_map(|(module, _)| module.get(1).copied()).collect();
    // Names that the room's own file gives out for its children.
    let mut given = BTreeMap::new();
    let own = files.iter().find(|(module, _)| module.len() == 1).map_or("", |(_, code)| code);
    for text in re_exports(own) {
        let (child, names) = text.split_once("::").unwrap_or((text, ""));
        let words = names.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        given.extend(words.filter(|_| children.contains(child)).map(|word| (word, child)));
    }
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, code) in files {
        let from = module.get(1).copied().unwrap_or("mod");
        let target = |name: &str| match children.get(name) {
            Some(child) => *child,
            None => given.get(name).copied().unwrap_or("mod"),
        };
        let mut to: BTreeSet<String> =
            names_of_the_room(code, module).into_iter().map(|name| target(name).to_string()).collect();
        if from == "mod" {
            // Declaring a module is no use of it.
            let declares = |line: &&str| line.starts_with("mod ") || line.starts_with("pub mod ");
            let mut rest: String =
                code.lines().filter(|line| !declares(line)).map(|line| line.to_string() + "\n").collect();
            re_exports(code).for_each(|text| rest = rest.replace(&format!("pub use {text};"), ""));
            let words: BTreeSet<&str> = rest.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            to.extend(children.iter().filter(|c| rest.contains(&format!("{c}::"))).map(|c| (*c).to_string()));
            to.extend(given.iter().filter(|(name, _)| words.contains(*name)).map(|(_, child)| (*child).to_string()));
        }
        to.remove(from);
        edges.entry(from.to_string()).or_default().extend(to);
    }
    edges
}

/// Groups of modules that reach each other, and themselves, over imports.
fn circles(edges: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<Vec<&str>> {
    let reached = |from: &str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(next) = open.pop() {
            let further = edges.get(next).into_iter().flatten().map(String::as_str);
            open.extend(further.filter(|to| seen.insert(*to)).collect::<Vec<_>>());
        }
        seen
    };
    let all: BTreeMap<&str, BTreeSet<&str>> = edges.keys().map(|from| (from.as_str(), reached(from))).collect();
    let both = |a: &str, b: &str| all[a].contains(b) && all.get(b).is_some_and(|back| back.contains(a));
    let circle = |a: &&str| all.keys().copied().filter(|b| both(a, b)).collect::<Vec<_>>();
    all.keys().map(circle).filter(|circle| !circle.is_empty()).collect()
}

#[test]
fn no_file_of_a_room_imports_itself_over_others() {
    let texts: BTreeMap<String, String> = sources()
        .into_iter()
        .map(|(path, code)| (path, code.into_iter().map(|(_, line)| line + "\n").collect()))
        .collect();
    let mut rooms: BTreeMap<&str, Vec<(Vec<&str>, &str)>> = BTreeMap::new();
    for (path, code) in &texts {
        rooms.entry(room(path)).or_default().push((module(path), code));
    }
    let mut faults = Vec::new();
    for (room, files) in rooms {
        let edges = imports_within(&files);
        if CIRCLES.iter().any(|(known, _)| *known == room) {
            if circles(&edges).is_empty() {
                faults.push(format!("{room}: has none, and stands in CIRCLES"));
            }
            continue;
        }
        faults.extend(circles(&edges).into_iter().map(|circle| {
            let of = |from: &str| edges[from].iter().filter(|to| circle.contains(&to.as_str())).cloned();
            let list: Vec<String> =
                circle.iter().map(|from| format!("{from} -> {}", of(from).collect::<Vec<_>>().join(", "))).collect();
            format!("{room}: {}", list.join("; "))
        }));
    }
    assert!(faults.is_empty(), "files that import each other in a circle\n{}", faults.join("\n"));
}

#[test]
fn circles_are_found() {
    let files = [
        (vec!["r"], "pub mod a;\nmod b;\nmod c;\npub use a::{One, Two, a};\n"),
        (vec!["r", "a"], "use super::b::{x, y::{z}};\n"),
        (vec!["r", "b"], "use crate::error::Error;\nuse super::{Two, c};\n"),
        (vec!["r", "c", "d"], "use super::super::own;\nuse super::own;\n"),
    ];
    let edges = imports_within(&files);
    let of = |from: &str| edges[from].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!((of("mod"), of("a"), of("b"), of("c")), (vec![], vec!["b"], vec!["a", "c"], vec!["mod"]));
    assert_eq!(circles(&edges), BTreeSet::from([vec!["a", "b"]]));
}

#[test]
fn a_room_gives_out_its_own_names_only() {
    let mut faults = Vec::new();
    for (path, code) in sources() {
        let text: String = code.into_iter().map(|(_, line)| line + "\n").collect();
        let others = re_exports(&text).filter_map(|text| text.strip_prefix("crate::"));
        let others = others.filter(|export| first_names(export).iter().any(|name| *name != room(&path)));
        faults.extend(others.map(|export| format!("{path}: pub use crate::{export}")));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn the_name_of_a_public_type_is_given_once() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, code) in sources() {
        for (_, line) in code {
            let kinds = ["struct ", "enum ", "trait ", "type ", "union "];
            let Some(rest) = line.strip_prefix("pub ") else { continue };
            let Some(rest) = kinds.iter().find_map(|kind| rest.strip_prefix(kind)) else { continue };
            places.entry(first_names(rest)[0].to_string()).or_default().push(path.clone());
        }
    }
    assert!(places.len() > 100, "only {} types were read", places.len());
    let twice = places.iter().filter(|(_, at)| at.len() > 1);
    let faults: Vec<String> = twice.map(|(name, at)| format!("{name}: {}", at.join(", "))).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
