use super::*;

/// Each difference a cluster of its own.
fn apart(differences: &[f64]) -> Vec<ClusterDifference> {
    by_cluster(differences.iter().copied().enumerate())
}

/// As many examples with 1 and with -1, among others with 0.
fn discordant(above: usize, below: usize, equal: usize) -> Vec<ClusterDifference> {
    apart(&[vec![1.0; above], vec![0.0; equal], vec![-1.0; below]].concat())
}

#[test]
fn differences_are_gathered_by_cluster_in_the_order_of_the_first() {
    let found = by_cluster([("q", 0.5), ("p", 1.0), ("q", -1.0), ("q", 0.25)]);
    assert_eq!(found, [ClusterDifference { sum: -0.25, n: 3 }, ClusterDifference { sum: 1.0, n: 1 }]);
}

#[test]
fn intervals_of_single_examples_by_hand() {
    // The methods differ by 1 everywhere: no spread at all.
    let i = paired_difference(&apart(&[1.0; 50]), 200, Seed(1)).interval;
    assert_eq!((i.estimate, i.low, i.high), (1.0, 1.0, 1.0));
    // Differences are 0 or 1 with mean 0.4, n = 100: the normal interval is 0.4 +- 1.96 * 0.049 = 0.096.
    let differences: Vec<f64> = (0..100).map(|i| f64::from(u8::from(i < 40))).collect();
    let found = paired_difference(&apart(&differences), 2000, Seed(1));
    let i = found.interval;
    assert!((i.estimate - 0.4).abs() < 1e-12 && i.n == 100, "{i:?}");
    assert!((i.low - 0.304).abs() < 0.02 && (i.high - 0.496).abs() < 0.02, "{i:?}");
    assert_eq!(found, paired_difference(&apart(&differences), 2000, Seed(1)));
    // The draws are those of the examples themselves, to the last bit.
    let mut means: Vec<f64> = (0..2000)
        .map(|r| {
            let mut rng = Seed(1).rng("bootstrap", &r.to_string());
            (0..100).map(|_| differences[rng.random_range(0..100u32) as usize]).sum::<f64>() / 100.0
        })
        .collect();
    means.sort_by(f64::total_cmp);
    assert_eq!((i.low, i.high), (quantile(&means, 0.025), quantile(&means, 0.975)));
}

#[test]
fn the_examples_of_a_cluster_are_drawn_together() {
    // Ten prompts with ten pairs each, whose differences are equal: no more is known than from one pair of each.
    let of_prompt = |prompt: usize| f64::from(u8::from(prompt < 4));
    let pairs = by_cluster((0..100).map(|i| (i % 10, of_prompt(i % 10))));
    let prompts: Vec<f64> = (0..10).map(of_prompt).collect();
    let (of_pairs, of_prompts) =
        (paired_difference(&pairs, 1000, Seed(1)), paired_difference(&apart(&prompts), 1000, Seed(1)));
    assert_eq!(of_pairs.interval, Interval { n: 100, ..of_prompts.interval });
    assert_eq!((of_pairs.p, of_prompts.p), (0.125, 0.125));
    // Three pairs with 1 and one with 0: two draws of two prompts have the means 1, 0.75, 0.75 and 0.
    let uneven = by_cluster([("p", 1.0), ("p", 1.0), ("p", 1.0), ("q", 0.0)]);
    let i = paired_difference(&uneven, 1000, Seed(1)).interval;
    assert_eq!((i.estimate, i.low, i.high, i.n), (0.75, 0.0, 1.0, 4));
    let middle = resampled_means(&uneven, 1000, Seed(1)).iter().filter(|m| **m == 0.75).count();
    assert!((400..600).contains(&middle), "{middle}");
}

/// P(|2 X - n| >= |above - below|) of a binomial X of n = above + below trials with 1/2: the exact sign test.
fn sign_test(above: usize, below: usize) -> f64 {
    let n = above + below;
    let mut term = 0.5f64.powi(n as i32);
    let mut p = 0.0;
    for x in 0..=n {
        if (2 * x).abs_diff(n) >= above.abs_diff(below) {
            p += term;
        }
        term *= (n - x) as f64 / (x + 1) as f64;
    }
    p
}

