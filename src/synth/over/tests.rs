use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::row::Planted;
use super::*;
use crate::error::Error;
use crate::progress::Silent;

fn response(text: &str) -> Response {
    Response { model: Some("oak".into()), text: text.into(), ratings: Vec::new() }
}

fn texts(prompt: &str, responses: &[&str]) -> Texts {
    Texts {
        prompt: prompt.into(),
        source: "letters".into(),
        responses: responses.iter().map(|r| response(r)).collect(),
    }
}

/// Four answers that differ in length, lists, hedges, address, figures and the first person.
const ANSWERS: [&str; 4] = [
    "Boil it.",
    "I would boil it for 7 minutes, and then I cool it under water so that the shell comes off.",
    "- Boil water.\n- Put it in.\n- Wait.\n- Take it out.\n- Cool it.\n- Peel it.\n- Salt it.",
    "You may like it soft. Perhaps you boil it a little less, then; your taste decides, and it could well be that \
     you find the right time by trying, as we all did in our own kitchens once.",
];

fn many(n: usize) -> Vec<Texts> {
    let text = |i: usize| {
        let source = ["letters", "riddles", "travel"][i % 3].to_string();
        Texts { source, ..texts(&format!("How do I boil an egg of {i} grams?"), &ANSWERS) }
    };
    (0..n).map(text).collect()
}

fn config(traits: &[&str]) -> SynthConfig {
    let traits = traits.iter().map(|t| t.to_string()).collect();
    SynthConfig { over: vec!["x.jsonl".into()], traits, ..SynthConfig::default() }
}

fn planted(config: &SynthConfig, texts: Vec<Texts>) -> Vec<Planted> {
    let plan = PlantingPlan::new(config, Seed(5));
    texts.into_iter().flat_map(|t| plan.plant(t).1.expect("can be judged")).collect()
}

fn account(read: u64) -> Account {
    let file = InputFile { path: "x.jsonl".into(), rows_read: read, ..InputFile::default() };
    Account { inputs: vec![file], rejects: Vec::new() }
}

fn write(config: SynthConfig, dir: &Path, batches: Vec<Vec<Texts>>) -> Result<SynthSummary> {
    let config = SynthConfig { out: dir.to_string_lossy().into_owned(), ..config };
    plant(&config, Seed(5), &Silent, |sink| {
        let read = batches.iter().map(Vec::len).sum::<usize>() as u64;
        for batch in batches {
            sink(batch)?;
        }
        Ok(account(read))
    })
}

#[test]
fn scores_follow_the_trait() {
    // Without noise the best is one with the most of what is liked, whatever the preference.
    let config = SynthConfig { noise: 0.0, ..config(&[]) };
    let plan = PlantingPlan::new(&config, Seed(5));
    assert_eq!(
        plan.names(),
        [
            "length=short",
            "length=long",
            "lists=prose",
            "lists=list",
            "hedges=hedged",
            "address=direct",
            "figures=numeric",
            "first-person=personal",
        ]
    );
    let best_text = |row: &Planted| -> String {
        row.answers.iter().max_by(|a, b| a.score.total_cmp(&b.score)).unwrap().text.clone()
    };
    let expected = [Some(0), Some(3), None, Some(2), Some(3), Some(3), Some(1), Some(1)];
    let mut seen = BTreeSet::new();
    for row in planted(&config, many(200)) {
        seen.insert(row.preference);
        match expected[row.preference] {
            Some(best) => assert_eq!(best_text(&row), ANSWERS[best], "{}", plan.names()[row.preference]),
            // Three of the four are prose.
            None => assert_ne!(best_text(&row), ANSWERS[2]),
        }
        assert!(row.answers.iter().all(|a| (1.0..=10.0).contains(&a.score)));
    }
    assert_eq!(seen.len(), 8);
}

