//! How much of each input goes in: a share of its prompts, or at most so many pairs.

use std::collections::BTreeSet;

use clap::ValueEnum;
use polars::prelude::*;
use rayon::prelude::*;

use super::matching::fits_input;
use crate::error::{Error, Fault, Result};
use crate::ingest::Format;
use crate::rejects::{self, Reject, RowOrigins, reason};
use crate::schema::col;
use crate::seed::Seed;
use crate::settings::refuse;

/// The settings of the inputs that a pattern fits.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// A part of the input's path, or a glob for its path or name.
    pub pattern: String,
    /// Share of the prompts, in (0, 1].
    pub weight: f64,
    /// Most pairs of these inputs, in total; 0 for all.
    pub cap: u64,
    /// Source tag of these inputs; "" for none.
    pub source: String,
    /// Layout of these inputs.
    pub format: Format,
}

impl Entry {
    /// Reads `PATTERN: weight=0.5, cap=1000, source=TAG, format=NAME`, each setting at most once.
    ///
    /// # Errors
    /// In words, what is expected.
    pub fn parse(text: &str) -> std::result::Result<Entry, String> {
        let expected = || {
            format!(
                "expected 'PATTERN: weight=X, cap=N, source=TAG, format=NAME' with at least one setting, got {text:?}"
            )
        };
        // A pattern may have colons too (hf://): the settings begin after the first one before `word=`.
        let opens = |at: &usize| {
            let rest = text[at + 1..].trim_start();
            let word: String = rest.chars().take_while(|c| c.is_ascii_alphabetic()).collect();
            !word.is_empty() && rest[word.len()..].trim_start().starts_with('=')
        };
        let at = text.match_indices(':').map(|(at, _)| at).find(opens).ok_or_else(expected)?;
        let pattern = text[..at].trim();
        if pattern.is_empty() {
            return Err(expected());
        }
        let mut entry =
            Entry { pattern: pattern.to_string(), weight: 1.0, cap: 0, source: String::new(), format: Format::Auto };
        let mut seen = BTreeSet::new();
        for setting in text[at + 1..].split(',') {
            let (key, value) = setting.split_once('=').ok_or_else(expected)?;
            let (key, value) = (key.trim(), value.trim());
            if !seen.insert(key.to_string()) {
                return Err(format!("{pattern}: {key} is given twice"));
            }
            entry.set(key, value).map_err(|e| format!("{pattern}: {e}"))?;
        }
        Ok(entry)
    }

    fn set(&mut self, key: &str, value: &str) -> std::result::Result<(), String> {
        match key {
            "weight" => match value.parse::<f64>() {
                Ok(weight) if weight > 0.0 && weight <= 1.0 => self.weight = weight,
                Ok(weight) if weight > 1.0 => {
                    return Err(format!("weight must be at most 1 (rows are never repeated), got {value}"));
                }
                _ => return Err(format!("weight must be a number above 0 and at most 1, got {value:?}")),
            },
            "cap" => match value.replace('_', "").parse::<u64>() {
                Ok(cap) if cap > 0 => self.cap = cap,
                _ => return Err(format!("cap must be an integer of at least 1, got {value:?}")),
            },
            "source" if !value.is_empty() => self.source = value.to_string(),
            "source" => return Err("source is empty".into()),
            "format" => {
                self.format = Format::from_str(value, true).map_err(|_| {
                    let known: Vec<String> = Format::value_variants().iter().map(|f| f.name()).collect();
                    format!("unknown format {value:?}; expected one of: {}", known.join(", "))
                })?;
            }
            _ => return Err(format!("unknown setting {key:?}; expected weight, cap, source or format")),
        }
        Ok(())
    }
}

