//! Ingested rows -> rows with a source tag; rows of sources that are used for evaluation stay out.
//!
//! The tag of a row is the first of: the one given for all rows, the one given for its input, its own,
//! that of the same prompt in another file (the binarized UltraFeedback has lost the sources that the raw
//! set has), that of the first rule that fits, the name of its file.

use std::collections::{BTreeMap, HashMap};

use polars::prelude::*;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::join::{Join, JoinCounts};
use super::matching::{Matcher, Rule, canonical, fits_input};
use crate::error::{Error, Fault, Result};
use crate::message::MessageColumn;
use crate::prompt::conversation_hash;
use crate::rejects::{self, Reject, RowOrigins, reason};
use crate::schema::col;
use crate::settings::{Faults, PathText, Settings, settings};

settings! {
    /// Where source tags come from, and which sources are left out.
    pub struct SourceConfig at "prepare.sources" {
        /// Tag of all rows; "" takes each row's own, or finds one.
        pub tag: String = String::new();
        /// Tags by rule, the first that fits counts: `TAG=prefix:TEXT`, `TAG=contains:TEXT` (of the question,
        /// in lower case, blanks collapsed) or `TAG=file:GLOB`.
        pub rules: Vec<String> = Vec::new(), used "rows without prepare.sources.tag" if |c| c.tag.is_empty();
        /// Files, folders or hub addresses of preference data of any layout whose rows have a source, for rows with the
        /// same prompt that have none of their own.
        pub join: Vec<PathText> = Vec::new(), used "rows without prepare.sources.tag" if |c| c.tag.is_empty();
        /// Sources that are left out, because they are used for evaluation; case, `-` and `_` make no
        /// difference.
        pub exclude: Vec<String> = vec!["truthful_qa".into()];
        /// Sources among them that are kept all the same.
        pub keep: Vec<String> = Vec::new();
    }
}

impl Settings for SourceConfig {
    fn judge(&self, faults: &mut Faults) {
        for message in self.rules.iter().filter_map(|rule| Rule::parse(rule).err()) {
            faults.add("rules", message);
        }
        let tag = &self.tag;
        let kept = tag.is_empty() || self.keeps(tag);
        faults.check(kept, "tag", format!("{tag:?} is left out; pass --keep-source {tag} to keep it"));
        for (key, list) in [("exclude", &self.exclude), ("keep", &self.keep), ("join", &self.join)] {
            faults.check(list.iter().all(|item| !item.trim().is_empty()), key, "an entry is empty");
        }
        for tag in self.keep.iter().filter(|t| !t.trim().is_empty()) {
            if !self.exclude.iter().any(|e| canonical(e) == canonical(tag)) {
                let excluded = if self.exclude.is_empty() { "nothing".into() } else { self.exclude.join(", ") };
                faults.add("keep", format!("{tag:?} has no effect: it is not left out anyway (left out: {excluded})"));
            }
        }
    }

    fn why_unused(&self, _: &str, _: &str) -> String {
        format!("has no effect: all rows get the tag {:?}", self.tag)
    }
}

impl SourceConfig {
    /// Whether rows of a source are kept.
    pub fn keeps(&self, tag: &str) -> bool {
        let listed = |list: &[String]| list.iter().any(|item| canonical(item) == canonical(tag));
        !listed(&self.exclude) || listed(&self.keep)
    }

    fn keeps_by_request(&self, tag: &str) -> bool {
        self.keeps(tag) && SourceConfig { keep: Vec::new(), ..self.clone() }.keeps(tag) != self.keeps(tag)
    }
}

/// An input file, for the tags of rows without a source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origin {
    /// Its path as the user knows it.
    pub label: String,
    /// Its name without endings: the tag of last resort.
    pub stem: String,
    /// A tag given for this input; "" for none.
    pub tag: String,
}

/// Where the tags of the rows came from, and what became of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCounts {
    /// Rows by where their tag came from: `given`, `own`, `join`, `rule`, `file`.
    pub tagged_by: BTreeMap<String, u64>,
    /// Rows that each rule has tagged, by the rule as it was given; rules that tagged none are not in it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tagged_by_rule: BTreeMap<String, u64>,
    /// Rows left out, by source.
    pub excluded: BTreeMap<String, u64>,
    /// Rows of sources that are left out by default and were kept on request, by source.
    pub kept_on_request: BTreeMap<String, u64>,
    /// What the joined files held; absent without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<JoinCounts>,
}

