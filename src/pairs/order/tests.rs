use proptest::prelude::*;

use super::*;
use crate::message::MessageColumnBuilder;
use crate::pairs::tests::{GivenRow, given, given_scored, scored, settings, shown};
use crate::pairs::{PairRule, build};

/// Finishes with the default settings.
pub(in crate::pairs) fn finished(frames: Vec<DataFrame>) -> Finished {
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
    // Of pairs with the same id, the content of the rows decides before file and line.
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
fn a_prompt_has_no_more_pairs_than_it_may() {
    let at = |cap: usize, seed: u64| {
        let config = PairConfig { rule: PairRule::AllPairs, max_per_prompt: cap, ..PairConfig::default() };
        let list = vec![("a", "w", Some(4.0)), ("b", "x", Some(3.0)), ("c", "y", Some(2.0)), ("d", "z", Some(1.0))];
        // The same prompt in another spelling adds pairs of its own to the same six.
        let frame = scored(&[
            ("p", list.clone()),
            ("p", list[..2].to_vec()),
            ("p", vec![("a", "v", Some(1.0)), ("b", "u", Some(0.0))]),
        ]);
        let built = build(&frame, &config, Seed(seed)).unwrap();
        let of_row: usize = if cap == 0 { 6 } else { cap.min(6) };
        assert_eq!(built.frame.height(), of_row + 2);
        assert_eq!(built.dropped.get(reason::OVER_PROMPT_CAP).copied().unwrap_or(0) as usize, 6 - of_row);
        let done = finish(vec![built.frame], &config, Seed(seed), &[]).unwrap();
        (shown(&done.frame), done.drops.iter().filter(|d| d.reason == reason::OVER_PROMPT_CAP).count())
    };
    let (all, none) = at(0, 1);
    assert_eq!((all.len(), none), (7, 0));
    for cap in 1..7 {
        let (kept, _) = at(cap, 1);
        assert_eq!(kept.len(), cap);
        let (more, _) = at(cap + 1, 1);
        assert!(kept.iter().all(|k| more.contains(k)), "{kept:?} within {more:?}");
    }
    assert!((2..20).any(|seed| at(2, seed).0 != at(2, 1).0));
}

#[test]
fn copies_go_as_far_as_wanted() {
    let rows = [("p", "a b", "c"), ("P ", "A  B", "c"), ("p", "a b", "c"), ("p", "a b", "d")];
    let left = |dedup: Dedup| {
        let config = PairConfig { dedup, ..PairConfig::default() };
        let built = build(&given(&rows), &config, Seed(0)).unwrap();
        let done = finish(vec![built.frame], &config, Seed(0), &["f".into()]).unwrap();
        let mut reasons: Vec<_> = done.drops.iter().map(|d| d.reason).collect();
        reasons.sort_unstable();
        (done.frame.height(), reasons)
    };
    assert_eq!(left(Dedup::None), (4, vec![]));
    assert_eq!(left(Dedup::Exact), (3, vec![reason::DUPLICATE]));
    assert_eq!(left(Dedup::Normalized), (2, vec![reason::DUPLICATE, reason::NORMALIZED_DUPLICATE]));
}

#[test]
fn pairs_that_contradict_each_other_are_found() {
    let rows: [GivenRow; 6] = [
        ("p", "a", "b", Some(3.0), Some(1.0)),
        ("P", "B ", "A", Some(5.0), Some(1.0)),
        ("p", "a", "c", Some(2.0), Some(1.0)),
        ("q", "a", "b", Some(3.0), Some(1.0)),
        ("q", "b", "a", None, None),
        ("q", "A", "a", Some(3.0), Some(1.0)),
    ];
    let done = |conflicts: Conflicts, rows: &[GivenRow]| {
        let config = PairConfig { conflicts, ..PairConfig::default() };
        let built = build(&given_scored(rows), &config, Seed(0)).unwrap();
        finish(vec![built.frame], &config, Seed(0), &["f".into()]).unwrap()
    };
    let kept = done(Conflicts::Keep, &rows);
    assert_eq!((kept.frame.height(), kept.drops.len(), kept.conflicts), (6, 0, 4));
    assert!(kept.conflict.starts_with("f: line ") && kept.conflict.contains(" and f: line "), "{}", kept.conflict);
    let none = done(Conflicts::Drop, &rows);
    assert_eq!((shown(&none.frame), none.conflicts), (vec!["A>a".into(), "a>c".into()], 4));
    assert!(none.drops.iter().all(|d| d.reason == reason::CONFLICTING_LABEL));
    let mut lines: Vec<_> = none.drops.iter().map(|d| (d.line, d.detail.as_str())).collect();
    lines.sort_unstable();
    assert_eq!(lines[0], (1, "ranked the other way round in f: line 2"));
    assert_eq!(lines.iter().map(|l| l.0).collect::<Vec<_>>(), [1, 2, 4, 5]);
    let higher = done(Conflicts::KeepHigherMargin, &rows);
    assert_eq!(
        (shown(&higher.frame), higher.conflicts),
        (vec!["A>a".into(), "B >A".into(), "a>b".into(), "a>c".into()], 4)
    );
    let even: [GivenRow; 2] = [("p", "a", "b", Some(3.0), Some(1.0)), ("p", "b", "a", Some(2.0), Some(0.0))];
    assert_eq!(done(Conflicts::KeepHigherMargin, &even).drops.len(), 2);
    // Another conversation with the same last question is another prompt.
    let mut frame = given(&[("why?", "a", "b"), ("why?", "b", "a")]);
    let mut prompts = MessageColumnBuilder::new("prompt", 2);
    prompts.push([("user", "why?")]);
    prompts.push([("user", "x"), ("assistant", "y"), ("user", "why?")]);
    frame.with_column(prompts.finish().unwrap()).unwrap();
    let built = build(&frame, &PairConfig::default(), Seed(0)).unwrap();
    assert_eq!(finished(vec![built.frame]).conflicts, 0);
}

fn given_rows() -> impl Strategy<Value = Vec<GivenRow>> {
    let prompt = prop::sample::select(vec!["p", " P", "q", "r s", "R  s"]);
    let text = || prop::sample::select(vec!["a", "A", "b", "c d", "c  D"]);
    let score = || prop::option::weighted(0.8, prop::sample::select(vec![1.0, 2.0, 3.0]));
    prop::collection::vec((prompt, text(), text(), score(), score()), 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn finishing_sees_neither_order_nor_buckets(
        (rows, shuffled) in given_rows().prop_flat_map(|r| (Just(r.clone()), Just(r).prop_shuffle())),
        seed in any::<u64>(),
        config in settings(),
    ) {
        let batch = |rows: &[GivenRow]| build(&given_scored(rows), &config, Seed(seed)).unwrap().frame;
        let finish = |frames: Vec<DataFrame>| finish(frames, &config, Seed(seed), &["f".into()]).unwrap();
        let reasons = |drops: &[Reject]| {
            let mut all: Vec<_> = drops.iter().map(|d| d.reason).collect();
            all.sort_unstable();
            all
        };
        let places = ["file", "line"];
        let whole = finish(vec![batch(&rows)]);
        let cut = shuffled.len() / 2;
        let other = finish(vec![batch(&shuffled[cut..]), batch(&shuffled[..cut])]);
        prop_assert!(whole.frame.drop_many(places).equals_missing(&other.frame.drop_many(places)));
        prop_assert_eq!(reasons(&whole.drops), reasons(&other.drops));
        prop_assert_eq!(whole.conflicts, other.conflicts);
        prop_assert_eq!(whole.conflict.is_empty(), whole.conflicts == 0);
        let all = batch(&rows);
        prop_assert_eq!(whole.frame.height() + whole.drops.len(), all.height());
        // Calls with ranges of groups give the same as one, as shards and buckets need it.
        let middle = u64::MAX / 2;
        let part = |high: bool| {
            let keep = all.column("group").unwrap().u64().unwrap().iter().map(|g| (g.unwrap() > middle) == high);
            finish(vec![all.filter(&BooleanChunked::from_iter_values("keep".into(), keep)).unwrap()])
        };
        let (low, high) = (part(false), part(true));
        prop_assert_eq!(low.conflicts + high.conflicts, whole.conflicts);
        for split in SPLITS {
            let of = |frame: &DataFrame| {
                let keep = frame.column("split").unwrap().str().unwrap().iter().map(|s| s == Some(split));
                frame.filter(&BooleanChunked::from_iter_values("keep".into(), keep)).unwrap()
            };
            let joined = of(&low.frame).vstack(&of(&high.frame)).unwrap();
            prop_assert!(joined.equals_missing(&of(&whole.frame)));
        }
        if config.max_per_prompt > 0 && config.dedup != Dedup::None {
            let mut counts = BTreeMap::new();
            for id in whole.frame.column("prompt_id").unwrap().str().unwrap().iter() {
                *counts.entry(id.unwrap().to_string()).or_insert(0usize) += 1;
            }
            prop_assert!(counts.values().all(|n| *n <= config.max_per_prompt));
        }
    }
}
