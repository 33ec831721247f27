//! Parameters of each latent: names, shapes, initial values.
//!
//! `gaussian` and `mlp` are compared with `lpc` at equal size: the number of directions of the one and the width of the
//! other are chosen so that they have as nearly as possible as many parameters as `lpc` with the same K and features.

use super::basis::Basis;
use super::config::{Features, Inference, LatentKind, LpcConfig, Normalise, PriorInput};
use super::names;

/// Shapes and initial values of the latent parameters: (name, shape, standard deviation); the mean is 0.
///
/// A code's entries have the deviation `code_init` times the basis' unit: a fresh code then gives the reward margins of
/// the training pairs the deviation `code_init`, whatever the model's width, its vocabulary, and beta.
pub fn shapes(config: &LpcConfig, basis: &Basis) -> Vec<(String, Vec<usize>, f64)> {
    let (size, width) = (config.code_init * basis.unit, basis.code_width());
    let mut out = Vec::new();
    match config.latent {
        LatentKind::Auto | LatentKind::None | LatentKind::Noise => {}
        LatentKind::Lpc | LatentKind::LpcHard | LatentKind::LpcReliable => {
            out.push((names::CODEBOOK.to_string(), vec![config.codes, width], size));
            inference(&mut out, config, basis, config.codes);
            if config.latent == LatentKind::LpcReliable {
                out.push((names::FLIP_LOGITS.to_string(), vec![config.codes], 0.0));
            }
        }
        LatentKind::Gaussian => {
            let d = directions(config, basis);
            // z is a sum of d independent terms, which is to have the deviation of one code.
            out.push((names::DIRECTIONS.to_string(), vec![d, width], size / (d as f64).sqrt()));
            inference(&mut out, config, basis, 2 * d);
        }
        LatentKind::Mlp => {
            let inner = mlp_width(config, basis);
            prompt_net(&mut out, config, basis, names::MLP, [inner, width], size / (inner as f64).sqrt());
        }
        // 0: the policy starts at its reference.
        LatentKind::Bias => out.push((names::BIAS.to_string(), vec![width], 0.0)),
    }
    out
}

/// Shapes of the tensors of the latent part that training does not change: (name, shape).
pub fn constants(config: &LpcConfig, basis: &Basis) -> Vec<(String, Vec<usize>)> {
    if config.reads_states() && config.normalise == Normalise::Standardise {
        [names::PROMPT_MEAN, names::PROMPT_DEVIATION].map(|name| (name.to_string(), vec![basis.hidden])).to_vec()
    } else {
        Vec::new()
    }
}

/// The prior's network, and the posterior's where it is amortised.
fn inference(out: &mut Vec<(String, Vec<usize>, f64)>, config: &LpcConfig, basis: &Basis, outputs: usize) {
    let last = |width: usize| config.head_init * (1.0 / width as f64).sqrt();
    prompt_net(out, config, basis, names::PRIOR, [config.prior_width, outputs], last(config.prior_width));
    if config.amortised() {
        let hidden = basis.hidden;
        network(out, names::POSTERIOR, [feature_width(config, hidden), hidden, outputs], last(hidden));
    }
}

/// Parameters of a [`PromptNet`](super::network::PromptNet); `last` is the deviation of its last layer. A prior that
/// reads nothing has the last bias alone.
fn prompt_net(
    out: &mut Vec<(String, Vec<usize>, f64)>,
    config: &LpcConfig,
    basis: &Basis,
    name: &str,
    [width, outputs]: [usize; 2],
    last: f64,
) {
    let (states, tokens) = (config.prior_input.states(), config.prior_input.tokens());
    if states {
        out.push((format!("{name}.0.weight"), vec![width, basis.hidden], (1.0 / basis.hidden as f64).sqrt()));
    }
    if tokens {
        // Where no token is frequent enough the table has one row all the same.
        let rows = basis.prior_tokens.len().max(1);
        out.push((format!("{name}.table"), vec![rows, width], (1.0 / rows as f64).sqrt()));
    }
    if states || tokens {
        out.push((format!("{name}.0.bias"), vec![width], 0.0));
        out.push((format!("{name}.2.weight"), vec![outputs, width], last));
    }
    out.push((format!("{name}.2.bias"), vec![outputs], 0.0));
}

/// Parameters of Linear - SiLU - Linear with these widths; `last` is the deviation of its last layer.
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

/// Number of elements of a latent part's parameters.
pub fn parameters(config: &LpcConfig, basis: &Basis) -> usize {
    shapes(config, basis).iter().map(|(_, shape, _)| shape.iter().product::<usize>()).sum()
}

/// `part / unit` to the nearest, at least 1.
fn nearest(part: usize, unit: usize) -> usize {
    ((part + unit / 2) / unit).max(1)
}

/// Parameters of `lpc` with the same K and inputs. The variants below are compared with it.
fn of_codes(config: &LpcConfig, inference: Inference, basis: &Basis) -> usize {
    parameters(&LpcConfig { latent: LatentKind::Lpc, inference, ..config.clone() }, basis)
}

