//! `docs/settings.md`: all keys, from the table of settings and the flags.

use std::fmt::Write;
use std::path::Path;

use toml::{Table, Value};

use super::flags::{FLAGS, at_key, defaults};
use crate::pipeline::recipe::Recipe;
use crate::settings::{SettingRow, Table as _};

/// The head of the page.
const HEAD: &str = "# Settings

Every key of a recipe, which `--config FILE.toml` reads. `--set KEY=VALUE` sets any of them, and some have a flag of
their command. Flags go over `--set`, and that over the recipe.

A key with an entry under \"used by\" has no effect on other choices. Where it is given all the same, it is refused, so
that no setting is ignored in silence.

This page is written by the program's tests: `LPC_PIPE_WRITE_DOCS=1 cargo test --release --lib cli::reference`.
";

/// The type of a setting in words.
fn kind(row: &SettingRow) -> String {
    let word = |kind: &str| match kind {
        "f64" => Some("number"),
        "usize" | "u64" | "i64" => Some("integer"),
        "bool" => Some("true or false"),
        "String" => Some("text"),
        "PathText" => Some("path"),
        "Baseline" => Some("table: axis = value"),
        _ => None,
    };
    match row.kind.strip_prefix("Vec<").and_then(|inner| inner.strip_suffix('>')) {
        Some(inner) => {
            let one = word(inner).map_or_else(|| choices(&row.key, Value::Array(vec!["?".into()])), String::from);
            format!("list: {one}")
        }
        None => word(row.kind).map_or_else(|| choices(&row.key, "?".into()), String::from),
    }
}

/// The names that a setting takes, from the message with which the recipe refuses another one.
fn choices(key: &str, unknown: Value) -> String {
    let (group, name) = key.rsplit_once('.').expect("a key in a group");
    let table = [(name.to_string(), unknown)].into_iter().collect::<Table>();
    let nested = group.rsplit('.').fold(table, |inner, part| [(part.to_string(), inner.into())].into_iter().collect());
    let refused = nested.try_into::<Recipe>().expect_err("`?` is no choice");
    refused.message().split('`').skip(3).step_by(2).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn reference() -> String {
    let (mut text, mut group) = (HEAD.to_string(), None);
    let (defaults, rows) = (defaults(), Recipe::rows(""));
    for (key, ..) in FLAGS {
        assert!(rows.iter().any(|row| row.key == key), "no setting {key}");
    }
    for row in rows {
        let own = row.key.rsplit_once('.').map_or("", |(group, _)| group).to_string();
        if group.as_ref() != Some(&own) {
            let title = if own.is_empty() { "All commands".into() } else { format!("`{own}`") };
            let head = "| key | type | default | flag | what it does | used by |\n|---|---|---|---|---|---|";
            writeln!(text, "\n## {title}\n\n{head}").expect("text");
            group = Some(own);
        }
        let default = at_key(&defaults, &row.key).map(|value| format!("`{value}`")).expect("a default");
        let flag = FLAGS.iter().find(|(key, ..)| *key == row.key);
        let flag = flag.map(|(_, flag, _)| format!("`{}`", flag.split(' ').next().unwrap_or(flag)));
        let cells =
            [format!("`{}`", row.key), kind(&row), default, flag.unwrap_or_default(), row.help, row.used_by.into()];
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        writeln!(text, "| {} |", cells.join(" | ")).expect("text");
    }
    text
}

#[test]
fn the_page_of_settings_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    let now = reference();
    if std::env::var_os("LPC_PIPE_WRITE_DOCS").is_some() {
        std::fs::write(&path, &now).expect("docs/settings.md");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == now, "docs/settings.md is not what the program says; its head tells how to write it");
}