/// Faults of `prepare.mix`; `tag` is the source given for all rows.
pub fn faults(mix: &[String], tag: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut add = |message| faults.push(Fault::new("prepare.mix", message));
    let mut patterns = BTreeSet::new();
    for text in mix {
        match Entry::parse(text) {
            Err(message) => add(message),
            Ok(entry) => {
                if !entry.source.is_empty() && !tag.is_empty() {
                    add(format!("{}: source has no effect: all rows get the tag {tag:?}", entry.pattern));
                }
                if entry
                    == (Entry { weight: 1.0, cap: 0, source: String::new(), format: Format::Auto, ..entry.clone() })
                {
                    add(format!("{}: has no effect: weight 1 takes all", entry.pattern));
                }
                if !patterns.insert(entry.pattern.clone()) {
                    add(format!("{}: is given twice", entry.pattern));
                }
            }
        }
    }
    faults
}

/// Whether something in `prepare.mix` can only be decided when all rows are known.
pub fn is_global(mix: &[String]) -> bool {
    mix.iter().filter_map(|text| Entry::parse(text).ok()).any(|entry| entry.cap > 0)
}

/// `prepare.mix` for given inputs. The first entry that fits an input counts for it.
#[derive(Debug, Clone)]
pub struct Mix {
    entries: Vec<Entry>,
    /// Entry of each input.
    of_file: Vec<Option<usize>>,
    seed: Seed,
}

impl Mix {
    /// Finds the inputs of every entry. `labels` are the inputs as the user knows them, by index.
    ///
    /// # Errors
    /// [`Error::Config`] where an entry cannot be read or fits no input that is left for it.
    pub fn resolve(mix: &[String], labels: &[String], seed: Seed) -> Result<Mix> {
        let read = |text: &String| Entry::parse(text).map_err(|e| Error::config("prepare.mix", e));
        let entries: Vec<Entry> = mix.iter().map(read).collect::<Result<_>>()?;
        let of = |label: &String| entries.iter().position(|e| fits_input(&e.pattern, label));
        let of_file: Vec<Option<usize>> = labels.iter().map(of).collect();
        let idle = |(at, _): &(usize, &Entry)| !of_file.contains(&Some(*at));
        let fault = |(_, entry): (usize, &Entry)| {
            let taken = labels.iter().any(|label| fits_input(&entry.pattern, label));
            let message = if taken {
                format!("{}: an entry before it has all its inputs already", entry.pattern)
            } else {
                format!("{}: fits no input; the inputs are {}", entry.pattern, labels.join(", "))
            };
            Fault::new("prepare.mix", message)
        };
        let faults: Vec<Fault> = entries.iter().enumerate().filter(idle).map(fault).collect();
        refuse(faults)?;
        Ok(Mix { entries, of_file, seed })
    }

    fn entry(&self, file: u32) -> Option<(usize, &Entry)> {
        let at = (*self.of_file.get(file as usize)?)?;
        Some((at, self.entries.get(at)?))
    }

    /// The source tag given for an input; "" for none.
    pub fn source_of(&self, file: u32) -> &str {
        self.entry(file).map_or("", |(_, entry)| &entry.source)
    }

    /// The layout that is set for an input; `auto` where none is.
    pub fn format_of(&self, file: u32) -> Format {
        self.entry(file).map_or(Format::Auto, |(_, entry)| entry.format)
    }

    /// Keeps the share that was asked for of an ingested frame (`normalized_prompt` `file` `line` `group`).
    ///
    /// A row stays if a number that depends on its normalized prompt, the entry's pattern and the seed
    /// is below the weight: copies of a prompt stay or go together, and what stays at 0.2 stays at 0.5.
    ///
    /// # Errors
    /// [`Error::Frame`] where a column is missing.
    pub fn weigh(&self, frame: DataFrame) -> Result<(DataFrame, Vec<Reject>)> {
        let files = frame.column(col::FILE)?.u32()?;
        let weighed = |file: Option<u32>| self.entry(file.unwrap_or_default()).is_some_and(|(_, e)| e.weight < 1.0);
        if !files.iter().any(weighed) {
            return Ok((frame, Vec::new()));
        }
        let (rows, questions) = (RowOrigins::open(&frame)?, frame.column(col::NORMALIZED_PROMPT)?.str()?);
        let fate = |i: usize| -> Option<Reject> {
            let (_, entry) = self.entry(rows.file(i)).filter(|(_, e)| e.weight < 1.0)?;
            // The pattern rather than the path: a moved file gives the same rows.
            let drawn = self.seed.unit("mix", &format!("{}\n{}", entry.pattern, questions.get(i).unwrap_or("")));
            (drawn >= entry.weight).then(|| {
                rows.reject(i, "", reason::MIX_WEIGHT, format!("weight {} of {}", entry.weight, entry.pattern))
            })
        };
        let fates = (0..frame.height()).into_par_iter().map(fate).collect();
        rejects::separate(frame, fates)
    }

