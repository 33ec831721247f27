//! Command lines as a shell reads them.

/// Stands for the folder that a plan fills.
pub const OUT: &str = "\u{1}";
/// Stands for the number of a task.
pub const NUMBER: &str = "\u{2}";

/// The arguments of this program in one call, [`OUT`] and [`NUMBER`] within them standing for what the launcher knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line(Vec<String>);

impl Line {
    /// A line of these arguments.
    pub fn new(words: impl IntoIterator<Item = impl Into<String>>) -> Line {
        Line(words.into_iter().map(Into::into).collect())
    }

    /// The line with these further arguments.
    #[must_use]
    pub fn and(&self, words: &[&str]) -> Line {
        Line(self.0.iter().cloned().chain(words.iter().map(|word| (*word).to_string())).collect())
    }

    /// The arguments as a shell reads them. `out` is the folder, quoted here; `number` is shell text for the number of the
    /// task, such as `"$SLURM_ARRAY_TASK_ID"`.
    pub fn shell(&self, out: &str, number: &str) -> String {
        let word = |word: &String| {
            let with_out = word.replace(OUT, out);
            let parts: Vec<String> =
                with_out.split(NUMBER).map(|part| if part.is_empty() { String::new() } else { quoted(part) }).collect();
            if with_out.is_empty() { quoted("") } else { parts.join(number) }
        };
        self.0.iter().map(word).collect::<Vec<_>>().join(" ")
    }
}

/// A word as a shell reads it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_a_shell_reads_back() {
        let shard = format!("{NUMBER}/4");
        let folder = format!("{OUT}/shards/{NUMBER}");
        let line = Line::new(["prepare", "--shard", &shard, "--out", &folder]).and(&["--source", "", "it's"]);
        let text = line.shell("/a b", "\"$N\"");
        assert_eq!(text, "prepare --shard \"$N\"/4 --out '/a b/shards/'\"$N\" --source '' 'it'\\''s'");
        let said =
            std::process::Command::new("sh").args(["-c", &format!("N=7; printf '%s|' {text}")]).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert_eq!(said, "prepare|--shard|7/4|--out|/a b/shards/7|--source||it's|");
        assert_eq!(line.shell("/a b", "3").split(' ').nth(2), Some("3/4"));
    }
}