#[test]
fn p_values_are_those_of_exact_sign_tests() {
    assert!((sign_test(5, 0) - 0.0625).abs() < 1e-12 && (sign_test(7, 3) - 0.34375).abs() < 1e-12);
    let p = |above, below| paired_difference(&discordant(above, below, 1000 - above - below), 10_000, Seed(1)).p;
    for (above, below) in [(0, 0), (1, 0), (4, 0), (5, 0), (0, 6), (8, 0), (7, 3), (5, 5), (2, 11), (13, 0)] {
        assert!((p(above, below) - sign_test(above, below)).abs() < 1e-12, "{above} {below}: {}", p(above, below));
    }
    // More than 13 are not enumerated: within four standard errors of 10,000 assignments.
    for (above, below) in [(10, 4), (20, 8), (45, 25), (70, 40), (60, 60)] {
        let (found, exact) = (p(above, below), sign_test(above, below));
        let error = (exact * (1.0 - exact) / 10_000.0).sqrt();
        assert!((found - exact).abs() < 4.0 * error + 2e-4, "{above} {below}: {found}, exact {exact}");
    }
    // No assignment reaches it: 1 / (10000 + 1), for either sign.
    assert_eq!((p(200, 0), p(0, 200)), (1.0 / 10_001.0, 1.0 / 10_001.0));
}

#[test]
fn p_values_of_fractions_by_hand() {
    let p = |differences: &[f64]| paired_difference(&apart(differences), 100, Seed(1)).p;
    // The absolute sums of 0.1, 0.2 and 0.3 are 0.6, 0.4, 0.2 and 0: one of four reaches 0.6.
    assert_eq!(p(&[0.1, 0.2, 0.3]), 0.25);
    // They sum to 0, though 0.1 + 0.2 - 0.3 is 5.6e-17 here: every assignment reaches that.
    assert_eq!(p(&[0.1, 0.2, -0.3]), 1.0);
    // 0.6 with 0.3, -0.1 and -0.2, which are 0 together: of eight sums, 1.2, 1.0, 0.8 and twice 0.6 reach 0.6.
    assert_eq!(p(&[0.3, -0.1, -0.2, 0.6]), 0.625);
    // A prompt whose pairs cancel does not differ: one of two assignments of the others is left.
    let cancels = by_cluster([("p", 0.1), ("p", 0.2), ("p", -0.3), ("q", 1.0), ("r", 1.0)]);
    assert_eq!(paired_difference(&cancels, 5, Seed(1)).p, 0.5);
    // 2^3 assignments are more than five: they are drawn.
    let drawn = paired_difference(&apart(&[1.0; 3]), 5, Seed(1)).p;
    assert_eq!((drawn * 6.0).fract(), 0.0);
}

/// Share of data sets without a difference between the methods in which p is at most 0.05. In each, `prompts` prompts have
/// five pairs, whose differences have a common part, normal and of another size for each prompt.
fn share_rejected(sets: usize, prompts: usize, flips: usize, cluster: impl Fn(usize, usize) -> usize + Sync) -> f64 {
    let rejected = |set: &usize| {
        let mut rng = Seed(7).rng("null", &set.to_string());
        let mut normal = || (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
        let mut differences = Vec::new();
        for prompt in 0..prompts {
            let common = normal() * (1.0 + prompt as f64);
            differences.extend((0..5).map(|pair| (cluster(prompt, pair), common + 0.3 * normal())));
        }
        sign_flip_p(&by_cluster(differences), flips, Seed(*set as u64)) <= 0.05
    };
    (0..sets).into_par_iter().filter(rejected).count() as f64 / sets as f64
}

#[test]
fn the_test_has_its_size_over_prompts_and_not_over_pairs() {
    let by_prompt = |prompt: usize, _| prompt;
    // Four standard errors of 1,000 sets with enumerated assignments, and of 400 with drawn ones.
    let (enumerated, drawn) = (share_rejected(1000, 9, 512, by_prompt), share_rejected(400, 30, 399, by_prompt));
    assert!((enumerated - 0.05).abs() < 0.028, "{enumerated}");
    assert!((drawn - 0.05).abs() < 0.044, "{drawn}");
    let of_pairs = share_rejected(200, 9, 199, |prompt, pair| 5 * prompt + pair);
    assert!(of_pairs > 0.2, "pairs as independent: {of_pairs}");
}

#[test]
fn without_examples_or_numbers_nothing_is_told() {
    for none in [
        paired_difference(&[], 10, Seed(1)),
        paired_difference(&apart(&[1.0]), 0, Seed(1)),
        paired_difference(&apart(&[1.0, f64::NAN]), 10, Seed(1)),
    ] {
        assert!(none.interval.estimate.is_nan() && none.interval.low.is_nan() && none.p.is_nan(), "{none:?}");
    }
    let one = paired_difference(&by_cluster([("p", 1.0), ("p", 0.0)]), 10, Seed(1));
    assert_eq!((one.interval.estimate, one.interval.n, one.p), (0.5, 2, 1.0));
    assert!(one.interval.low.is_nan() && one.interval.high.is_nan(), "one prompt says nothing of others: {one:?}");
}
