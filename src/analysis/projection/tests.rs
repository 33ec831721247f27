use super::super::codes::tests::lists;
use super::*;
use crate::analysis::associations::pair_labels;

/// `n` pairs of two sources, each with posteriors of its own, and every third label flipped.
fn frame(n: usize) -> DataFrame {
    let mut frame = df!(
        "id" => (0..n).map(|i| format!("p{i}")).collect::<Vec<_>>(),
        "split" => (0..n).map(|i| if i % 5 == 0 { "test" } else { "train" }).collect::<Vec<_>>(),
        "source" => (0..n).map(|i| if i % 2 == 0 { "a" } else { "b" }).collect::<Vec<_>>(),
        "flipped" => (0..n).map(|i| i % 3 == 0).collect::<Vec<_>>(),
        "posterior_code" => (0..n).map(|i| (i % 2) as u32).collect::<Vec<_>>(),
    )
    .unwrap();
    let weights = |i: usize| {
        let small = 0.02 + 0.1 * (0.5 + 0.5 * (i as f32 * 1.7).sin());
        let rest = 0.01 + 0.05 * (0.5 + 0.5 * (i as f32 * 0.3).cos());
        let large = 1.0 - small - rest;
        if i.is_multiple_of(2) { [large, small, rest] } else { [small, large, rest] }
    };
    frame.with_column(lists("posterior", &(0..n).map(weights).collect::<Vec<_>>())).unwrap();
    frame
}

fn projected(frame: &DataFrame, method: Method, at_most: usize, seed: u64) -> Option<Projection> {
    project(frame, &pair_labels(frame).unwrap(), method, at_most, Seed(seed), &|| {}).unwrap()
}

#[test]
fn sources_with_posteriors_of_their_own_are_apart_and_flips_are_not() {
    let frame = frame(60);
    let found = projected(&frame, Method::Tsne, 100, 1).unwrap();
    assert_eq!((found.n, found.pairs, found.perplexity), (60, 60, Some(59.0 / 3.0)));
    let [source, flipped] = found.colours.as_slice() else { panic!("{found:?}") };
    assert!(source.silhouette.unwrap() > 0.8 && flipped.silhouette.unwrap() < 0.1, "{:?}", found.colours);
    assert_eq!((source.nmi, source.ami, source.n, source.labels), (Some(1.0), Some(1.0), 60, 2));
    assert!(flipped.ami.unwrap() < 0.1);
    assert!(found.explained[0] > 0.9, "{:?}", found.explained);
    let plane = Points::new(found.tsne.concat(), 2);
    assert!(silhouettes(&plane, &[&source.points.rows])[0].unwrap() > 0.5);
    let table = found.frame(&frame).unwrap();
    let names = ["id", "split", "source", "flipped", "pca_1", "pca_2", "tsne_1", "tsne_2"];
    assert_eq!(
        (table.get_column_names().into_iter().map(|n| n.as_str()).collect::<Vec<_>>(), table.height()),
        (names.to_vec(), 60)
    );
    assert_eq!(table.column("tsne_2").unwrap().f64().unwrap().get(7), Some(found.tsne[7][1]));
    assert_eq!(table.column("pca_1").unwrap().f64().unwrap().get(3), Some(found.pca[3][0]));
}

#[test]
fn a_sample_is_a_function_of_seed_and_id() {
    let long = frame(60);
    let ids = |found: &Projection| found.rows.iter().map(|row| format!("p{row}")).collect::<Vec<_>>();
    let found = projected(&long, Method::Pca, 20, 1).unwrap();
    assert_eq!((found.n, found.pairs, found.tsne.len(), found.kl), (20, 60, 0, None));
    assert_eq!(found.colours[0].n, 20);
    assert!(found.rows.windows(2).all(|w| w[0] < w[1]));
    // The same pairs in another order: the same sample.
    let turned = long.reverse();
    let again = projected(&turned, Method::Pca, 20, 1).unwrap();
    let mut of_turned: Vec<String> = again.rows.iter().map(|row| format!("p{}", 59 - row)).collect();
    of_turned.reverse();
    assert_eq!(ids(&found), of_turned);
    assert_ne!(ids(&found), ids(&projected(&long, Method::Pca, 20, 2).unwrap()));
    // A larger sample has the smaller one in it.
    let larger = projected(&long, Method::Pca, 30, 1).unwrap();
    assert!(found.rows.iter().all(|row| larger.rows.contains(row)));
    let table = found.frame(&long).unwrap();
    assert_eq!(table.column("tsne_1").unwrap().null_count(), 20);
}

#[test]
fn two_codes_lie_on_a_line_and_are_laid_out_all_the_same() {
    let mut line = frame(40);
    let weights: Vec<[f32; 2]> = (0..40).map(|i| [i as f32 / 64.0, 1.0 - i as f32 / 64.0]).collect();
    line.with_column(lists("posterior", &weights)).unwrap();
    let found = projected(&line, Method::Tsne, 100, 1).unwrap();
    assert!(found.pca.iter().all(|c| c[1].abs() < 1e-9));
    assert!(found.tsne.iter().flatten().all(|x| x.is_finite()));
    let height = found.tsne.iter().map(|c| c[1].abs()).fold(0.0, f64::max);
    assert!(height > 0.1, "the noise on the start leaves the line: {height}");
    assert_eq!(found, projected(&line, Method::Tsne, 100, 1).unwrap());
    assert_ne!(found.tsne, projected(&line, Method::Tsne, 100, 2).unwrap().tsne);
}

#[test]
fn nothing_to_lay_out_is_none() {
    assert_eq!(projected(&frame(LEAST_POINTS - 1), Method::Tsne, 100, 1), None, "too few");
    assert_eq!(projected(&frame(40), Method::None, 100, 1), None);
    let mut same = frame(40);
    same.with_column(lists("posterior", &[[0.3f32, 0.3, 0.4]; 40])).unwrap();
    assert_eq!(projected(&same, Method::Pca, 100, 1), None, "all posteriors are the same");
    same.with_column(lists("posterior", &[&[] as &[f32]; 40])).unwrap();
    assert_eq!(projected(&same, Method::Pca, 100, 1), None, "a latent without codes");
}