/// Directions d of `gaussian`, which has `d (C + 2 (m + 1) + 2 (H + 1))` parameters beside both networks' first layers:
/// C in a direction, m and H the widths of prior and posterior. It has a network for its posterior, and so has the `lpc`
/// that it is compared with.
fn directions(config: &LpcConfig, basis: &Basis) -> usize {
    let (m, hidden) = (if config.prior_input == PriorInput::None { 0 } else { config.prior_width }, basis.hidden);
    let mut first = Vec::new();
    inference(&mut first, &LpcConfig { latent: LatentKind::Gaussian, ..config.clone() }, basis, 0);
    let fixed: usize = first.iter().map(|(_, shape, _)| shape.iter().product::<usize>()).sum();
    nearest(
        of_codes(config, Inference::Amortised, basis).saturating_sub(fixed),
        basis.code_width() + 2 * (m + 1) + 2 * (hidden + 1),
    )
}

/// Hidden width m of `mlp`, which has `m (I + 1 + C) + C` parameters, I the width of what the prior reads.
fn mlp_width(config: &LpcConfig, basis: &Basis) -> usize {
    let states = if config.prior_input.states() { basis.hidden } else { 0 };
    let tokens = if config.prior_input.tokens() { basis.prior_tokens.len().max(1) } else { 0 };
    let (inputs, width) = (states + tokens, basis.code_width());
    nearest(of_codes(config, config.inference, basis).saturating_sub(width), inputs + 1 + width)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::lpc::CodeSpace;

    fn basis(hidden: usize, tokens: usize) -> Basis {
        let all = |n: usize| (0..n as u32).collect::<Vec<u32>>();
        Basis { hidden, code_tokens: (tokens > 0).then(|| Arc::new(all(tokens))), prior_tokens: all(tokens), unit: 1.0 }
    }

    /// The paper's networks.
    fn paper(latent: LatentKind, features: Features) -> LpcConfig {
        LpcConfig {
            latent,
            features,
            codes: 4,
            inference: Inference::Amortised,
            code_space: CodeSpace::Hidden,
            prior_input: PriorInput::States,
            prior_width: 16,
            ..LpcConfig::default()
        }
    }

    #[test]
    fn parameters_by_hand() {
        let of = |latent, features| parameters(&paper(latent, features), &basis(16, 0));
        use Features::{Concat, Difference};
        // Codebook 4*16; prior 16*16+16 + 16*4+4; posterior 32*16+16 + 16*4+4.
        assert_eq!(of(LatentKind::Lpc, Concat), 64 + 340 + 596);
        assert_eq!(of(LatentKind::LpcHard, Difference), 64 + 340 + 340);
        assert_eq!(of(LatentKind::LpcReliable, Concat), 1000 + 4);
        assert_eq!(of(LatentKind::Bias, Concat), 16);
        assert_eq!(of(LatentKind::None, Concat), 0);
        assert_eq!(of(LatentKind::Noise, Concat), 0);
        // d = 2 (200 / 84): 2*16 + 16*16+16 + 16*4+4 + 32*16+16 + 16*4+4.
        assert_eq!(of(LatentKind::Gaussian, Concat), 32 + 340 + 596);
        // m = 30 (984 / 33): 30*33 + 16.
        assert_eq!(of(LatentKind::Mlp, Concat), 1006);
        // Bayes' posterior has no network; biases of 10 tokens, a table of 10: 4*10 + 10*8 + 8 + 8*4 + 4.
        let ours = LpcConfig { latent: LatentKind::Lpc, codes: 4, prior_width: 8, ..LpcConfig::default() };
        assert_eq!(parameters(&ours, &basis(16, 10)), 40 + 80 + 8 + 36);
        // A static mixture: the codes and their weights.
        assert_eq!(parameters(&LpcConfig { prior_input: PriorInput::None, ..ours }, &basis(16, 10)), 44);
    }

    #[test]
    fn controls_are_as_near_in_size_as_can_be() {
        for inference in [Inference::Bayes, Inference::Amortised] {
            for features in [Features::Concat, Features::Difference] {
                for codes in [8, 64, 256] {
                    for (hidden, tokens) in [(64, 0), (64, 512), (576, 0)] {
                        let basis = basis(hidden, tokens);
                        let of = |latent| LpcConfig { codes, inference, ..paper(latent, features) };
                        let wanted = parameters(&of(LatentKind::Lpc), &basis);
                        let width = basis.code_width();
                        let mlp = parameters(&of(LatentKind::Mlp), &basis);
                        assert!(mlp.abs_diff(wanted) <= (hidden + 1 + width).div_ceil(2), "{mlp} for {wanted}");
                        let amortised = LpcConfig { inference: Inference::Amortised, ..of(LatentKind::Lpc) };
                        let wanted = parameters(&amortised, &basis);
                        let gaussian = parameters(&of(LatentKind::Gaussian), &basis);
                        let step = width + 2 * 17 + 2 * (hidden + 1);
                        assert!(gaussian.abs_diff(wanted) <= step.div_ceil(2), "{gaussian} for {wanted}");
                    }
                }
            }
        }
    }
}
