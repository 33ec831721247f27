//! How rules and patterns are written, and what they match.

/// What a rule looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matcher {
    /// `prefix:TEXT`: the question begins with TEXT.
    Prefix(String),
    /// `contains:TEXT`: TEXT is anywhere in the question.
    Contains(String),
    /// `file:GLOB`: the input's path or file name fits the [`glob()`].
    File(String),
}

/// One rule: rows that it matches get the tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The source tag.
    pub tag: String,
    /// Which rows.
    pub matcher: Matcher,
}

impl Rule {
    /// Reads `TAG=prefix:TEXT`, `TAG=contains:TEXT` or `TAG=file:GLOB`.
    ///
    /// TEXT is compared with the question as [`crate::prompt::normalized`] gives it: the last user
    /// message in lower case, blanks collapsed. TEXT is brought to the same form.
    ///
    /// # Errors
    /// In words, what is expected.
    pub fn parse(text: &str) -> Result<Rule, String> {
        let expected = || format!("expected TAG=prefix:TEXT, TAG=contains:TEXT or TAG=file:GLOB, got {text:?}");
        let (tag, test) = text.split_once('=').ok_or_else(expected)?;
        let (kind, pattern) = test.split_once(':').ok_or_else(expected)?;
        let (tag, pattern) = (tag.trim(), pattern.trim());
        if tag.is_empty() || pattern.is_empty() {
            return Err(expected());
        }
        let question = || crate::prompt::normalized([("user", pattern)].into_iter());
        let matcher = match kind.trim() {
            "prefix" => Matcher::Prefix(question()),
            "contains" => Matcher::Contains(question()),
            "file" => Matcher::File(pattern.to_string()),
            _ => return Err(expected()),
        };
        Ok(Rule { tag: tag.to_string(), matcher })
    }
}

/// Whether a pattern fits an input. One with `*` or `?` must match the whole path or the file name, as a [`glob()`];
/// any other must occur in the path.
pub fn fits_input(pattern: &str, label: &str) -> bool {
    if pattern.contains(['*', '?']) {
        let name = label.rsplit(['/', '\\']).next().unwrap_or(label);
        return glob(pattern, label) || glob(pattern, name);
    }
    label.contains(pattern)
}

/// Whether a text fits a pattern as a whole: `*` stands for any characters, slashes too, `?` for one; all else is
/// literal.
pub fn glob(pattern: &str, text: &str) -> bool {
    let mut pattern = pattern.replace('[', "[[]");
    // The crate gives two stars another meaning than one.
    while pattern.contains("**") {
        pattern = pattern.replace("**", "*");
    }
    glob::Pattern::new(&pattern).is_ok_and(|pattern| pattern.matches(text))
}

/// The form in which tags are compared: case, `-`, `_` and blanks make no difference.
pub fn canonical(tag: &str) -> String {
    tag.chars().filter(|c| !matches!(c, '-' | '_') && !c.is_whitespace()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_fit_whole_texts() {
        for (pattern, text, fits) in [
            ("*.jsonl", "a/b.jsonl", true),
            ("*.jsonl", "a/b.jsonl.gz", false),
            ("a*b*c", "a--b--b--c", true),
            ("a*b*c", "a--b--b--d", false),
            ("?b", "ab", true),
            ("?b", "b", false),
            ("**", "", true),
            ("", "x", false),
            ("\u{e9}?", "\u{e9}\u{1f600}", true),
            ("[ab]*", "[ab]c", true),
            ("[ab]*", "ac", false),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn inputs_are_known_by_path_name_or_part() {
        assert!(fits_input("ultra", "in/ultra.jsonl"));
        assert!(fits_input("u*.jsonl", "in/ultra.jsonl"));
        assert!(fits_input("in/*", "in/ultra.jsonl"));
        assert!(!fits_input("u*.jsonl", "in/raw.jsonl"));
    }

    #[test]
    fn rules_are_read_or_refused() {
        let rule = |tag: &str, matcher| Rule { tag: tag.into(), matcher };
        assert_eq!(
            Rule::parse("flan = prefix:  Given THE\n text "),
            Ok(rule("flan", Matcher::Prefix("given the text".into())))
        );
        assert_eq!(Rule::parse("x=contains:a=b:c"), Ok(rule("x", Matcher::Contains("a=b:c".into()))));
        assert_eq!(Rule::parse("x=file:*.JSONL"), Ok(rule("x", Matcher::File("*.JSONL".into()))));
        for bad in ["", "x", "x=", "=prefix:a", "x=prefix:", "x=prefix: ", "x=regex:a", "prefix:a"] {
            assert!(Rule::parse(bad).unwrap_err().contains("expected TAG="), "{bad}");
        }
    }

    #[test]
    fn tags_are_compared_loosely() {
        assert_eq!(canonical("Truthful-QA"), canonical("truthful_qa"));
        assert_eq!(canonical("TruthfulQA"), canonical("truthful qa"));
        assert_ne!(canonical("truthful_qa2"), canonical("truthful_qa"));
    }
}
