//! An objective of one's own, without and with codes: the hinge loss `max(0, 1 - beta D)`.
//!
//! `cargo run --release --example custom_objective`
//!
//! An objective is a function of the sequence log-probabilities of a batch: one loss and two implicit rewards for each
//! element. LPC asks it for the loss of every pair under every code, and takes the marginal over codes.

use lpc_pipe::Result;
use lpc_pipe::lpc::{LatentKind, LpcConfig};
use lpc_pipe::objective::{CustomObjective, ObjectiveConfig, PreferenceLogps, PreferenceLosses};
use lpc_pipe::pipeline::prepare;
use lpc_pipe::pipeline::recipe::PrepareConfig;
use lpc_pipe::pipeline::train::{self, Ended};
use lpc_pipe::progress::Silent;
use lpc_pipe::seed::Seed;
use lpc_pipe::synth::{self, SynthConfig};
use lpc_pipe::train::TrainConfig;

/// SLiC's calibration loss (Zhao et al. 2023) on DPO's margin: `max(0, 1 - beta D)`.
fn hinge(config: &ObjectiveConfig, logps: &PreferenceLogps) -> Result<PreferenceLosses> {
    let chosen_rewards = ((&logps.chosen_logps - &logps.reference_chosen_logps)? * config.beta)?;
    let rejected_rewards = ((&logps.rejected_logps - &logps.reference_rejected_logps)? * config.beta)?;
    let losses = (&chosen_rewards - &rejected_rewards)?.affine(-1.0, 1.0)?.relu()?;
    Ok(PreferenceLosses { losses, chosen_rewards, rejected_rewards })
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let seed = Seed(7);

    let corpus = SynthConfig { rows: 300, out: path("raw"), ..SynthConfig::default() };
    synth::write(&corpus, seed, &Silent)?;
    let mut data = PrepareConfig { input: vec![path("raw")], out: path("data"), ..PrepareConfig::default() };
    data.pairs.test_fraction = 0.25;
    prepare::run(&data, seed, &Silent)?;

    let mut run =
        TrainConfig { data: path("data"), model: "tiny:16x1".into(), batch: 32, lr: 1e-3, ..TrainConfig::default() };
    // What the function does not say is DPO's: there is a reference, and beta is 0.1.
    run.objective.custom = Some(CustomObjective { name: "hinge", losses: hinge });
    for latent in [LatentKind::None, LatentKind::Lpc] {
        run.lpc.latent = latent;
        run.lpc.codes = if latent == LatentKind::Lpc { 8 } else { LpcConfig::default().codes };
        run.out = path(&latent.name());
        let Ended::Finished(summary) = train::run(&run, seed, false, &Silent)? else {
            return Err("interrupted".into());
        };
        println!(
            "{} with latent {}: accuracy {:.3} on {} test pairs, {} codes used",
            summary.objective, summary.latent, summary.eval_accuracy, summary.n_eval, summary.codes_used
        );
    }
    Ok(())
}