#[test]
fn utilities_are_ranks_with_means_for_ties() {
    let config = config(&["lists", "length"]);
    let row = &planted(&config, vec![texts("How?", &ANSWERS)])[0];
    let by_text: BTreeMap<&str, &[f64]> = row.answers.iter().map(|a| (a.text.as_str(), &a.utilities[..])).collect();
    // Preferences: prose, list, short, long. Lists: three have none and rank 0, 1, 2 of 3: 1/3 on average.
    let close = |got: &[f64], wanted: [f64; 4]| got.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12);
    assert!(close(by_text[ANSWERS[0]], [2.0 / 3.0, 1.0 / 3.0, 1.0, 0.0]), "{by_text:?}");
    // 2, 20, 15 and 38 words.
    assert!(close(by_text[ANSWERS[2]], [0.0, 1.0, 2.0 / 3.0, 1.0 / 3.0]));
    assert!(close(by_text[ANSWERS[3]], [2.0 / 3.0, 1.0 / 3.0, 0.0, 1.0]));
}

#[test]
fn the_temperature_is_that_of_a_bradley_terry_annotator() {
    // Of two responses one is longer: it wins with probability sigmoid(1 / 0.5) = 0.8808.
    let config = SynthConfig { noise: 0.5, ..config(&["length"]) };
    let pairs = (0..4000).map(|i| texts(&format!("Question {i}?"), &["One.", "One and two."])).collect();
    let rows = planted(&config, pairs);
    let wins = rows.iter().filter(|row| {
        let (a, b) = (&row.answers[0], &row.answers[1]);
        (a.score > b.score) == (a.utilities[row.preference] > b.utilities[row.preference])
    });
    // Five standard deviations of Binomial(4000, 0.8808) are 102.
    let wins = wins.count() as f64;
    assert!((wins - 3523.0).abs() < 102.0, "{wins}");
}

#[test]
fn shown_prompts_ask_and_hidden_ones_do_not() {
    let config = config(&[]);
    let plan = PlantingPlan::new(&config, Seed(5));
    let asks: Vec<&str> = TRAITS.iter().flat_map(|t| t.ways).flat_map(|w| w.asks).collect();
    let (mut before, mut behind) = (0, 0);
    for (row, given) in planted(&config, many(400)).iter().zip(many(400)) {
        assert!(row.instruction.contains(&given.prompt), "{}", row.instruction);
        let asked: Vec<&&str> = asks.iter().filter(|a| row.instruction.contains(*a)).collect();
        assert_eq!(asked.len(), usize::from(row.shown), "{}", row.instruction);
        assert_eq!(row.annotator.is_none(), row.shown);
        if row.shown {
            assert!(plan.preferences[row.preference].way.asks.contains(asked[0]));
            before += usize::from(row.instruction.ends_with(&given.prompt));
            behind += usize::from(row.instruction.starts_with(&given.prompt));
        } else {
            assert_eq!(row.instruction, given.prompt);
            assert_eq!(row.annotator.map(|a| a as usize % 8), Some(row.preference));
        }
    }
    // Five standard deviations of Binomial(400, 0.5) are 50, of its half 43.
    assert!((150..=250).contains(&(before + behind)) && before > 57 && behind > 57, "{before} {behind}");
    // A prompt of several lines keeps them apart from what is asked.
    let lines = planted(&SynthConfig { shown_fraction: 1.0, ..config }, vec![texts("One\ntwo", &ANSWERS)]);
    assert!(lines[0].instruction.contains("\n\n"), "{}", lines[0].instruction);
}

#[test]
fn only_what_differs_decides() {
    // Equal in all but the length, by less than a quarter: nothing to judge by.
    let near = texts("Why?", &["one two three four five", "one two three four five six"]);
    let plan = PlantingPlan::new(&config(&[]), Seed(5));
    let (_, refused) = plan.plant(near.clone());
    assert_eq!(refused.unwrap_err().reason, crate::rejects::reason::NO_VARYING_TRAIT);
    // A seventh word is enough.
    let far = texts("Why?", &["one two three four five", "one two three four five six seven"]);
    let rows: Vec<Planted> =
        (0..50).flat_map(|seed| PlantingPlan::new(&config(&[]), Seed(seed)).plant(far.clone()).1.unwrap()).collect();
    assert!(rows.iter().all(|row| row.preference < 2 && row.possible[2..].iter().all(|p| *p == 0.0)));
    assert!(rows.iter().all(|row| (row.possible.iter().sum::<f64>() - 1.0).abs() < 1e-12));
    let sum = |p: &[f64]| p.iter().sum::<f64>();
    assert!(rows.iter().all(|row| (sum(&row.prior) - 1.0).abs() < 1e-12 && row.prior[2..].iter().all(|p| *p > 0.0)));
}