    /// A survey for the caps; `None` where nothing is capped.
    pub fn survey(&self) -> Option<CapSurvey<'_>> {
        let capped = self.entries.iter().any(|e| e.cap > 0);
        capped.then(|| CapSurvey { mix: self, smallest: vec![BTreeSet::new(); self.entries.len()] })
    }
}

/// Surveys all pairs that could be kept: the last step before [`CapPlan::apply`], after duplicates are gone.
/// Memory: a hash for each pair that will be kept.
#[derive(Debug)]
pub struct CapSurvey<'a> {
    mix: &'a Mix,
    /// The smallest hashes of each entry's pairs, at most as many as its cap.
    smallest: Vec<BTreeSet<u64>>,
}

impl CapSurvey<'_> {
    /// Adds a frame of pairs (`id` `file`). Pairs with the same `id` count once for an entry.
    ///
    /// # Errors
    /// [`Error::Frame`] where a column is missing.
    pub fn add(&mut self, frame: &DataFrame) -> Result<()> {
        let (ids, files) = (frame.column(col::ID)?.str()?, frame.column(col::FILE)?.u32()?);
        for (id, file) in ids.iter().zip(files.iter()) {
            let Some((at, entry)) = self.mix.entry(file.unwrap_or_default()).filter(|(_, e)| e.cap > 0) else {
                continue;
            };
            let hash = cap_hash(self.mix.seed, id.unwrap_or(""));
            let smallest = &mut self.smallest[at];
            if (smallest.len() as u64) < entry.cap {
                smallest.insert(hash);
            } else if smallest.last().is_some_and(|last| hash < *last) && smallest.insert(hash) {
                smallest.pop_last();
            }
        }
        Ok(())
    }

    /// Determines the largest hash that is kept for each entry.
    pub fn finish(self) -> CapPlan {
        let limit = |(entry, smallest): (&Entry, &BTreeSet<u64>)| {
            let full = entry.cap > 0 && smallest.len() as u64 == entry.cap;
            smallest.last().copied().filter(|_| full).unwrap_or(u64::MAX)
        };
        let limits = self.mix.entries.iter().zip(&self.smallest).map(limit).collect();
        CapPlan { mix: self.mix.clone(), limits }
    }
}

fn cap_hash(seed: Seed, id: &str) -> u64 {
    seed.word("mix-cap", id)
}

/// Which pairs of capped inputs are kept.
#[derive(Debug, Clone)]
pub struct CapPlan {
    mix: Mix,
    limits: Vec<u64>,
}

