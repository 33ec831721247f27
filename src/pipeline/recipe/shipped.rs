//! The recipes of `pipelines/`, in the program itself.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::settings::nearest;

/// A recipe that comes with the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shipped {
    /// Its file in `pipelines/`, without the ending.
    pub name: &'static str,
    /// The first sentence of its head: what it is.
    pub what: &'static str,
    /// The file.
    pub text: &'static str,
}

macro_rules! shipped {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../../pipelines/", $name, ".toml")))),*]
    };
}

/// Names and files, in the order in which they are listed. A test compares them with the folder.
const FILES: &[(&str, &str)] = shipped!(
    "quickstart-own-data"
    "latent-only"
    "lora-codes"
    "smoke"
    "mistral-7b-dpo"
    "mistral-7b-ipo"
    "mistral-7b-simpo"
    "llama3-8b-dpo"
    "llama3-8b-ipo"
    "llama3-8b-simpo"
    "llama3-8b-instruct-dpo"
    "llama3-8b-instruct-ipo"
    "llama3-8b-instruct-simpo"
    "paper"
    "planted-study"
    "noise-unmarked"
    "flip-marker"
    "codebook-size"
    "g-schedule"
    "controls"
);

/// All recipes.
pub fn all() -> Vec<Shipped> {
    FILES.iter().map(|&(name, text)| Shipped { name, what: what(text), text }).collect()
}

/// The recipe of this name; `NAME.toml` and `pipelines/NAME.toml` are names of it too.
///
/// # Errors
/// [`Error::Config`] for another name, with the nearest one.
pub fn find(name: &str) -> Result<Shipped> {
    let plain = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let plain = plain.strip_suffix(".toml").unwrap_or(plain);
    let recipes = all();
    recipes.iter().find(|recipe| recipe.name == plain).copied().ok_or_else(|| {
        let known = recipes.iter().map(|recipe| recipe.name);
        let meant = nearest(plain, known).map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
        Error::config("", format!("no recipe {name:?}{meant} (`lpc-pipe recipes` lists them)"))
    })
}

/// The first line of a recipe's head, up to the end of its first sentence.
fn what(text: &str) -> &str {
    let line = text.lines().next().unwrap_or("").trim_start_matches("# ");
    line.split_inclusive(['.', '?']).next().map_or(line, |sentence| sentence.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sentence_says_what_it_is() {
        assert_eq!(what("# Smoke: all of it. The numbers mean nothing.\n# More.\n"), "Smoke: all of it");
        assert_eq!(what("# How many codes? A figure.\n"), "How many codes?");
        assert_eq!(what(""), "");
    }

    #[test]
    fn a_recipe_is_found_by_its_name_and_by_its_file() {
        for name in ["smoke", "smoke.toml", "pipelines/smoke.toml"] {
            assert_eq!(find(name).unwrap().name, "smoke");
        }
        let error = find("mistral-7b-dop").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("did you mean mistral-7b-dpo?"), "{error}");
        assert!(find("").is_err());
    }
}