#[test]
fn empty_and_equal_responses_are_counted() {
    let plan = PlantingPlan::new(&config(&["length"]), Seed(5));
    let (unused, row) = plan.plant(texts("Why?", &["So it is.", " So it is.\n", "", " \n", "So."]));
    assert_eq!(unused, Unused { empty: 2, equal: 1, unrated: 0 });
    assert_eq!(row.unwrap()[0].answers.len(), 2);
    let (unused, row) = plan.plant(texts("Why?", &["So.", "So.", ""]));
    assert_eq!(unused, Unused { empty: 1, equal: 1, unrated: 0 });
    assert_eq!(row.unwrap_err().reason, crate::rejects::reason::TOO_FEW_COMPLETIONS);
}

#[test]
fn neither_order_nor_company_matters() {
    let config = config(&[]);
    let mut turned = many(50);
    turned.reverse();
    turned.iter_mut().for_each(|t| t.responses.reverse());
    let mut again = planted(&config, turned);
    again.reverse();
    assert_eq!(planted(&config, many(50)), again);
    assert_eq!(planted(&config, many(10)), again[..10]);
    // A source's weights are its own, and the seed's.
    let plan = PlantingPlan::new(&config, Seed(5));
    assert_ne!(plan.weights("letters"), plan.weights("riddles"));
    assert_ne!(plan.weights("letters"), PlantingPlan::new(&config, Seed(6)).weights("letters"));
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let write_with = |threads: usize| {
        let dir = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut first = many(300);
        let second = first.split_off(170);
        let summary = pool.install(|| write(config(&[]), dir.path(), vec![first, second])).unwrap();
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        (read(CORPUS), read(TRUTH), read(REJECTS), summary)
    };
    assert_eq!(write_with(1), write_with(4));
}

#[test]
fn the_folder_is_that_of_synth() {
    let dir = tempfile::tempdir().unwrap();
    let refused = texts("Alone?", &["Yes."]);
    let summary = write(config(&[]), dir.path(), vec![many(100), vec![refused]]).unwrap();
    assert_eq!((summary.rows, summary.completions), (100, 400));
    assert_eq!(summary.by_source.values().sum::<u64>(), 100);
    let over = summary.over.as_ref().unwrap();
    assert_eq!(
        over.varying,
        BTreeMap::from(
            ["address", "figures", "first-person", "hedges", "length", "lists"].map(|t| (t.to_string(), 100))
        )
    );
    let text = std::fs::read_to_string(dir.path().join(CORPUS)).unwrap();
    let truth = artifact::read_parquet(dir.path().join(TRUTH)).unwrap();
    assert_eq!((text.lines().count(), truth.height()), (100, 100));
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["source", "instruction", "models", "completions", "correct_answers", "incorrect_answers"]);
        for completion in row["completions"].as_array().unwrap() {
            assert!(ANSWERS.contains(&completion["response"].as_str().unwrap()));
            assert!(completion["overall_score"].is_f64() && completion["model"] == "oak");
        }
    }
    let manifest = Manifest::read(dir.path()).unwrap();
    for file in [CORPUS, TRUTH, REJECTS] {
        manifest.verify(dir.path(), file).unwrap();
    }
    // By hand: of the four, ranks of words are 0, 2, 1, 3 and of list lines 0, 0, 3, 0 (mean rank 1): centred
    // (-3/2, 1/2, -1/2, 3/2) and (-1/2, -1/2, 3/2, -1/2), product -1, squares 5 and 3: -1 / sqrt 15.
    let matrix = &manifest.facts["trait_correlations"]["matrix"];
    let between = matrix[0][1].as_f64().unwrap();
    assert!((between + 1.0 / 15f64.sqrt()).abs() < 1e-9, "{between}");
    assert_eq!(matrix[0][1], matrix[1][0]);
    assert!((matrix[2][2].as_f64().unwrap() - 1.0).abs() < 1e-12);
}

