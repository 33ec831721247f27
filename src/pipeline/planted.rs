//! How much of a planted structure a run's codes recover: codes -> truth, beside the generator's ceilings.

mod preferences;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use polars::prelude::DataFrame;
use serde::{Deserialize, Serialize};

use crate::analysis::tables::{clean_correct, codes, texts};
use crate::analysis::{CodeAccuracy, Labels, ami, nmi, purity};
use crate::artifact;
use crate::error::{Error, Result};
use crate::lpc::Grouping;
use crate::schema::{SPLITS, col, posterior, prepared};
use crate::synth::{CeilingRow, Ceilings, PosteriorScope, TRUTH, ceilings};

/// Agreement of one code column with the truth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct CodeScore {
    /// Normalised mutual information with the deciding factor.
    pub nmi_factor: f64,
    /// Normalised mutual information with the preference id (factor and direction).
    pub nmi_preference: f64,
    /// The same, adjusted for chance.
    pub ami_preference: f64,
    /// Purity against the deciding factor.
    pub purity_factor: f64,
    /// Purity against the preference id.
    pub purity_preference: f64,
    /// Codes that occur.
    pub codes_used: usize,
}

/// All figures of one group of rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupScores {
    /// `test` or `all`.
    pub split: String,
    /// `shown`, `hidden` or `all`: whether the prompt shows what decided.
    pub rows: String,
    /// Rows in this group; with none, all figures are 0.
    pub n: usize,
    /// The run's prior code.
    pub prior: CodeScore,
    /// The run's posterior code.
    pub posterior: CodeScore,
    /// Scores of the most probable preference given what the prior sees, the prompt. It is right most often; codes that
    /// are right less often can have a slightly higher NMI.
    pub prior_ceiling: CodeScore,
    /// The same given what the posterior sees: the prompt and the observed pair, or all pairs of the prompt where
    /// they share a code. `None` where that was not computed (see [`PosteriorScope`]).
    pub posterior_ceiling: Option<CodeScore>,
    /// The same given the prompt and the labels of the same pairs, their responses taken as given: what a model of
    /// labels, as LPC is, can reach.
    pub label_ceiling: CodeScore,
    /// The run's preference accuracy against the clean labels, with the prior's z; a tie is wrong.
    pub accuracy: f64,
    /// Bayes-optimal preference accuracy on the same rows (a coin toss counts one half).
    pub accuracy_ceiling: f64,
    /// The same in expectation, given prompts and styles.
    pub accuracy_ceiling_expected: f64,
}

/// What a run recovered of a planted corpus.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlantedScores {
    /// Preference ids that occur in the truth: the planted structure.
    pub preferences_used: usize,
    /// Prepared pairs that the truth does not know.
    pub pairs_unmatched: u64,
    /// Posterior rows without such a pair.
    pub posteriors_unmatched: u64,
    /// By split (`test`, `all`) and rows (`all`, `shown`, `hidden`).
    pub groups: Vec<GroupScores>,
}

/// Scores of a run's codes against the truth.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovered {
    /// Agreement of the codes with the truth, beside the ceilings.
    pub scores: PlantedScores,
    /// Accuracy of each code alone on the test pairs of each planted preference; `None` where the run's posteriors
    /// hold no margins of single codes.
    pub preferences: Option<CodeAccuracy>,
    /// The planted preference and the planted factor of each row of the posteriors.
    pub labels: Vec<(String, Labels)>,
}

/// [`recover`] of a run folder, on the prepared folder that its manifest names.
///
/// # Errors
/// As [`recover`]; [`Error::Artifact`] where `run` is no finished run.
pub fn recover_run(truth_dir: &Path, run: &Path) -> Result<Recovered> {
    let manifest = crate::manifest::Manifest::read(run)?;
    let Some(data) = manifest.inputs.first().filter(|_| manifest.stage == "train") else {
        return Err(Error::artifact(run, "not a folder that `lpc-pipe train` has finished"));
    };
    let evidence = match serde_json::from_value(manifest.config["lpc"]["group"].clone()) {
        Ok(Grouping::Prompt) => PosteriorScope::Prompt,
        // Runs without codes, and those of versions that knew no groups, have none.
        Ok(Grouping::Pair) | Err(_) => PosteriorScope::Pair,
    };
    let posteriors = run.join(crate::schema::run::POSTERIORS);
    recover(truth_dir, Path::new(&manifest.located(run, &data.path)), &posteriors, evidence)
}

