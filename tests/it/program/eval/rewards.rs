//! Rewards that are means over tokens.

use crate::support::{Sandbox, lists, numbers, texts};

#[test]
fn accuracy_of_means_over_tokens_is_that_of_another_reward() {
    let sandbox = Sandbox::new();
    sandbox.prepared(80);
    sandbox.ok("train --data data --model tiny:32x1 --objective sft --max-steps 6 --lr 3e-3 --out sft --quiet");
    let eval = |run: &str, flags: &str| {
        let told = sandbox.ok(&format!("eval --model {run} --task preference --data data --json {flags}"));
        (told.json()["results"]["preference"].clone(), told.stderr.contains("the run was trained and measured by"))
    };
    let train = "train --data data --model sft/model --latent none --batch 8 --epochs 3 --lr 1e-3 --quiet";
    for (run, flags, reward, said) in [
        ("ipo", "--objective ipo", "implicit-mean", "log-ratio of the model and sft/model for each token"),
        ("simpo", "--objective simpo", "mean", "log-probability for each token"),
    ] {
        sandbox.ok(&format!("{train} {flags} --out {run}"));
        let (_, noted) = eval(run, "");
        assert!(noted, "{run}");
        let (found, noted) = eval(run, &format!("--reward {reward} --out eval-{run}"));
        assert_eq!((&found["acc"], noted), (&sandbox.json(&format!("{run}/summary.json"))["eval_accuracy"], false));
        assert_eq!(found["reward"], said);
        // Rewards are those of the run, up to beta.
        let (items, posteriors) = (
            sandbox.parquet(&format!("eval-{run}/items.parquet")),
            sandbox.parquet(&format!("{run}/posteriors.parquet")),
        );
        let ids: Vec<String> = texts(&posteriors, "id");
        let margins = numbers(&posteriors, "margin");
        let ratios: Vec<f64> = texts(&items, "id")
            .iter()
            .zip(lists(&items, "scores"))
            .map(|(id, s)| (s[0] - s[1]) / margins[ids.iter().position(|own| own == id).expect("the pair")])
            .collect();
        assert!(ratios.iter().all(|ratio| (ratio / ratios[0] - 1.0).abs() < 0.02), "{run}: {ratios:?}");
    }
    sandbox.ok(&format!("{train} --objective ipo --set train.objective.reduction=sum --out sums"));
    let (found, noted) = eval("sums", "");
    assert_eq!((&found["acc"], noted), (&sandbox.json("sums/summary.json")["eval_accuracy"], false));
}
