use proptest::prelude::*;

use super::*;
use crate::message::Message;
use crate::nested::list_of_structs;
use crate::rejects::reason;
use crate::schema::PAIR_COLUMNS;

type Completion = (&'static str, &'static str, Option<f64>);

fn places(n: usize) -> [Column; 3] {
    [
        UInt32Chunked::full("file".into(), 0, n).into_column(),
        UInt64Chunked::from_vec("line".into(), (1..=n as u64).collect()).into_column(),
        StringChunked::full("source".into(), "s", n).into_column(),
    ]
}

fn users(prompts: &[&str]) -> Column {
    let mut builder = MessageColumnBuilder::new("prompt", prompts.len());
    prompts.iter().for_each(|p| builder.push([("user", *p)]));
    builder.finish().unwrap()
}

fn scored(rows: &[(&str, Vec<Completion>)]) -> DataFrame {
    let flat: Vec<Completion> = rows.iter().flat_map(|r| r.1.clone()).collect();
    let mut offsets = vec![0];
    for (_, completions) in rows {
        offsets.push(offsets[offsets.len() - 1] + completions.len() as i64);
    }
    let fields = [
        Series::new("model".into(), flat.iter().map(|c| c.0).collect::<Vec<_>>()),
        Series::new("response".into(), flat.iter().map(|c| c.1).collect::<Vec<_>>()),
        Series::new("score".into(), flat.iter().map(|c| c.2).collect::<Vec<_>>()),
    ];
    let mut columns = places(rows.len()).to_vec();
    columns.push(users(&rows.iter().map(|r| r.0).collect::<Vec<_>>()));
    columns.push(list_of_structs("completions", offsets, &fields).unwrap());
    DataFrame::new(rows.len(), columns).unwrap()
}

fn given(rows: &[(&str, &str, &str)]) -> DataFrame {
    let n = rows.len();
    let answers = |name: &str, texts: Vec<&str>| {
        let mut builder = MessageColumnBuilder::new(name, n);
        texts.iter().for_each(|t| builder.push([("assistant", *t)]));
        builder.finish().unwrap()
    };
    let mut columns = places(n).to_vec();
    columns.push(users(&rows.iter().map(|r| r.0).collect::<Vec<_>>()));
    columns.push(answers("chosen", rows.iter().map(|r| r.1).collect()));
    columns.push(answers("rejected", rows.iter().map(|r| r.2).collect()));
    columns.push(Column::new("score_chosen".into(), vec![Some(1.0); n]));
    columns.push(Column::new("score_rejected".into(), vec![None::<f64>; n]));
    columns.push(Column::new("chosen_model".into(), vec![Some("m"); n]));
    columns.push(Column::new("rejected_model".into(), vec![None::<&str>; n]));
    DataFrame::new(n, columns).unwrap()
}

fn one(completions: Vec<Completion>, rule: PairRule, seed: u64) -> Built {
    let config = PairConfig { rule, ..PairConfig::default() };
    build(&scored(&[("p", completions)]), &config, Seed(seed)).unwrap()
}

fn texts(built: &Built) -> (String, String) {
    let open = |name: &str| MessageColumn::open(built.frame.column(name).unwrap()).unwrap().messages(0);
    assert_eq!(open("chosen").len(), 1);
    (open("chosen")[0].content.clone(), open("rejected")[0].content.clone())
}

fn refusal(built: &Built) -> (&'static str, &str) {
    assert_eq!((built.frame.height(), built.rejects.len()), (0, 1));
    (built.rejects[0].reason, &built.rejects[0].detail)
}

#[test]
fn best_against_worst() {
    let built = one(
        vec![("a", "mid", Some(5.0)), ("b", "low", Some(1.0)), ("c", "top", Some(9.0)), ("d", "low2", Some(2.0))],
        PairRule::BestVsWorst,
        0,
    );
    assert_eq!(texts(&built), ("top".into(), "low".into()));
    let names: Vec<String> = built.frame.get_column_names().iter().map(|n| n.to_string()).collect();
    assert_eq!(names[..16], PAIR_COLUMNS);
    let number = |name: &str| built.frame.column(name).unwrap().f64().unwrap().get(0);
    assert_eq!((number("score_chosen"), number("score_rejected"), number("margin")), (Some(9.0), Some(1.0), Some(8.0)));
    let text = |name: &str| built.frame.column(name).unwrap().str().unwrap().get(0).unwrap().to_string();
    assert_eq!((text("chosen_model"), text("rejected_model")), ("c".into(), "b".into()));
    assert_eq!(
        (text("pair_rule"), text("noise_kind"), text("source")),
        ("best-vs-worst".into(), "none".into(), "s".into())
    );
}