/// Scores the codes of `posteriors` (a run's `posteriors.parquet`) against the truth in `truth_dir`, for
/// the pairs in `prepared_dir`. `evidence` is what the posterior of the run saw.
///
/// # Errors
/// [`Error::Artifact`] or [`Error::Io`] where a file is missing or damaged; [`Error::Frame`], [`Error::Run`]
/// where a column is; [`Error::Run`] where no row of the posteriors belongs to this truth.
pub fn recover(
    truth_dir: &Path,
    prepared_dir: &Path,
    posteriors: &Path,
    evidence: PosteriorScope,
) -> Result<Recovered> {
    let truth = artifact::read_parquet(truth_dir.join(TRUTH))?;
    let wanted =
        [col::ID, col::PROMPT_ID, col::SPLIT, col::SOURCE, col::CHOSEN, col::REJECTED, col::FLIPPED, col::NOISE_P];
    let read = |split: &str| -> Result<DataFrame> {
        Ok(artifact::read_parquet(prepared_dir.join(prepared::pairs(split)))?.select(wanted)?)
    };
    let best = ceilings(&truth, &read(SPLITS[0])?.vstack(&read(SPLITS[1])?)?, evidence)?;
    let posteriors = artifact::read_parquet(posteriors)?;
    let names = preferences::names(truth_dir);
    Ok(Recovered {
        scores: score(&best, &posteriors)?,
        preferences: preferences::accuracy(&best, &names, &posteriors)?,
        labels: preferences::both(&best, &names, &posteriors)?,
    })
}

/// Code, truth and ceiling of one row.
struct Joined<'a> {
    best: &'a CeilingRow,
    prior: u32,
    posterior: u32,
    correct: bool,
}

fn score(best: &Ceilings, posteriors: &DataFrame) -> Result<PlantedScores> {
    let by_id: HashMap<&str, &CeilingRow> = best.rows.iter().map(|r| (r.id.as_str(), r)).collect();
    let ids = texts(posteriors, col::ID)?;
    let (priors, posts) = (codes(posteriors, posterior::PRIOR_CODE)?, codes(posteriors, posterior::POSTERIOR_CODE)?);
    let correct = clean_correct(posteriors)?;
    let joined: Vec<Joined> = (0..ids.len())
        .filter_map(|i| {
            let best = by_id.get(ids[i].as_str())?;
            Some(Joined { best, prior: priors[i], posterior: posts[i], correct: correct[i] })
        })
        .collect();
    if joined.is_empty() {
        return Err(Error::run("no row of the posteriors belongs to this planted corpus")
            .with_hint("give the synth folder from which the prepared folder was made"));
    }
    let mut groups = Vec::new();
    for split in ["test", "all"] {
        for rows in ["all", "shown", "hidden"] {
            let kept: Vec<&Joined> = joined
                .iter()
                .filter(|j| split == "all" || j.best.split == split)
                .filter(|j| rows == "all" || j.best.shown == (rows == "shown"))
                .collect();
            groups.push(group(split, rows, &kept));
        }
    }
    Ok(PlantedScores {
        preferences_used: best.preferences_used,
        pairs_unmatched: best.unmatched,
        posteriors_unmatched: (ids.len() - joined.len()) as u64,
        groups,
    })
}

