//! Which keys of a row are read, and under which names: those that the layouts know, and the
//! columns that the user says are one of these (`prepare.ingest.columns`).

use crate::schema::col;

macro_rules! known_keys {
    ($($key:literal)*) => {
        #[cfg(test)]
        pub const KNOWN_KEYS: &[&str] = &[$($key),*];

        /// The key, where some layout reads it. All others are skipped without being stored.
        pub fn known(key: &str) -> Option<&'static str> {
            match key {
                $($key => Some($key),)*
                _ => None,
            }
        }
    };
}

known_keys! {
    "source" "instruction" "completions" "model" "response" "overall_score" "annotations"
    "helpfulness" "honesty" "truthfulness" "instruction_following" "Rating" "fine-grained_score"
    "prompt" "chosen" "rejected" "role" "content" "score_chosen" "score_rejected"
    "chosen_model" "rejected_model" "chosen-rating" "rejected-rating" "chosen-model" "rejected-model"
    "annotator" "flip_probability" "weight" "system" "question" "input" "history" "conversations" "from" "value"
    "context" "rank" "completion" "response_1" "response_2" "preference_strength"
    "response1" "response2" "overall_preference" "messages" "type" "text"
    "chosen_rating" "rejected_rating" "chosen_score" "rejected_score" "system_prompt" "system_message"
    "tools" "functions" "images" "image" "videos" "video" "audios" "audio" "flipped" "status"
    "winner" "winner_model_a" "better_response_id" "labels" "score_0" "score_1" "score_A" "score_B"
}

/// Keys of objects inside a row; as columns of the row they are skipped.
const INSIDE: [&str; 3] = ["messages", "type", "text"];

/// Columns that change what the responses mean and that no layout reads: a row that has one is refused.
pub const UNREAD_COLUMNS: [&str; 8] = ["tools", "functions", "images", "image", "videos", "video", "audios", "audio"];

/// Columns that say which of two responses is better, or how good each is: where the user names the columns of the
/// sides, these must be ordered by it.
pub const ORDERS: [&str; 8] =
    ["winner", "winner_model_a", "better_response_id", "labels", "score_0", "score_1", "score_A", "score_B"];

/// Keys of raw UltraFeedback's completions that are long and no part of what was said: their values are not looked at.
const REMARKS: [&str; 6] =
    ["custom_system_prompt", "principle", "critique", "Rationale", "Rationale For Rating", "Type"];

/// Names that the user may give to a column: keys of a row, not those inside it.
const TARGETS: [&str; 26] = [
    "prompt",
    "chosen",
    "rejected",
    "source",
    "score_chosen",
    "score_rejected",
    "chosen_model",
    "rejected_model",
    "annotator",
    "flip_probability",
    "noise_p",
    "weight",
    "system",
    "instruction",
    "input",
    "history",
    "question",
    "context",
    "completions",
    "conversations",
    "response_1",
    "response_2",
    "preference_strength",
    "response1",
    "response2",
    "overall_preference",
];

/// Whether a known key is one of rows alone, not one of messages and other objects in them.
fn of_rows(name: &str) -> bool {
    UNREAD_COLUMNS.contains(&name) || ORDERS.contains(&name) || [col::FLIPPED, "status"].contains(&name)
}