#[test]
fn best_against_random_reaches_all_lower_ones_and_no_other() {
    let completions =
        vec![("a", "top", Some(9.0)), ("b", "x", Some(1.0)), ("c", "y", Some(5.0)), ("d", "also top", Some(9.0))];
    let mut seen = std::collections::BTreeMap::new();
    for seed in 0..200 {
        let (chosen, rejected) = texts(&one(completions.clone(), PairRule::BestVsRandom, seed));
        *seen.entry((chosen, rejected)).or_insert(0) += 1;
    }
    let pairs: Vec<_> = seen.keys().map(|(c, r)| (c.as_str(), r.as_str())).collect();
    assert_eq!(pairs.len(), 2, "{pairs:?}");
    assert!(pairs.iter().all(|(c, r)| *c == pairs[0].0 && ["x", "y"].contains(r)));
    // Five standard deviations of Binomial(200, 1/2).
    assert!(seen.values().all(|n| (65..=135).contains(n)), "{seen:?}");
}

#[test]
fn rows_without_a_preference_are_refused_with_a_reason() {
    let rule = PairRule::BestVsRandom;
    let tied = one(vec![("a", "x", Some(5.0)), ("b", "y", Some(5.0))], rule, 0);
    assert_eq!(refusal(&tied), (reason::ALL_TIED, "all completions have the score 5"));
    let few = one(vec![("a", "x", Some(5.0)), ("b", " \n", Some(1.0)), ("c", "z", None)], rule, 0);
    assert_eq!(
        refusal(&few),
        (reason::TOO_FEW_COMPLETIONS, "1 of 3 completions have a response and a score; 2 are needed")
    );
    assert_eq!(few.unusable, Unusable { empty_response: 1, unrated: 1 });
    for rule in [rule, PairRule::BestVsWorst] {
        let same = one(vec![("a", "x", Some(5.0)), ("b", "x", Some(1.0))], rule, 0);
        assert_eq!(refusal(&same).0, reason::IDENTICAL_RESPONSES);
        let spare = one(vec![("a", "x", Some(5.0)), ("b", "x", Some(1.0)), ("c", "z", Some(2.0))], rule, 0);
        assert_eq!(texts(&spare), ("x".into(), "z".into()));
    }
}

#[test]
fn given_pairs_keep_their_label() {
    let frame = given(&[("p", "a", "b"), ("p", "a", "a"), ("p", "a", "  "), ("p", "", "b")]);
    let built = build(&frame, &PairConfig::default(), Seed(0)).unwrap();
    let found: Vec<_> = built.rejects.iter().map(|r| (r.line, r.reason, r.field.as_str())).collect();
    let empty = reason::EMPTY_RESPONSE;
    assert_eq!(found, [(2, reason::IDENTICAL_RESPONSES, "rejected"), (3, empty, "rejected"), (4, empty, "chosen")]);
    assert_eq!(texts(&built), ("a".into(), "b".into()));
    assert_eq!(built.frame.column("pair_rule").unwrap().str().unwrap().get(0), Some("given"));
    assert_eq!(built.frame.column("margin").unwrap().null_count(), 1);
    assert_eq!(built.frame.column("chosen_model").unwrap().str().unwrap().get(0), Some("m"));
}

#[test]
fn scored_and_given_pairs_of_the_same_texts_have_the_same_id() {
    let scored = one(vec![("a", "x", Some(5.0)), ("b", "y", Some(1.0))], PairRule::BestVsRandom, 0);
    let given = build(&given(&[("p", "x", "y")]), &PairConfig::default(), Seed(0)).unwrap();
    for name in ["id", "prompt_id", "split", "group"] {
        assert!(scored.frame.column(name).unwrap().equals(given.frame.column(name).unwrap()), "{name}");
    }
}

/// Finishes with the default settings.
fn finished(frames: Vec<DataFrame>) -> Finished {
    finish(frames, &PairConfig::default(), Seed(0), &["data.jsonl".to_string()]).unwrap()
}

#[test]
fn one_of_equal_rows_stays_whatever_their_order() {
    let batch = |rows: &[(&str, &str, &str)]| build(&given(rows), &PairConfig::default(), Seed(0)).unwrap().frame;
    let (a, b) = (("p", "a", "b"), ("q", "a", "b"));
    let one = finished(vec![batch(&[a, b]), batch(&[b, a, b])]);
    assert_eq!((one.frame.height(), one.drops.len(), one.conflicts), (2, 3, 0));
    assert!(one.drops.iter().all(|r| r.reason == reason::DUPLICATE));
    assert!(one.drops[0].detail.starts_with("the same prompt, chosen and rejected as data.jsonl: line "));
    let other = finished(vec![batch(&[b, a, b]), batch(&[a, b])]);
    let places = ["line", "file"];
    assert!(one.frame.drop_many(places).equals_missing(&other.frame.drop_many(places)));
    // The same id with the richer source first: decided by content before place.
    let mut tagged = batch(&[a]);
    tagged.with_column(Column::new("source".into(), ["r"])).unwrap();
    for frames in [vec![batch(&[a]), tagged.clone()], vec![tagged.clone(), batch(&[a])]] {
        let kept = finished(frames).frame;
        assert_eq!(kept.column("source").unwrap().str().unwrap().get(0), Some("r"));
    }
}

