//! Parameters of each latent: names, shapes, where they start.
//!
//! `gaussian` and `mlp` are compared with `lpc`, and should win or lose by what
//! they are, not by their size: the number of directions of the one and the
//! width of the other are chosen so that their number of parameters is as near
//! as possible to that of `lpc` with the same K and features.

use super::{Features, LatentKind, LpcConfig, names};

/// Shapes and initial values of the latent parameters: (name, shape, standard deviation); the mean is 0.
///
/// `row_norm` is the root mean square norm of the head's rows: a code's effect on the logits,
/// W e_k, then has the standard deviation `code_init` whatever the model's width and scale.
pub fn shapes(config: &LpcConfig, hidden: usize, row_norm: f64) -> Vec<(String, Vec<usize>, f64)> {
    let vector = config.code_init / row_norm.max(1e-12);
    let mut out = Vec::new();
    match config.latent {
        LatentKind::Auto | LatentKind::None => {}
        LatentKind::Lpc | LatentKind::LpcHard | LatentKind::LpcReliable => {
            out.push((names::CODEBOOK.to_string(), vec![config.codes, hidden], vector));
            inference(&mut out, config, hidden, config.codes);
            if config.latent == LatentKind::LpcReliable {
                out.push((names::FLIP_LOGITS.to_string(), vec![config.codes], 0.0));
            }
        }
        LatentKind::Gaussian => {
            let d = directions(config, hidden);
            // d independent terms, where codes make a mixture: their sum has the deviation of one code.
            out.push((names::DIRECTIONS.to_string(), vec![d, hidden], vector / (d as f64).sqrt()));
            inference(&mut out, config, hidden, 2 * d);
        }
        LatentKind::Mlp => {
            let width = mlp_width(config, hidden);
            network(&mut out, names::MLP, [hidden, width, hidden], vector / (width as f64).sqrt());
        }
        // From 0: the policy starts at its reference.
        LatentKind::Bias => out.push((names::BIAS.to_string(), vec![hidden], 0.0)),
    }
    out
}

/// Prior's and posterior's network.
fn inference(out: &mut Vec<(String, Vec<usize>, f64)>, config: &LpcConfig, hidden: usize, outputs: usize) {
    let last = config.head_init * (1.0 / hidden as f64).sqrt();
    network(out, names::PRIOR, [hidden, hidden, outputs], last);
    network(out, names::POSTERIOR, [feature_width(config, hidden), hidden, outputs], last);
}

/// Linear - SiLU - Linear of these widths, `last` the deviation of its last layer.
fn network(out: &mut Vec<(String, Vec<usize>, f64)>, name: &str, [inputs, width, outputs]: [usize; 3], last: f64) {
    out.push((format!("{name}.0.weight"), vec![width, inputs], (1.0 / inputs as f64).sqrt()));
    out.push((format!("{name}.0.bias"), vec![width], 0.0));
    out.push((format!("{name}.2.weight"), vec![outputs, width], last));
    out.push((format!("{name}.2.bias"), vec![outputs], 0.0));
}

fn feature_width(config: &LpcConfig, hidden: usize) -> usize {
    match config.features {
        Features::Concat => 2 * hidden,
        Features::Difference => hidden,
    }
}

/// Numbers in the parameters of a latent part.
pub fn parameters(config: &LpcConfig, hidden: usize) -> usize {
    shapes(config, hidden, 1.0).iter().map(|(_, shape, _)| shape.iter().product::<usize>()).sum()
}

/// `part / unit` to the nearest, at least 1.
fn nearest(part: usize, unit: usize) -> usize {
    ((part + unit / 2) / unit).max(1)
}

/// Directions d of `gaussian`: codes cost `3H + 2` parameters each, a direction `5H + 4`, the rest is the same.
fn directions(config: &LpcConfig, hidden: usize) -> usize {
    nearest(config.codes * (3 * hidden + 2), 5 * hidden + 4)
}

/// Hidden width m of `mlp`, which has `m (2H + 1) + H` parameters.
fn mlp_width(config: &LpcConfig, hidden: usize) -> usize {
    let codes = parameters(&LpcConfig { latent: LatentKind::Lpc, ..config.clone() }, hidden);
    nearest(codes.saturating_sub(hidden), 2 * hidden + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_by_hand() {
        let of = |latent, features| parameters(&LpcConfig { latent, features, codes: 4, ..LpcConfig::default() }, 16);
        use Features::{Concat, Difference};
        // Codebook 4*16; prior 16*16+16 + 16*4+4; posterior 32*16+16 + 16*4+4.
        assert_eq!(of(LatentKind::Lpc, Concat), 64 + 340 + 596);
        assert_eq!(of(LatentKind::LpcHard, Difference), 64 + 340 + 340);
        assert_eq!(of(LatentKind::LpcReliable, Concat), 1000 + 4);
        assert_eq!(of(LatentKind::Bias, Concat), 16);
        assert_eq!(of(LatentKind::None, Concat), 0);
        // d = 2 (200 / 84): 2*16 + 16*16+16 + 16*4+4 + 32*16+16 + 16*4+4.
        assert_eq!(of(LatentKind::Gaussian, Concat), 32 + 340 + 596);
        // m = 30 (984 / 33): 30*33 + 16.
        assert_eq!(of(LatentKind::Mlp, Concat), 1006);
    }

    #[test]
    fn controls_are_as_near_in_size_as_can_be() {
        for features in [Features::Concat, Features::Difference] {
            for codes in [1, 2, 8, 64, 256] {
                for hidden in [16, 64, 576, 4096] {
                    let of = |latent| LpcConfig { latent, codes, features, ..LpcConfig::default() };
                    let wanted = parameters(&of(LatentKind::Lpc), hidden);
                    for (latent, step) in [(LatentKind::Mlp, 2 * hidden + 1), (LatentKind::Gaussian, 5 * hidden + 4)] {
                        let got = parameters(&of(latent), hidden);
                        // Half a step either way; a single code is less than one direction.
                        let most = if codes == 1 { step } else { step.div_ceil(2) };
                        assert!(got.abs_diff(wanted) <= most, "{latent:?} K {codes} H {hidden}: {got} for {wanted}");
                    }
                }
            }
        }
        // At the size of a real model they are within half a percent.
        let config = LpcConfig { latent: LatentKind::Mlp, ..LpcConfig::default() };
        let codes = parameters(&LpcConfig { latent: LatentKind::Lpc, ..config.clone() }, 576) as f64;
        assert!((parameters(&config, 576) as f64 / codes - 1.0).abs() < 0.005);
    }
}