impl CapPlan {
    /// Drops the pairs (`id` `file` `line` `group`) beyond the caps.
    ///
    /// # Errors
    /// [`Error::Frame`] where a column is missing.
    pub fn apply(&self, frame: DataFrame) -> Result<(DataFrame, Vec<Reject>)> {
        let (rows, ids) = (RowOrigins::open(&frame)?, frame.column(col::ID)?.str()?);
        let fate = |i: usize| {
            let (at, entry) = self.mix.entry(rows.file(i))?;
            let limit = self.limits[at];
            let beyond = limit < u64::MAX && cap_hash(self.mix.seed, ids.get(i).unwrap_or("")) > limit;
            beyond.then(|| rows.reject(i, "", reason::MIX_CAP, format!("cap {} of {}", entry.cap, entry.pattern)))
        };
        let fates = (0..frame.height()).map(fate).collect();
        rejects::separate(frame, fates)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::prompt;

    fn entry(pattern: &str, weight: f64, cap: u64) -> Entry {
        Entry { pattern: pattern.into(), weight, cap, source: String::new(), format: Format::Auto }
    }

    #[test]
    fn entries_are_read() {
        assert_eq!(Entry::parse("raw*: weight=0.5"), Ok(entry("raw*", 0.5, 0)));
        assert_eq!(Entry::parse(" a b : cap = 1_000 , weight=1 "), Ok(entry("a b", 1.0, 1000)));
        let full = Entry::parse("hf://datasets/o/n@main/x.parquet: source=a:b, format=TRL, cap=5").unwrap();
        assert_eq!(full.pattern, "hf://datasets/o/n@main/x.parquet");
        assert_eq!((full.source.as_str(), full.format, full.cap), ("a:b", Format::Trl, 5));
    }

    #[test]
    fn faults_are_told_all_at_once() {
        for (text, told) in [
            ("x", "expected 'PATTERN: weight=X"),
            (": weight=1", "expected 'PATTERN"),
            ("x: weight=0", "above 0 and at most 1"),
            ("x: weight=2", "never repeated"),
            ("x: weight=nan", "above 0"),
            ("x: cap=0", "at least 1"),
            ("x: cap=-1", "at least 1"),
            ("x: source=", "source is empty"),
            ("x: format=csvv", "expected one of: auto"),
            ("x: share=1", "unknown setting \"share\""),
            ("x: cap=1, cap=2", "cap is given twice"),
            ("x: weight=1", "has no effect"),
        ] {
            let faults = faults(&[text.into()], "");
            assert!(faults.len() == 1 && faults[0].message.contains(told), "{text}: {faults:?}");
        }
        let mix = ["x: cap=3".to_string(), "y: source=a".into(), "x: weight=0.5".into()];
        assert!(is_global(&mix) && !is_global(&mix[1..]));
        let all = faults(&mix, "tag");
        assert_eq!(all.len(), 2, "{all:?}");
    }

    #[test]
    fn every_entry_needs_an_input() {
        let labels = ["in/a.jsonl".to_string(), "in/b.jsonl".into()];
        let resolve = |mix: &[&str]| {
            let mix: Vec<String> = mix.iter().map(|m| m.to_string()).collect();
            Mix::resolve(&mix, &labels, Seed(0))
        };
        let mix = resolve(&["a.jsonl: source=first, format=trl", "in/: source=rest"]).unwrap();
        assert_eq!((mix.source_of(0), mix.source_of(1), mix.source_of(9)), ("first", "rest", ""));
        assert_eq!([0, 1, 9].map(|file| mix.format_of(file)), [Format::Trl, Format::Auto, Format::Auto]);
        let error = resolve(&["c: cap=1", "*: cap=2", "a: cap=3"]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("c: fits no input; the inputs are in/a.jsonl, in/b.jsonl"), "{text}");
        assert!(text.contains("a: an entry before it"), "{text}");
        assert_eq!(error.exit_code(), 2);
    }

    /// Rows of (file, prompt) with the columns of both steps; the id is the prompt.
    fn frame(rows: &[(u32, String)]) -> DataFrame {
        let text: Vec<&str> = rows.iter().map(|r| r.1.as_str()).collect();
        let groups = text.iter().map(|p| prompt::group(p)).collect();
        let columns = vec![
            Column::new(col::ID.into(), text.clone()),
            Column::new(col::NORMALIZED_PROMPT.into(), text),
            UInt32Chunked::from_vec(col::FILE.into(), rows.iter().map(|r| r.0).collect()).into_column(),
            UInt64Chunked::from_vec(col::LINE.into(), (1..=rows.len() as u64).collect()).into_column(),
            UInt64Chunked::from_vec(col::GROUP.into(), groups).into_column(),
        ];
        DataFrame::new(rows.len(), columns).unwrap()
    }

    fn rows(n: usize, files: u32) -> Vec<(u32, String)> {
        (0..n).map(|i| (i as u32 % files, format!("question {i}"))).collect()
    }

    fn ids(frame: &DataFrame) -> BTreeSet<String> {
        frame.column(col::ID).unwrap().str().unwrap().iter().map(|t| t.unwrap().to_string()).collect()
    }

    fn mix(texts: &[&str], files: u32) -> Mix {
        let labels: Vec<String> = (0..files).map(|f| format!("f{f}.jsonl")).collect();
        let texts: Vec<String> = texts.iter().map(|t| t.to_string()).collect();
        Mix::resolve(&texts, &labels, Seed(3)).unwrap()
    }

    #[test]
    fn weights_take_shares_of_their_inputs_only() {
        let frame = frame(&rows(4000, 2));
        let (kept, rejects) = mix(&["f0: weight=0.25"], 2).weigh(frame).unwrap();
        let of = |file: u32| kept.column(col::FILE).unwrap().u32().unwrap().iter().filter(|f| *f == Some(file)).count();
        assert_eq!(of(1), 2000);
        // Five standard deviations of Binomial(2000, 0.25).
        assert!(of(0).abs_diff(500) < 97, "{}", of(0));
        assert_eq!(of(0) + rejects.len(), 2000);
        assert_eq!((rejects[0].reason, rejects[0].detail.as_str()), ("mix-weight", "weight 0.25 of f0"));
    }

    #[test]
    fn caps_keep_exactly_so_many_whatever_the_order() {
        let mut all = rows(1000, 4);
        // A copy of a pair counts once.
        all.push(all[0].clone());
        let mix = mix(&["f0: cap=10", "f3: cap=5", "f1: cap=5000", "f2: cap=1"], 4);
        let plan = |parts: &[&[(u32, String)]]| {
            let mut survey = mix.survey().unwrap();
            parts.iter().for_each(|part| survey.add(&frame(part)).unwrap());
            survey.finish()
        };
        let forward = plan(&[&all]);
        all.reverse();
        let (head, tail) = all.split_at(333);
        let backward = plan(&[head, tail]);
        assert_eq!(forward.limits, backward.limits);
        let (kept, rejects) = forward.apply(frame(&all)).unwrap();
        let count = |file: u32| {
            let files = kept.column(col::FILE).unwrap().u32().unwrap();
            let rows: Vec<bool> = files.iter().map(|f| f == Some(file)).collect();
            ids(&kept.filter(&BooleanChunked::from_slice("k".into(), &rows)).unwrap()).len()
        };
        assert_eq!([0, 1, 2, 3].map(count), [10, 250, 1, 5]);
        assert_eq!(kept.height() + rejects.len(), 1001);
        assert!(rejects.iter().all(|r| r.reason == "mix-cap" && r.detail.starts_with("cap ")));
        let (again, none) = forward.apply(kept.clone()).unwrap();
        assert!(again.equals(&kept) && none.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn smaller_shares_are_inside_larger_ones(a in 0.01f64..1.0, b in 0.01f64..1.0, turn in 0usize..200) {
            let mut all = rows(200, 1);
            let kept = |weight: f64, all: &[(u32, String)]| {
                ids(&mix(&[&format!("f0: weight={weight}")], 1).weigh(frame(all)).unwrap().0)
            };
            let (small, large) = (kept(a.min(b), &all), kept(a.max(b), &all));
            prop_assert!(small.is_subset(&large));
            all.rotate_left(turn);
            prop_assert_eq!(small, kept(a.min(b), &all));
        }

        #[test]
        fn smaller_caps_are_inside_larger_ones(a in 1u64..60, b in 1u64..60) {
            let all = frame(&rows(50, 1));
            let kept = |cap: u64| {
                let mix = mix(&[&format!("f0: cap={cap}")], 1);
                let mut survey = mix.survey().unwrap();
                survey.add(&all).unwrap();
                ids(&survey.finish().apply(all.clone()).unwrap().0)
            };
            let (small, large) = (kept(a.min(b)), kept(a.max(b)));
            prop_assert!(small.is_subset(&large));
            prop_assert_eq!(large.len() as u64, a.max(b).min(50));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
            let _ = Entry::parse(&text);
        }
    }
}