#[test]
fn several_judgements_of_a_prompt() {
    let several = |judgements, test_fraction| SynthConfig { judgements, test_fraction, ..config(&[]) };
    let (one, five) = (planted(&config(&[]), many(300)), planted(&several(5, 0.1), many(300)));
    assert_eq!((one.len(), five.len()), (300, 1500));
    let mut prompts = BTreeSet::new();
    for (first, rows) in one.iter().zip(five.chunks(5)) {
        // The first is the one that would judge alone.
        assert_eq!((&first.instruction, &first.answers), (&rows[0].instruction, &rows[0].answers));
        assert_eq!(rows.iter().map(|r| r.preference).collect::<BTreeSet<_>>().len(), 5);
        assert!(rows[1..].iter().all(|r| r.shown && r.annotator.is_none()));
        assert!(rows.iter().all(|r| r.held_out == rows[0].held_out && r.possible == first.possible));
        prompts.extend(rows.iter().map(|r| r.instruction.clone()));
    }
    assert_eq!(prompts.len(), 1500);
    // Eight preferences: there is no ninth judgement.
    assert_eq!(planted(&several(16, 0.1), many(3)).len(), 24);

    let dir = tempfile::tempdir().unwrap();
    let lines = |name: &str| std::fs::read_to_string(dir.path().join(name)).map(|text| text.lines().count()).ok();
    write(config(&[]), dir.path(), vec![many(100)]).unwrap();
    assert_eq!(lines(CORPUS), Some(100));
    let summary = write(several(4, 0.3), dir.path(), vec![many(60), many(100).split_off(60)]).unwrap();
    let (train, test) = (lines("train.jsonl").unwrap(), lines("test.jsonl").unwrap());
    // Nothing of the earlier corpus is left, and a prompt's judgements are in one file.
    assert_eq!((lines(CORPUS), train + test, train % 4, summary.rows), (None, 400, 0, 400));
    assert!((60..=180).contains(&test), "{test}");
    assert_eq!(summary.over.unwrap().varying["length"], 100);
    let truth = artifact::read_parquet(dir.path().join(TRUTH)).unwrap();
    assert_eq!(truth.height(), 400);
    let manifest = Manifest::read(dir.path()).unwrap();
    for (name, rows) in [("train.jsonl", train), ("test.jsonl", test), (TRUTH, 400)] {
        manifest.verify(dir.path(), name).unwrap();
        assert_eq!(manifest.outputs.iter().find(|o| o.path == name).unwrap().rows, Some(rows as u64), "{name}");
    }
    write(config(&[]), dir.path(), vec![many(10)]).unwrap();
    assert_eq!((lines(CORPUS), lines("train.jsonl"), lines("test.jsonl")), (Some(10), None, None));
}

#[test]
fn a_setting_that_acts_on_nothing_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let asked = write(config(&["length", "questions", "exclamations"]), dir.path(), vec![many(3)]).unwrap_err();
    insta::assert_snapshot!(asked.to_string(), @"
    2 faults in the configuration
      synth.traits: `questions` decides nothing: in no prompt do the responses differ in it by 0.25
      synth.traits: `exclamations` decides nothing: in no prompt do the responses differ in it by 0.25
    ");
    // Where no trait was asked for by name, the other traits decide.
    let all = SynthConfig { factors: 10, ..config(&[]) };
    let summary = write(all, dir.path(), vec![many(3)]).unwrap();
    assert_eq!(summary.over.unwrap().varying["questions"], 0);

    let none = tempfile::tempdir().unwrap();
    let error = write(config(&[]), none.path(), vec![vec![texts("Alone?", &["Yes."])]]).unwrap_err();
    assert!(matches!(error, Error::Data { .. }) && error.hint().is_some(), "{error}");
    assert!(error.to_string().contains("none of the 1 rows read can be judged"), "{error}");
    assert!(!none.path().join(CORPUS).exists() && !none.path().join(TRUTH).exists());
}

