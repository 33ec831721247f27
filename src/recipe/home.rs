//! `~` in settings that are paths: shells replace it at the beginning of a word only, which leaves recipes, `--set`
//! and `--flag=~/...`.

use toml::Value;

/// Settings that are paths, or lists of paths.
const PATHS: [&str; 19] = [
    "demo.out",
    "export.out",
    "export.run",
    "prepare.input",
    "prepare.out",
    "prepare.pairs.decontaminate",
    "prepare.sources.join",
    "prepare.tokenize.template",
    "prepare.tokenizer",
    "score.data",
    "score.model",
    "score.out",
    "sweep.out",
    "synth.out",
    "synth.over",
    "train.data",
    "train.model",
    "train.out",
    "train.reference",
];

/// A setting's value with `~` at the beginning of a path replaced by the home folder.
pub(super) fn expanded(path: &[String], value: Value) -> Value {
    let home = std::env::var("HOME").ok().filter(|home| !home.is_empty());
    match home {
        Some(home) if PATHS.contains(&path.join(".").as_str()) => with_home(value, &home),
        _ => value,
    }
}

fn with_home(value: Value, home: &str) -> Value {
    match value {
        Value::String(text) => match text.strip_prefix('~') {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => Value::String(format!("{home}{rest}")),
            _ => Value::String(text),
        },
        Value::Array(items) => Value::Array(items.into_iter().map(|item| with_home(item, home)).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipe;

    #[test]
    fn a_tilde_is_the_home_folder_at_the_beginning_of_a_path() {
        let at = |text: &str| with_home(Value::String(text.into()), "/h");
        assert_eq!(at("~/x"), Value::String("/h/x".into()));
        assert_eq!(at("~"), Value::String("/h".into()));
        for same in ["~x", "x/~", "a~", ""] {
            assert_eq!(at(same), Value::String(same.into()));
        }
        let list = with_home(Value::Array(vec!["~/a".into(), "b".into()]), "/h");
        assert_eq!(list, Value::Array(vec!["/h/a".into(), "b".into()]));
        // What is no path stays as it is written.
        let marker = ["prepare", "noise", "flip_marker"].map(String::from);
        assert_eq!(expanded(&marker, "~/x".into()), Value::String("~/x".into()));
    }

    #[test]
    fn every_path_is_a_setting() {
        let known = toml::Table::try_from(Recipe::default()).unwrap();
        for path in PATHS {
            let mut parts = path.split('.');
            let first = known.get(parts.next().unwrap());
            assert!(parts.try_fold(first.unwrap(), |value, part| value.get(part)).is_some(), "{path}");
        }
    }
}