impl std::ops::AddAssign<&SourceCounts> for SourceCounts {
    fn add_assign(&mut self, other: &SourceCounts) {
        let add = |to: &mut BTreeMap<String, u64>, from: &BTreeMap<String, u64>| {
            from.iter().for_each(|(key, n)| *to.entry(key.clone()).or_default() += n);
        };
        add(&mut self.tagged_by, &other.tagged_by);
        add(&mut self.tagged_by_rule, &other.tagged_by_rule);
        add(&mut self.excluded, &other.excluded);
        add(&mut self.kept_on_request, &other.kept_on_request);
        // All counts that are added up have the same joined files.
        self.join = self.join.or(other.join);
    }
}

impl SourceCounts {
    /// What was left out or kept on request, in one line each, for the user.
    pub fn sentences(&self) -> Vec<String> {
        let out = |(tag, n): (&String, &u64)| {
            format!("excluded {n} rows from {tag} (used for evaluation); --keep-source {tag} keeps them")
        };
        let kept = |(tag, n): (&String, &u64)| {
            format!("kept {n} rows from {tag} as asked for, though {tag} is used for evaluation")
        };
        self.excluded.iter().map(out).chain(self.kept_on_request.iter().map(kept)).collect()
    }

    /// Faults of settings that had no effect on any of all rows.
    pub fn faults(&self, config: &SourceConfig) -> Vec<Fault> {
        let rows: u64 = self.tagged_by.values().sum();
        if config.rules.is_empty() || rows == 0 || !self.tagged_by_rule.is_empty() {
            return Vec::new();
        }
        let by = |way: &str| self.tagged_by.get(way).copied().unwrap_or(0);
        let message = if by(FILE) == 0 {
            format!("--source-rule has no effect: all {rows} rows have a source already")
        } else {
            format!("--source-rule: no rule fits any of the {} rows that have no source", by(FILE))
        };
        vec![SourceConfig::fault("rules", message)]
    }

    /// One line for each thing that the user should check.
    pub fn warnings(&self, config: &SourceConfig) -> Vec<String> {
        let mut lines = Vec::new();
        let by = |way: &str| self.tagged_by.get(way).copied().unwrap_or(0);
        let rows: u64 = self.tagged_by.values().sum();
        for rule in config.rules.iter().filter(|rule| rows > 0 && !self.tagged_by_rule.contains_key(*rule)) {
            lines.push(format!("--source-rule {rule}: no row has got its source by it"));
        }
        let seen = |map: &BTreeMap<String, u64>, tag: &str| map.keys().any(|k| canonical(k) == canonical(tag));
        for tag in config.keep.iter().filter(|tag| rows > 0 && !seen(&self.kept_on_request, tag)) {
            lines.push(format!("--keep-source {tag}: no row is from {tag}"));
        }
        let own = SourceConfig::default().exclude;
        for tag in config.exclude.iter().filter(|tag| rows > 0 && !own.contains(tag) && !config.keeps(tag)) {
            if !seen(&self.excluded, tag) {
                lines.push(format!("prepare.sources.exclude: no row is from {tag}"));
            }
        }
        if let Some(join) = self.join {
            if by(JOIN) == 0 && by(OWN) == 0 && join.prompts > 0 {
                lines.push("--join-source: no row has its prompt in the joined files".into());
            } else if by(JOIN) == 0 {
                lines.push("--join-source had no effect: no row got its source from there".into());
            }
            if join.conflicting_prompts > 0 {
                let n = join.conflicting_prompts;
                lines.push(format!("--join-source: {n} prompts have more than one source; one of them was taken"));
            }
        }
        if by(OWN) + by(JOIN) + by(GIVEN) + by(RULE) == 0
            && by(FILE) > 0
            && config.exclude.iter().any(|t| !config.keeps(t))
        {
            let excluded: Vec<&str> = config.exclude.iter().map(String::as_str).filter(|t| !config.keeps(t)).collect();
            lines.push(format!(
                "no row says its source, so rows from {} could not be left out; --join-source FILE takes the sources \
                 from a dataset that has them",
                excluded.join(", ")
            ));
        }
        lines
    }
}

const GIVEN: &str = "given";
const OWN: &str = "own";
const JOIN: &str = "join";
const RULE: &str = "rule";
const FILE: &str = "file";

/// Tags rows, batch by batch; what it does to a row depends on this row alone.
#[derive(Debug)]
pub struct Tagger {
    config: SourceConfig,
    origins: Vec<Origin>,
    rules: Vec<Rule>,
    join: Option<Join>,
}

/// Rows with their tags.
#[derive(Debug)]
pub struct Tagged {
    /// Rows that are kept.
    pub frame: DataFrame,
    /// Rows of excluded sources.
    pub rejects: Vec<Reject>,
    /// Counts of both.
    pub counts: SourceCounts,
}