/// What is done with a key.
#[derive(Debug, Clone, Copy)]
pub enum Step<'n> {
    /// Its value is kept under this name.
    Take(&'static str),
    /// Its value is an object, some of whose keys are wanted.
    Into(&'n Node),
    Skip,
}

/// Keys of one level of a row, as the user named them.
#[derive(Debug, Clone, Default)]
pub struct Node {
    keys: Vec<(String, Child)>,
}

#[derive(Debug, Clone)]
enum Child {
    Column(&'static str),
    Inside(Node),
}

impl Node {
    /// What is done with a key of this level.
    pub fn step(&self, key: &str) -> Step<'_> {
        match self.keys.iter().find(|(k, _)| k == key) {
            Some((_, Child::Column(target))) => Step::Take(target),
            Some((_, Child::Inside(node))) => Step::Into(node),
            None => Step::Skip,
        }
    }

    /// Adds a path; false where it ends inside or above another one.
    fn add(&mut self, path: &[&str], target: &'static str) -> bool {
        let Some((first, rest)) = path.split_first() else { return false };
        let at = self.keys.iter().position(|(k, _)| k == first);
        match (at, rest.is_empty()) {
            (None, true) => {
                self.keys.push((first.to_string(), Child::Column(target)));
                true
            }
            (None, false) => {
                let mut node = Node::default();
                node.add(rest, target);
                self.keys.push((first.to_string(), Child::Inside(node)));
                true
            }
            (Some(at), false) => match &mut self.keys[at].1 {
                Child::Inside(node) => node.add(rest, target),
                Child::Column(_) => false,
            },
            (Some(_), true) => false,
        }
    }
}

/// The names of a row's keys.
#[derive(Debug, Clone, Default)]
pub struct Names {
    root: Node,
    targets: Vec<&'static str>,
    /// What the user wrote for each target.
    entries: Vec<String>,
    ignored: Vec<String>,
}

/// What is done with a key of an object inside a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inner {
    /// Its value is kept.
    Known(&'static str),
    /// No layout reads it, and it may be part of what was said.
    Unread,
    Skip,
}

impl Names {
    /// Reads entries `TARGET=COLUMN`. A column is a key of the row, or a path of keys with dots between.
    pub fn parse(entries: &[String]) -> Result<Names, Vec<String>> {
        let mut names = Names::default();
        let mut faults = Vec::new();
        for entry in entries {
            if let Err(fault) = names.add(entry) {
                faults.push(format!("{entry:?}: {fault}"));
            }
        }
        if faults.is_empty() { Ok(names) } else { Err(faults) }
    }

    fn add(&mut self, entry: &str) -> Result<(), String> {
        let Some((target, column)) = entry.split_once('=').map(|(t, c)| (t.trim(), c.trim())) else {
            return Err("expected TARGET=COLUMN, for example \"prompt=question\"".into());
        };
        let Some(target) = TARGETS.iter().find(|t| **t == target) else {
            return Err(format!("{target:?} is no target; expected one of {}", TARGETS.join(", ")));
        };
        // The input's probability is read as `flip_probability`; noise writes its own into `noise_p`.
        let target = if *target == "noise_p" { "flip_probability" } else { *target };
        if self.targets.contains(&target) {
            return Err(format!("{target} has a column already"));
        }
        let path: Vec<&str> = column.split('.').collect();
        if path.iter().any(|key| key.is_empty()) {
            return Err("expected a column, or a path of keys with dots between them".into());
        }
        if !self.root.add(&path, target) {
            return Err(format!("{column} is taken already, or lies inside or around another one"));
        }
        // The name of a flat column may have dots in it.
        if path.len() > 1 {
            self.root.add(&[column], target);
        }
        self.targets.push(target);
        self.entries.push(entry.to_string());
        Ok(())
    }

    /// The same names, with these keys of messages and these columns left unread.
    #[must_use]
    pub fn ignoring(mut self, keys: &[String]) -> Names {
        self.ignored = keys.to_vec();
        self
    }

    /// The columns that the user named: the name each one gets, and the entry that says so.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.targets.iter().copied().zip(self.entries.iter().map(String::as_str))
    }

    /// What is done with a key of the row itself: the user's entries come first, and a column whose name an entry gives
    /// to another column is skipped.
    pub fn top(&self, key: &str) -> Step<'_> {
        match self.root.step(key) {
            Step::Skip => match known(key) {
                Some(name) if !self.targets.contains(&name) && !INSIDE.contains(&name) && !self.ignores(key) => {
                    Step::Take(name)
                }
                _ => Step::Skip,
            },
            step => step,
        }
    }

    /// What is done with a key of an object inside the row.
    pub fn inner(&self, key: &str) -> Inner {
        match known(key) {
            _ if self.ignores(key) || REMARKS.contains(&key) => Inner::Skip,
            Some(name) if !of_rows(name) => Inner::Known(name),
            _ => Inner::Unread,
        }
    }

    fn ignores(&self, key: &str) -> bool {
        self.ignored.iter().any(|ignored| ignored == key)
    }

    /// Whether a key of the row itself is read.
    pub fn knows(&self, key: &str) -> bool {
        !matches!(self.top(key), Step::Skip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(entries: &[&str]) -> Result<Names, Vec<String>> {
        Names::parse(&entries.iter().map(|e| e.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn the_users_word_comes_first() {
        let names = names(&["prompt=question", "chosen=data.good", "rejected = data.bad.text", "source=a.b"]).unwrap();
        assert!(matches!(names.top("question"), Step::Take("prompt")));
        assert!(matches!(names.top("prompt"), Step::Skip), "its name was given away");
        assert!(matches!(names.top("score_chosen"), Step::Take("score_chosen")));
        assert!(matches!(names.top("a.b"), Step::Take("source")), "a flat column with a dot");
        let Step::Into(data) = names.top("data") else { panic!() };
        assert!(matches!(data.step("good"), Step::Take("chosen")));
        assert!(matches!(data.step("prompt"), Step::Skip));
        let Step::Into(bad) = data.step("bad") else { panic!() };
        assert!(matches!(bad.step("text"), Step::Take("rejected")));
    }

    #[test]
    fn all_faults_are_told() {
        let faults = names(&["prompt", "promt=x", "prompt=a", "prompt=b", "chosen=a", "rejected=a.b", "source=.x"]);
        let faults = faults.unwrap_err();
        assert_eq!(faults.len(), 6, "{faults:#?}");
        assert!(faults[0].contains("expected TARGET=COLUMN"));
        assert!(faults[1].contains("\"promt\" is no target"));
        assert!(faults[2].contains("prompt has a column already"));
        assert!(faults[3].contains("a is taken already"));
    }

    #[test]
    fn every_target_is_a_key_that_is_read() {
        for target in TARGETS {
            let names = names(&[&format!("{target}=x")]).unwrap();
            assert!(matches!(names.top("x"), Step::Take(name) if known(name) == Some(name)), "{target}");
        }
    }

    #[test]
    fn keys_can_be_left_unread() {
        let names = names(&["prompt=q"]).unwrap().ignoring(&["turn_id".to_string(), "tools".to_string()]);
        assert_eq!(names.inner("role"), Inner::Known("role"));
        assert_eq!(names.inner("turn_id"), Inner::Skip);
        assert_eq!(names.inner("critique"), Inner::Skip);
        assert_eq!(names.inner("tool_calls"), Inner::Unread);
        assert!(matches!(names.top("tools"), Step::Skip));
        assert!(matches!(names.top("images"), Step::Take("images")));
        assert!(matches!(names.top("messages"), Step::Skip), "a key of what is inside a row");
        assert_eq!(names.given().collect::<Vec<_>>(), [("prompt", "prompt=q")]);
    }
}