#[test]
fn all_faults_come_at_once() {
    let wrong = SynthConfig {
        rows: 10,
        completions: 2,
        second_agrees: 0.2,
        factors: 11,
        noise: 0.2,
        traits: ["length", "hedgs", "length", "honesty"].map(String::from).to_vec(),
        ..config(&[])
    };
    insta::assert_snapshot!(wrong.check().unwrap_err().to_string(), @"
    9 faults in the configuration
      synth.rows: has no effect over real texts: every prompt of synth.over is used
      synth.factors: has no effect beside synth.traits, which names what decides
      synth.completions: has no effect over real texts: a prompt has the responses that it has
      synth.noise: has no effect on aspects: their ratings are judgements already
      synth.second_agrees: has no effect over real texts: which responses agree is found in them
      synth.factors: expected 1 to 10, got 11
      synth.traits: unknown trait `hedgs`; expected one of: length, lists, hedges, address, figures, first-person, markup, sentences, exclamations, questions, helpfulness, honesty, instruction-following, truthfulness, aspects
      synth.traits: `length` is named twice
      synth.traits: aspects are ratings and traits are counted: they do not mix
    ");
    let alone = SynthConfig {
        traits: vec!["length".into()],
        format: "trl".into(),
        columns: vec!["prompt=q".into()],
        on_bad_row: "skip".into(),
        ..SynthConfig::default()
    };
    let Err(Error::Config(faults)) = alone.check() else { panic!("accepted") };
    let keys: Vec<&str> = faults.iter().map(|f| f.key.as_str()).collect();
    assert_eq!(keys, ["synth.traits", "synth.format", "synth.columns", "synth.on_bad_row"]);
    let both = SynthConfig { traits: vec!["aspects".into(), "honesty".into()], ..config(&[]) };
    assert!(both.check().unwrap_err().to_string().contains("stands for all aspects"));
    assert!(crate::synth::write(&config(&[]), Seed(1), &Silent).unwrap_err().to_string().contains("made-up texts"));
}

#[test]
fn aspects_score_as_they_are_rated() {
    let rated = |ratings: [[Option<f64>; 2]; 4]| {
        let of = |(i, r): (usize, [Option<f64>; 2])| Response {
            model: None,
            text: format!("answer {i}"),
            ratings: r.to_vec(),
        };
        ratings.into_iter().enumerate().map(of).collect::<Vec<_>>()
    };
    let config = config(&["honesty", "helpfulness"]);
    assert_eq!(aspects(&config), ["honesty", "helpfulness"]);
    assert_eq!(aspects(&self::config(&["aspects"])).len(), 4);
    assert!(aspects(&self::config(&["length"])).is_empty());
    let plan = PlantingPlan::new(&config, Seed(5));
    assert_eq!(plan.names(), ["honesty=more", "helpfulness=more"]);
    // Honesty 5, 1, 3, helpfulness 1, 5, 5: the fourth is not rated by one and takes no part.
    let rows: Vec<Planted> = (0..400)
        .map(|i| {
            let some = |a: f64, b: f64| [Some(a), Some(b)];
            let responses = rated([some(5.0, 1.0), some(1.0, 5.0), some(3.0, 5.0), [Some(5.0), None]]);
            let texts = Texts { prompt: format!("Question {i}?"), source: "a".into(), responses };
            let (unused, row) = plan.plant(texts);
            assert_eq!(unused, Unused { empty: 0, equal: 0, unrated: 1 });
            row.unwrap().remove(0)
        })
        .collect();
    let mut ties = [0; 2];
    for row in &rows {
        let score = |text: &str| row.answers.iter().find(|a| a.text == text).unwrap().score;
        let scores = ["answer 0", "answer 1", "answer 2"].map(score);
        match row.preference {
            0 => assert!(scores[0] > scores[2] && scores[2] > scores[1], "{scores:?}"),
            _ => {
                assert!(scores[0] < scores[1].min(scores[2]), "{scores:?}");
                ties[usize::from(scores[1] > scores[2])] += 1;
            }
        }
    }
    // A tie is decided by a fair coin: each side wins at least a quarter of the rows that helpfulness decides.
    let decided = ties[0] + ties[1];
    assert!(decided > 50 && ties.iter().all(|n| 4 * n > decided), "{ties:?}");
}
