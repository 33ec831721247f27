//! Accepted names of repositories, revisions and files; patterns of file names.

use std::path::Path;

/// The default revision.
pub const MAIN: &str = "main";

/// Endings that no repository's name has: a name with one is that of a file.
const FILE_ENDINGS: [&str; 5] = [".gguf", ".safetensors", ".json", ".jsonl", ".parquet"];

/// `hf://datasets/ORG/NAME[@REVISION][/PATH]` in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetAddress<'a> {
    /// The repository's owner.
    pub org: &'a str,
    /// The repository's name.
    pub name: &'a str,
    /// Branch, tag or commit.
    pub revision: String,
    /// A file's path, or a pattern of paths; none for the whole data set.
    pub pattern: Option<&'a str>,
}

impl<'a> DatasetAddress<'a> {
    /// Parses an address; `None` where it is not one.
    pub fn parse(url: &'a str) -> Option<DatasetAddress<'a>> {
        let rest = url.strip_prefix("hf://datasets/")?;
        let (org, rest) = rest.split_once('/')?;
        // A slash at the end names nothing more.
        let part = |text: &'a str| match text.split_once('/') {
            Some((first, "")) => (first, None),
            Some((first, rest)) => (first, Some(rest)),
            None => (text, None),
        };
        let (repo, path) = part(rest);
        let (name, revision, pattern) = match repo.split_once('@') {
            None => (repo, MAIN.to_string(), path),
            // refs/convert/parquet and refs/pr/7 are revisions with slashes.
            Some((name, "refs")) => {
                let (kind, rest) = path?.split_once('/')?;
                let (which, path) = part(rest);
                (name, format!("refs/{kind}/{which}"), path)
            }
            Some((name, revision)) => (name, revision.replace("%2F", "/"), path),
        };
        let good = is_repo_part(org) && is_repo_part(name) && is_safe_name(&revision);
        let good = good && pattern.map_or(!FILE_ENDINGS.iter().any(|end| name.ends_with(end)), is_safe_name);
        good.then_some(DatasetAddress { org, name, revision, pattern })
    }

    /// The address of one file at one commit, whose bytes never change.
    pub fn pinned(&self, commit: &str, file: &str) -> String {
        format!("hf://datasets/{}/{}@{commit}/{file}", self.org, self.name)
    }
}

/// Whether a name looks like `ORG/NAME` or `ORG/NAME@REVISION` and is no path that exists.
pub fn looks_like_id(name: &str) -> bool {
    if Path::new(name).exists() {
        return false;
    }
    let id = name.split_once('@').map_or(name, |(id, _)| id);
    let file = FILE_ENDINGS.iter().any(|end| id.ends_with(end));
    !file && split_id(name).is_some()
}

/// ORG, NAME and REVISION (`main` where none is given).
pub fn split_id(name: &str) -> Option<(&str, &str, &str)> {
    let (id, revision) = name.split_once('@').unwrap_or((name, MAIN));
    let (org, repo) = id.split_once('/')?;
    (is_repo_part(org) && is_repo_part(repo) && is_safe_name(revision)).then_some((org, repo, revision))
}

/// Whether a revision is a full commit hash, whose files never change.
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a server's name for a commit is accepted: letters and digits only, since it becomes a folder's name.
pub fn is_commit_name(commit: &str) -> bool {
    !commit.is_empty() && commit.len() <= 64 && commit.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn is_repo_part(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    part.len() <= 96
        && part.bytes().all(word)
        && part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !part.contains("..")
        && !part.contains("--")
        && !part.ends_with(['.', '-'])
}

/// Whether a name is a relative path that stays in its folder on every system.
pub fn is_safe_name(name: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.len() <= 255
            && !part.contains(['\\', ':', '\0'])
            && !part.contains(char::is_control)
    };
    name.len() <= 1024 && name.split('/').all(plain)
}

/// Whether a path names several files.
pub fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?'])
}