fn group(split: &str, rows: &str, kept: &[&Joined]) -> GroupScores {
    let collect = |get: fn(&Joined) -> u32| kept.iter().map(|j| get(j)).collect::<Vec<u32>>();
    let mean = |get: fn(&Joined) -> f64| kept.iter().map(|j| get(j)).sum::<f64>() / kept.len().max(1) as f64;
    let (factor, preference) = (collect(|j| j.best.factor), collect(|j| j.best.preference));
    let best_posteriors: Option<Vec<u32>> = kept.iter().map(|j| j.best.posterior_code).collect();
    let against = |codes: Vec<u32>| {
        if codes.is_empty() {
            // Without rows NMI is 1 by definition, which would mislead.
            return CodeScore::default();
        }
        CodeScore {
            nmi_factor: nmi(&codes, &factor),
            nmi_preference: nmi(&codes, &preference),
            ami_preference: ami(&codes, &preference),
            purity_factor: purity(&codes, &factor),
            purity_preference: purity(&codes, &preference),
            codes_used: codes.iter().collect::<BTreeSet<_>>().len(),
        }
    };
    GroupScores {
        split: split.into(),
        rows: rows.into(),
        n: kept.len(),
        prior: against(collect(|j| j.prior)),
        posterior: against(collect(|j| j.posterior)),
        prior_ceiling: against(collect(|j| j.best.prior_code)),
        posterior_ceiling: best_posteriors.map(against),
        label_ceiling: against(collect(|j| j.best.label_code)),
        accuracy: mean(|j| f64::from(u8::from(j.correct))),
        accuracy_ceiling: mean(|j| j.best.right),
        accuracy_ceiling_expected: mean(|j| j.best.expected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::seed::Seed;
    use crate::synth::{self, CORPUS, SynthConfig};
    use polars::prelude::*;

    fn message(text: &str) -> Series {
        let fields =
            [Series::new("role".into(), ["assistant"].as_slice()), Series::new("content".into(), [text].as_slice())];
        StructChunked::from_series("".into(), 1, fields.iter()).unwrap().into_series()
    }

    /// The best against a random other completion, every fifth prompt for the test split, a share `flip` of labels
    /// flipped.
    fn prepare(dir: &Path, flip: f64) -> DataFrame {
        write_pairs(dir, flip, 1)
    }

    /// The same with `each` of the three other completions, one pair each.
    fn write_pairs(dir: &Path, flip: f64, each: usize) -> DataFrame {
        let text = std::fs::read_to_string(dir.join(CORPUS)).unwrap();
        let truth = artifact::read_parquet(dir.join(TRUTH)).unwrap();
        let prompts = texts(&truth, col::PROMPT_ID).unwrap();
        let mut all = Vec::new();
        for (split, want) in SPLITS.iter().zip([false, true]) {
            let (mut ids, mut keys, mut sources, mut flips) = (vec![], vec![], vec![], vec![]);
            let (mut chosen, mut rejected) = (vec![], vec![]);
            for (i, line) in text.lines().enumerate().filter(|(i, _)| (i % 5 == 0) == want) {
                let row: serde_json::Value = serde_json::from_str(line).unwrap();
                let answers = row["completions"].as_array().unwrap();
                let score = |c: &serde_json::Value| c["overall_score"].as_f64().unwrap();
                let best = (0..4).max_by(|&a, &b| score(&answers[a]).total_cmp(&score(&answers[b]))).unwrap();
                let start = Seed(1).index("other", &i.to_string(), 3);
                for k in 0..each {
                    let id = format!("{i:032x}{k}");
                    let other = (best + 1 + (start + k) % 3) % 4;
                    let flipped = Seed(1).unit("flip", &id) < flip;
                    let (c, r) = if flipped { (other, best) } else { (best, other) };
                    ids.push(id);
                    keys.push(prompts[i].clone());
                    sources.push(row["source"].as_str().unwrap().to_string());
                    flips.push(flipped);
                    chosen.push(message(answers[c]["response"].as_str().unwrap()));
                    rejected.push(message(answers[r]["response"].as_str().unwrap()));
                }
            }
            let n = ids.len();
            let mut frame = df!(
                "id" => ids, "prompt_id" => keys, "split" => vec![*split; n], "source" => sources,
                "chosen" => chosen, "rejected" => rejected, "flipped" => flips, "noise_p" => vec![flip; n],
            )
            .unwrap();
            artifact::write_parquet(dir.join(prepared::pairs(split)), &mut frame).unwrap();
            all.push(frame);
        }
        all[0].vstack(&all[1]).unwrap()
    }

    fn corpus(dir: &Path, rows: usize) {
        let config = SynthConfig { rows, out: dir.to_string_lossy().into_owned(), ..SynthConfig::default() };
        synth::write(&config, Seed(11), &Silent).unwrap();
    }

    #[test]
    fn a_run_that_is_bayes_optimal_meets_the_ceilings() {
        let dir = tempfile::tempdir().unwrap();
        corpus(dir.path(), 3000);
        let pairs = prepare(dir.path(), 0.0);
        let truth = artifact::read_parquet(dir.path().join(TRUTH)).unwrap();
        let best = ceilings(&truth, &pairs, PosteriorScope::Pair).unwrap();
        assert_eq!((best.unmatched, best.rows.len(), best.preferences_used), (0, 3000, 8));
        let mut frame = df!(
            "id" => best.rows.iter().map(|r| r.id.clone()).collect::<Vec<_>>(),
            "flipped" => best.rows.iter().map(|r| r.flipped).collect::<Vec<_>>(),
            "prior_code" => best.rows.iter().map(|r| r.prior_code).collect::<Vec<_>>(),
            "posterior_code" => best.rows.iter().map(|r| r.posterior_code).collect::<Option<Vec<_>>>().unwrap(),
            "margin" => best.rows.iter().map(|r| r.right - 0.25).collect::<Vec<_>>(),
        )
        .unwrap();
        let file = dir.path().join("posteriors.parquet");
        artifact::write_parquet(&file, &mut frame).unwrap();
        let found = recover(dir.path(), dir.path(), &file, PosteriorScope::Pair).unwrap();
        assert_eq!(found.preferences, None, "there are no margins of single codes");
        let scores = found.scores;
        assert_eq!((scores.pairs_unmatched, scores.posteriors_unmatched, scores.groups.len()), (0, 0, 6));
        for group in &scores.groups {
            assert_eq!((group.prior, Some(group.posterior)), (group.prior_ceiling, group.posterior_ceiling));
            let (realised, expected) = (group.accuracy_ceiling, group.accuracy_ceiling_expected);
            // Realised and expected are the same number up to sampling: sd at most 0.5 / sqrt(n).
            assert!((realised - expected).abs() < 2.5 / (group.n as f64).sqrt(), "{group:?}");
            match group.rows.as_str() {
                // Undecided pairs (3.3 %) are coins: 1 - 0.033 / 2 = 0.983.
                "shown" => {
                    assert_eq!((group.prior.nmi_preference, group.prior.purity_factor), (1.0, 1.0));
                    assert!((0.96..=1.0).contains(&realised), "{group:?}");
                }
                // The prompt tells the source only; the pair tells more.
                "hidden" => {
                    assert!(group.prior.nmi_preference < group.posterior.nmi_preference, "{group:?}");
                    assert!((0.6..0.9).contains(&expected), "{group:?}");
                }
                _ => {}
            }
        }
    }

    /// Answers that differ in length, lists, hedges, address, figures and the first person, by chance.
    fn answer(key: &str) -> String {
        let coin = |what: &str| Seed(2).index(what, key, 2) == 1;
        let words = ["one", "two", "three", "four", "five"];
        let mut text: Vec<&str> = (0..4 + Seed(2).index("length", key, 20)).map(|i| words[i % 5]).collect();
        let extras = [("hedge", "perhaps"), ("address", "yours"), ("figure", "1984"), ("person", "we")];
        text.extend(extras.iter().filter(|(what, _)| coin(what)).map(|(_, word)| *word));
        let gap = if coin("list") { "\n- " } else { " " };
        format!("{key}{gap}{}", text.join(gap))
    }

    #[test]
    fn ceilings_over_given_texts_are_what_the_best_bets_reach() {
        use crate::synth::over::{self, Account, Response, Texts};
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().to_string_lossy().into_owned();
        let config = SynthConfig { out, over: vec!["given.jsonl".into()], ..SynthConfig::default() };
        let given = |i: usize| Texts {
            prompt: format!("Question {i}?"),
            source: ["a", "b", "c"][i % 3].into(),
            responses: (0..4)
                .map(|k| Response { model: None, text: answer(&format!("q{i}{k}")), ratings: Vec::new() })
                .collect(),
        };
        let feed = |sink: &mut over::Sink<'_>| sink((0..3000).map(given).collect()).map(|_| Account::default());
        let summary = over::plant(&config, Seed(4), &Silent, feed).unwrap();
        assert_eq!((summary.rows, summary.by_preference.len()), (3000, 8));
        // The best against a random other one.
        let pairs = prepare(dir.path(), 0.0);
        let truth = artifact::read_parquet(dir.path().join(TRUTH)).unwrap();
        let best = ceilings(&truth, &pairs, PosteriorScope::Pair).unwrap();
        assert_eq!((best.unmatched, best.rows.len(), best.preferences_used), (0, 3000, 8));
        let mut accuracies = Vec::new();
        for shown in [true, false] {
            let (realised, expected, n) = best.accuracy(|r| r.shown == shown);
            // The same number up to sampling: sd at most 0.5 / sqrt(n).
            assert!((realised - expected).abs() < 2.5 / (n as f64).sqrt(), "{realised} {expected} {n}");
            accuracies.push(expected);
        }
        assert!(accuracies[0] > accuracies[1] + 0.05 && accuracies[1] > 0.55, "{accuracies:?}");
        // The pair tells more than the source: the best guess of the preference is right more often.
        let hits = |code: fn(&CeilingRow) -> Option<u32>| {
            best.rows.iter().filter(|r| !r.shown && code(r) == Some(r.preference)).count()
        };
        let (prior, posterior) = (hits(|r| Some(r.prior_code)), hits(|r| r.posterior_code));
        assert!(prior + 50 < posterior, "{prior} {posterior}");
        assert!(best.rows.iter().filter(|r| r.shown).all(|r| r.prior_code == r.preference));
    }

    #[test]
    fn flips_lower_the_posterior_ceiling_but_not_the_accuracy_ceiling() {
        let (clean, noisy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let solve = |dir: &Path, flip: f64| {
            corpus(dir, 2000);
            let pairs = prepare(dir, flip);
            ceilings(&artifact::read_parquet(dir.join(TRUTH)).unwrap(), &pairs, PosteriorScope::Pair).unwrap()
        };
        let (clean, noisy) = (solve(clean.path(), 0.0), solve(noisy.path(), 0.4));
        assert_eq!(clean.accuracy(|_| true), noisy.accuracy(|_| true));
        let agreement = |c: &Ceilings| {
            let hidden = || c.rows.iter().filter(|r| !r.shown);
            nmi(
                &hidden().map(|r| r.posterior_code.unwrap()).collect::<Vec<_>>(),
                &hidden().map(|r| r.preference).collect::<Vec<_>>(),
            )
        };
        assert!(agreement(&clean) > agreement(&noisy) + 0.02, "{} {}", agreement(&clean), agreement(&noisy));
    }

    #[test]
    fn groups_have_a_ceiling_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        corpus(dir.path(), 2000);
        let truth = artifact::read_parquet(dir.path().join(TRUTH)).unwrap();
        let agreement = |best: &Ceilings| -> Option<f64> {
            let hidden = || best.rows.iter().filter(|r| !r.shown);
            let codes: Option<Vec<u32>> = hidden().map(|r| r.posterior_code).collect();
            codes.map(|codes| nmi(&codes, &hidden().map(|r| r.preference).collect::<Vec<_>>()))
        };
        let of = |pairs: &DataFrame, evidence| agreement(&ceilings(&truth, pairs, evidence).unwrap());
        // One pair of each prompt is no group.
        let single = prepare(dir.path(), 0.0);
        assert_eq!(of(&single, PosteriorScope::Prompt), of(&single, PosteriorScope::Pair));
        // Three pairs tell more than one, the same under every label; not computed where the best response is not in each.
        let (clean, noisy) = (write_pairs(dir.path(), 0.0, 3), write_pairs(dir.path(), 0.3, 3));
        let group = of(&clean, PosteriorScope::Prompt).unwrap();
        assert!(group > of(&clean, PosteriorScope::Pair).unwrap() + 0.05, "{group}");
        assert_eq!(of(&noisy, PosteriorScope::Prompt), Some(group));
        let mut swapped = clean.clone();
        let first = [true].into_iter().chain(std::iter::repeat(false)).take(swapped.height());
        swapped.with_column(Column::new("flipped".into(), first.collect::<Vec<bool>>())).unwrap();
        assert_eq!(of(&swapped, PosteriorScope::Prompt), None);
    }

    #[test]
    fn posteriors_of_another_corpus_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        corpus(dir.path(), 20);
        prepare(dir.path(), 0.0);
        let mut frame = df!(
            "id" => ["nobody"], "flipped" => [false], "prior_code" => [0u32], "posterior_code" => [0u32], "margin" => [1.0],
        )
        .unwrap();
        let file = dir.path().join("posteriors.parquet");
        artifact::write_parquet(&file, &mut frame).unwrap();
        assert!(matches!(recover(dir.path(), dir.path(), &file, PosteriorScope::Pair), Err(Error::Run { .. })));
    }
}