impl Tagger {
    /// A tagger for inputs with these origins, in the order of their indices; `join` holds the rows of
    /// the joined files, if there are any.
    ///
    /// # Errors
    /// [`Error::Config`] where a rule cannot be read.
    pub fn new(config: &SourceConfig, origins: Vec<Origin>, join: Option<Join>) -> Result<Tagger> {
        let read = |rule: &String| Rule::parse(rule).map_err(|e| Error::config("prepare.sources.rules", e));
        let rules = config.rules.iter().map(read).collect::<Result<_>>()?;
        let mut tagger = Tagger { config: config.clone(), origins, rules, join };
        if let Some(join) = &mut tagger.join {
            join.settle(|tag| !config.keeps(tag));
        }
        Ok(tagger)
    }

    /// What the joined files held.
    pub fn join_counts(&self) -> Option<JoinCounts> {
        self.join.as_ref().map(Join::counts)
    }

    /// Fills the column `source` of an ingested frame and leaves excluded sources out.
    ///
    /// # Errors
    /// [`Error::Frame`] where a column is missing.
    pub fn apply(&self, frame: DataFrame) -> Result<Tagged> {
        let own = frame.column(col::SOURCE)?.str()?;
        let (rows, questions) = (RowOrigins::open(&frame)?, frame.column(col::NORMALIZED_PROMPT)?.str()?);
        let prompts = self.join.as_ref().map(|_| MessageColumn::open(frame.column(col::PROMPT)?)).transpose()?;
        let joined = |i: usize| self.join.as_ref()?.find(conversation_hash(prompts.as_ref()?.row(i)));
        let tag = |i: usize| self.tag(own.get(i), rows.file(i), joined(i), questions.get(i).unwrap_or(""));
        let tags: Vec<(&str, &'static str, Option<usize>)> = (0..frame.height()).into_par_iter().map(tag).collect();

        // By tag: whether it is kept, and whether only on request.
        let mut verdicts: HashMap<&str, (bool, bool)> = HashMap::new();
        let mut fates = Vec::with_capacity(tags.len());
        let mut counts = SourceCounts { join: self.join_counts(), ..SourceCounts::default() };
        for (i, (tag, way, rule)) in tags.iter().enumerate() {
            let verdict = || (self.config.keeps(tag), self.config.keeps_by_request(tag));
            let (kept, on_request) = *verdicts.entry(tag).or_insert_with(verdict);
            let count = |map: &mut BTreeMap<String, u64>, key: &str| match map.get_mut(key) {
                Some(n) => *n += 1,
                None => drop(map.insert(key.to_string(), 1)),
            };
            count(&mut counts.tagged_by, way);
            if let Some(rule) = rule.and_then(|at| self.config.rules.get(at)) {
                count(&mut counts.tagged_by_rule, rule);
            }
            if on_request {
                count(&mut counts.kept_on_request, tag);
            }
            fates.push((!kept).then(|| {
                count(&mut counts.excluded, tag);
                let detail = format!("{tag} is used for evaluation; --keep-source {tag} keeps it");
                rows.reject(i, col::SOURCE, reason::EXCLUDED_SOURCE, detail)
            }));
        }
        let column = StringChunked::from_iter_values(col::SOURCE.into(), tags.iter().map(|(tag, ..)| *tag));
        let column = column.into_column();
        let mut frame = frame;
        frame.with_column(column)?;
        let (frame, rejects) = rejects::separate(frame, fates)?;
        Ok(Tagged { frame, rejects, counts })
    }

    /// The tag of a row, where it comes from, and by which rule.
    fn tag<'a>(
        &'a self,
        own: Option<&'a str>,
        file: u32,
        joined: Option<&'a str>,
        question: &'a str,
    ) -> (&'a str, &'static str, Option<usize>) {
        static NOWHERE: Origin = Origin { label: String::new(), stem: String::new(), tag: String::new() };
        let origin = self.origins.get(file as usize).unwrap_or(&NOWHERE);
        if let Some(given) = [&self.config.tag, &origin.tag].into_iter().find(|t| !t.is_empty()) {
            return (given, GIVEN, None);
        }
        if let Some(own) = own.filter(|s| !s.trim().is_empty()) {
            return (own, OWN, None);
        }
        if let Some(found) = joined {
            return (found, JOIN, None);
        }
        let fits = |rule: &&Rule| match &rule.matcher {
            Matcher::Prefix(text) => question.starts_with(text.as_str()),
            Matcher::Contains(text) => question.contains(text.as_str()),
            Matcher::File(pattern) => fits_input(pattern, &origin.label),
        };
        match self.rules.iter().position(|rule| fits(&rule)) {
            Some(at) => (&self.rules[at].tag, RULE, Some(at)),
            None => (&origin.stem, FILE, None),
        }
    }
}

#[cfg(test)]
mod tests;