#[test]
fn rows_end_sorted_by_split_group_and_id() {
    let prompts: Vec<String> = (0..200).map(|i| format!("p{i}")).collect();
    let rows: Vec<_> = prompts.iter().flat_map(|p| [(p.as_str(), "a", "b"), (p.as_str(), "c", "d")]).collect();
    let built = build(&given(&rows), &PairConfig::default(), Seed(0)).unwrap();
    let frame = finished(vec![built.frame]).frame;
    let (splits, ids) = (frame.column("split").unwrap().str().unwrap(), frame.column("id").unwrap().str().unwrap());
    let groups = frame.column("group").unwrap().u64().unwrap();
    let key = |i: usize| (splits.get(i) == Some("test"), groups.get(i).unwrap(), ids.get(i).unwrap().to_string());
    let keys: Vec<_> = (0..frame.height()).map(key).collect();
    assert!(keys.windows(2).all(|w| w[0] < w[1]));
    assert!(keys.chunks(2).all(|c| c[0].1 == c[1].1));
    // Five standard deviations of Binomial(200, 0.1).
    let test = keys.iter().filter(|k| k.0).count() / 2;
    assert!((1..=41).contains(&test), "{test}");
}

#[test]
fn fractions_of_nothing_and_all() {
    let frame = given(&[("p", "a", "b"), ("q", "a", "b")]);
    let splits = |test_fraction| {
        let config = PairConfig { test_fraction, ..PairConfig::default() };
        let built = build(&frame, &config, Seed(0)).unwrap();
        built.frame.column("split").unwrap().str().unwrap().iter().map(|s| s.unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(splits(0.0), ["train", "train"]);
    assert_eq!(splits(1.0), ["test", "test"]);
    let bad = PairConfig { test_fraction: -0.1, ..PairConfig::default() };
    assert_eq!(bad.faults("pairs.")[0].to_string(), "pairs.test_fraction: must be between 0 and 1, got -0.1");
}

fn completions() -> impl Strategy<Value = Vec<Completion>> {
    let model = prop::sample::select(vec!["a", "b", "c"]);
    let response = prop::sample::select(vec!["", " ", "x", "y", "z", "w"]);
    let score = prop::option::weighted(0.9, prop::sample::select(vec![1.0, 2.0, 3.0]));
    prop::collection::vec((model, response, score), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_place_in_the_list_does_not_matter(
        (list, shuffled) in completions().prop_flat_map(|l| (Just(l.clone()), Just(l).prop_shuffle())),
        seed in any::<u64>(),
        worst in any::<bool>(),
    ) {
        let rule = if worst { PairRule::BestVsWorst } else { PairRule::BestVsRandom };
        let (a, b) = (one(list.clone(), rule, seed), one(shuffled, rule, seed));
        prop_assert!(a.frame.equals_missing(&b.frame));
        prop_assert_eq!(&a.rejects, &b.rejects);
        prop_assert_eq!(a.frame.height() + a.rejects.len(), 1);
        if a.frame.height() == 1 {
            let margin = a.frame.column("margin").unwrap().f64().unwrap().get(0);
            prop_assert!(margin.is_some_and(|m| m > 0.0));
            let (chosen, rejected) = texts(&a);
            prop_assert!(chosen != rejected && !chosen.trim().is_empty() && !rejected.trim().is_empty());
        }
    }

    #[test]
    fn copies_of_a_prompt_stay_together(words in prop::collection::vec("[a-zA-Z\u{e4}\u{c4}]{1,4}", 1..5), seed in any::<u64>()) {
        let plain = words.join(" ");
        let odd = format!("\n {} ", words.join(" \t\u{a0}")).to_uppercase();
        prop_assume!(odd.to_lowercase().split_whitespace().eq(plain.to_lowercase().split_whitespace()));
        let config = PairConfig { test_fraction: 0.5, ..PairConfig::default() };
        let built = build(&given(&[(&plain, "a", "b"), (&odd, "a", "b")]), &config, Seed(seed)).unwrap();
        for name in ["split", "group"] {
            let column = built.frame.column(name).unwrap();
            prop_assert!(column.slice(0, 1).equals(&column.slice(1, 1)));
        }
    }
}

#[test]
fn message_lists_stay_lists() {
    let frame = given(&[("p", "a", "b")]);
    let built = build(&frame, &PairConfig::default(), Seed(0)).unwrap();
    let prompt = MessageColumn::open(built.frame.column("prompt").unwrap()).unwrap();
    assert_eq!(prompt.messages(0), [Message::user("p")]);
}

#[test]
fn one_text_listed_twice_with_two_scores() {
    // Found by the property above: the same model's text, scored twice.
    let list = vec![("a", "y", Some(2.0)), ("b", "w", Some(3.0)), ("a", "y", Some(1.0))];
    let turned: Vec<_> = list.iter().rev().copied().collect();
    for seed in 0..20 {
        let (a, b) =
            (one(list.clone(), PairRule::BestVsRandom, seed), one(turned.clone(), PairRule::BestVsRandom, seed));
        assert!(a.frame.equals_missing(&b.frame), "seed {seed}");
    }
}