/// Whether a file's path fits a pattern: `*` and `?` match within a folder, a path component `**` matches any number of
/// folders. All else is literal, also `[`, which file names on a hub may contain.
pub fn matches_glob(pattern: &str, name: &str) -> bool {
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    glob::Pattern::new(&pattern.replace('[', "[[]")).is_ok_and(|pattern| pattern.matches_with(name, options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        for good in ["org/name", "meta-llama/Llama-3.1-8B", "org/name@v1.0", "o_1/n.2@refs/pr/3"] {
            assert!(looks_like_id(good), "{good}");
        }
        for bad in [
            "name",
            "a/b/c",
            "../x",
            "./x",
            "/tmp/x",
            "org/",
            "org/na me",
            "models/x.gguf",
            "org/name@../x",
            "src/lib.rs",
            "org/..",
        ] {
            assert!(!looks_like_id(bad), "{bad}");
        }
    }

    #[test]
    fn addresses_come_apart() {
        let parts = |url| DatasetAddress::parse(url).map(|a| (a.org, a.name, a.revision, a.pattern));
        let wanted = ("o", "n", "refs/convert/parquet".to_string(), Some("default/0.parquet"));
        assert_eq!(parts("hf://datasets/o/n@refs/convert/parquet/default/0.parquet"), Some(wanted));
        assert_eq!(parts("hf://datasets/o/n/d/*.parquet"), Some(("o", "n", "main".into(), Some("d/*.parquet"))));
        assert_eq!(parts("hf://datasets/o/n@a%2Fb/x"), Some(("o", "n", "a/b".into(), Some("x"))));
        for whole in ["hf://datasets/o/n", "hf://datasets/o/n/"] {
            assert_eq!(parts(whole), Some(("o", "n", "main".into(), None)), "{whole}");
        }
        assert_eq!(parts("hf://datasets/o/n@v1"), Some(("o", "n", "v1".into(), None)));
        assert_eq!(parts("hf://datasets/o/n@refs/pr/7"), Some(("o", "n", "refs/pr/7".into(), None)));
        for bad in [
            "hf://datasets/o",
            "hf://datasets/o/n.jsonl",
            "hf://datasets/o/n@",
            "hf://datasets/o/n@refs/pr",
            "hf://datasets/o/n//x",
            "hf://datasets/o/n/../x",
            "hf://datasets/o/n@../x/y",
            "hf://datasets/o/n@%2Fetc/y",
            "hf://datasets/../n/x",
            "hf://models/o/n/x",
            "datasets/o/n/x",
        ] {
            assert_eq!(parts(bad), None, "{bad}");
        }
        let address = DatasetAddress::parse("hf://datasets/o/n@v1/*.parquet").unwrap();
        assert_eq!(address.pinned("0123", "d/a.parquet"), "hf://datasets/o/n@0123/d/a.parquet");
    }

    #[test]
    fn commits_are_told_from_branches() {
        assert!(is_commit("0123456789abcdef0123456789abcdef01234567"));
        for branch in ["main", "0123456", "0123456789ABCDEF0123456789abcdef01234567", ""] {
            assert!(!is_commit(branch), "{branch}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("a.txt", "a.txt", true),
            ("*.txt", "a.txt", true),
            ("*.txt", "d/a.txt", false),
            ("*.parquet", "train.parquet", true),
            ("*.parquet", "train.parquet.bak", false),
            ("data/train-*.parquet", "data/train-00000-of-00002.parquet", true),
            ("data/train-*.parquet", "data/sub/train-0.parquet", false),
            ("data/train-*.parquet", "data/train-sub/0.parquet", false),
            ("**/*.txt", "d/e/a.txt", true),
            ("**/*.txt", "a.txt", true),
            ("**", "d/e/a.txt", true),
            ("**", "a", true),
            ("d/**", "d/e/a.txt", true),
            ("d/**", "e/a.txt", false),
            ("d/**/a.txt", "d/a.txt", true),
            ("d/**/a.txt", "d/e/f/a.txt", true),
            ("d/**/a.txt", "d/ea.txt", false),
            ("d/?.txt", "d/a.txt", true),
            ("d/?.txt", "d/ab.txt", false),
            ("d?a", "d/a", false),
            ("*", "", true),
            ("a*b*c", "a__b__c", true),
            ("a*b*c", "a__c__b", false),
            ("*é*", "café-1", true),
            ("[ab]*", "[ab]c", true),
            ("[ab]*", "ac", false),
            // `**` must be a whole component of the path.
            ("d/**.txt", "d/a.txt", false),
        ] {
            assert_eq!(matches_glob(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn a_long_pattern_takes_no_long_time() {
        let (pattern, name) = ("*a".repeat(400), "a".repeat(900));
        assert!(matches_glob(&pattern, &name));
        assert!(!matches_glob(&(pattern + "b"), &name));
    }
}
