//! Clean pairs -> pairs with observed labels, and the ledger of the truth beside them.
//!
//! A flip swaps the two sides with all that belongs to them. It is decided by (noise seed, id)
//! alone, so flips are nested: the rows flipped at a rate of 0.1 are among those at 0.2.

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Fault, Result};
use crate::message::{MessageColumn, MessageColumnBuilder, USER};
use crate::schema::col;
use crate::seed::Seed;

/// Which rows are the likelier to be flipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum FlipKind {
    /// All alike.
    #[default]
    Uniform,
}

impl FlipKind {
    /// As written in the column `noise_kind`.
    pub fn name(self) -> &'static str {
        match self {
            FlipKind::Uniform => "uniform",
        }
    }
}

/// `noise_kind` where no noise was asked for.
pub const NONE: &str = "none";

/// Label noise.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct NoiseConfig {
    /// Probability with which a label is flipped, in [0, 1]. Default: 0.
    pub flip_rate: f64,
    /// Which rows are the likelier to be flipped. Default: `uniform`.
    pub flip_kind: FlipKind,
    /// Text appended, after a space, to the last user message of flipped rows, as the paper's `[FLIP]`.
    /// Default: "" (flips are not marked).
    pub flip_marker: String,
    /// Seed of the flips; 0 (default) is the run's seed.
    pub seed: u64,
}

impl Default for NoiseConfig {
    fn default() -> Self {
        NoiseConfig { flip_rate: 0.0, flip_kind: FlipKind::Uniform, flip_marker: String::new(), seed: 0 }
    }
}

impl NoiseConfig {
    /// What is wrong with these settings, keys under `prefix`.
    pub fn faults(&self, prefix: &str) -> Vec<Fault> {
        if (0.0..=1.0).contains(&self.flip_rate) {
            return Vec::new();
        }
        vec![Fault {
            origin: String::new(),
            key: format!("{prefix}flip_rate"),
            message: format!("must be between 0 and 1, got {}", self.flip_rate),
        }]
    }

    /// The seed of the flips, given the run's.
    pub fn seed_of(&self, run: Seed) -> Seed {
        if self.seed == 0 { run } else { Seed(self.seed) }
    }

    /// Whether the label of the pair with this id is flipped.
    pub fn flips(&self, id: &str, run: Seed) -> bool {
        match self.flip_kind {
            FlipKind::Uniform => self.seed_of(run).unit("flip", id) < self.flip_rate,
        }
    }
}

/// Applies label noise to the columns of [`crate::schema::PAIR_COLUMNS`]; further columns are left alone.
///
/// Flipped rows have their sides, scores and models swapped, the margin's sign changed, `flipped`
/// turned over, and the marker appended to the prompt. `id`, `prompt_id` and `split` stay those of
/// the clean pair. With a rate above 0 every row gets `noise_kind` and `noise_p`.
///
/// # Errors
/// [`crate::Error::Frame`] where a column is missing.
pub fn apply(mut frame: DataFrame, config: &NoiseConfig, seed: Seed) -> Result<DataFrame> {
    if config.flip_rate <= 0.0 {
        return Ok(frame);
    }
    let rows = frame.height();
    let ids = frame.column(col::ID)?.str()?;
    let flip: Vec<bool> = ids.iter().map(|id| config.flips(id.unwrap_or(""), seed)).collect();

    for (left, right) in [
        (col::CHOSEN, col::REJECTED),
        (col::SCORE_CHOSEN, col::SCORE_REJECTED),
        (col::CHOSEN_MODEL, col::REJECTED_MODEL),
    ] {
        let (left, right) = swapped(frame.column(left)?, frame.column(right)?, &flip)?;
        frame.with_column(left)?;
        frame.with_column(right)?;
    }
    let margins = frame.column(col::MARGIN)?.f64()?;
    let margins = margins.iter().zip(&flip).map(|(m, f)| m.map(|m| if *f { -m } else { m }));
    let margins = Float64Chunked::from_iter_options(col::MARGIN.into(), margins.collect::<Vec<_>>().into_iter());
    let before = frame.column(col::FLIPPED)?.bool()?;
    let flipped: Vec<bool> = before.iter().zip(&flip).map(|(b, f)| b.unwrap_or(false) != *f).collect();
    if !config.flip_marker.is_empty() {
        let marked = marked(frame.column(col::PROMPT)?, &flip, &config.flip_marker)?;
        frame.with_column(marked)?;
    }
    frame.with_column(margins.into_column())?;
    frame.with_column(BooleanChunked::from_slice(col::FLIPPED.into(), &flipped).into_column())?;
    frame.with_column(StringChunked::full(col::NOISE_KIND.into(), config.flip_kind.name(), rows).into_column())?;
    frame.with_column(Float64Chunked::full(col::NOISE_P.into(), config.flip_rate, rows).into_column())?;
    Ok(frame)
}

/// Two columns with the rows in `flip` exchanged, whatever their type.
fn swapped(left: &Column, right: &Column, flip: &[bool]) -> Result<(Column, Column)> {
    let mut both = left.clone();
    both.append(right)?;
    let both = both.rechunk();
    let n = flip.len() as IdxSize;
    let pick = |own: IdxSize, other: IdxSize| -> Vec<IdxSize> {
        (0..n).zip(flip).map(|(i, f)| i + if *f { other } else { own }).collect()
    };
    let new_left = both.take_slice(&pick(0, n))?.with_name(left.name().clone());
    let new_right = both.take_slice(&pick(n, 0))?.with_name(right.name().clone());
    Ok((new_left, new_right))
}

/// Prompts with the marker at the end of the last user message (of the last message, where there
/// is no user's) of the rows in `flip`.
fn marked(prompts: &Column, flip: &[bool], marker: &str) -> Result<Column> {
    let open = MessageColumn::open(prompts)?;
    let mut builder = MessageColumnBuilder::new(prompts.name(), flip.len());
    for (i, flip) in flip.iter().enumerate() {
        if !flip {
            builder.push(open.row(i));
            continue;
        }
        let count = open.row(i).len();
        let at = open.row(i).rposition(|(role, _)| role == USER).unwrap_or(count.saturating_sub(1));
        let with = open.row(i).nth(at).map(|(_, content)| format!("{content} {marker}")).unwrap_or_default();
        let rows = open.row(i).enumerate();
        builder.push(rows.map(|(k, (role, content))| (role, if k == at { with.as_str() } else { content })));
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::Message;

    /// `n` pairs with distinct texts; scores 2 over 1, the last row without scores.
    fn pairs(n: usize) -> DataFrame {
        let texts = |name: &str, prefix: &str| {
            let mut builder = MessageColumnBuilder::new(name, n);
            for i in 0..n {
                let text = format!("{prefix}{i}");
                builder.push([("system", "s"), ("user", text.as_str()), ("assistant", "x")]);
            }
            builder.finish().unwrap()
        };
        let scores = |name: &str, x: f64| {
            let all: Vec<Option<f64>> = (0..n).map(|i| (i + 1 < n).then_some(x)).collect();
            Column::new(name.into(), all)
        };
        let models = |name: &str, x: &str| Column::new(name.into(), vec![x; n]);
        DataFrame::new(
            n,
            vec![
                Column::new("id".into(), (0..n).map(|i| format!("{i:032x}")).collect::<Vec<_>>()),
                texts("prompt", "p"),
                texts("chosen", "c"),
                texts("rejected", "r"),
                scores("score_chosen", 2.0),
                scores("score_rejected", 1.0),
                scores("margin", 1.0),
                models("chosen_model", "good"),
                models("rejected_model", "bad"),
                BooleanChunked::full("flipped".into(), false, n).into_column(),
                models("noise_kind", "none"),
                Column::new("noise_p".into(), vec![0.0; n]),
            ],
        )
        .unwrap()
    }

    fn at(rate: f64) -> NoiseConfig {
        NoiseConfig { flip_rate: rate, ..NoiseConfig::default() }
    }

    fn flipped(frame: &DataFrame) -> Vec<bool> {
        frame.column("flipped").unwrap().bool().unwrap().iter().flatten().collect()
    }

    fn texts(frame: &DataFrame, name: &str) -> Vec<Vec<Message>> {
        let open = MessageColumn::open(frame.column(name).unwrap()).unwrap();
        (0..open.len()).map(|i| open.messages(i)).collect()
    }

    #[test]
    fn a_flip_swaps_everything_that_belongs_to_a_side() {
        let clean = pairs(3);
        let noisy = apply(clean.clone(), &at(1.0), Seed(1)).unwrap();
        assert_eq!(texts(&noisy, "chosen"), texts(&clean, "rejected"));
        assert_eq!(texts(&noisy, "rejected"), texts(&clean, "chosen"));
        assert_eq!(texts(&noisy, "prompt"), texts(&clean, "prompt"));
        let number = |name: &str, i| noisy.column(name).unwrap().f64().unwrap().get(i);
        assert_eq!((number("score_chosen", 0), number("score_rejected", 0)), (Some(1.0), Some(2.0)));
        assert_eq!((number("margin", 0), number("margin", 2)), (Some(-1.0), None));
        assert_eq!(noisy.column("chosen_model").unwrap().str().unwrap().get(1), Some("bad"));
        assert_eq!(noisy.column("noise_kind").unwrap().str().unwrap().get(1), Some("uniform"));
        assert_eq!(number("noise_p", 1), Some(1.0));
        assert_eq!(noisy.get_column_names(), clean.get_column_names());
    }

    #[test]
    fn the_marker_goes_to_the_last_user_message_of_flipped_rows_only() {
        let config = NoiseConfig { flip_marker: "[FLIP]".into(), ..at(0.5) };
        let clean = pairs(40);
        let noisy = apply(clean.clone(), &config, Seed(3)).unwrap();
        let flips = flipped(&noisy);
        assert!(flips.contains(&true) && flips.contains(&false));
        for (i, prompt) in texts(&noisy, "prompt").iter().enumerate() {
            let wanted = if flips[i] { format!("p{i} [FLIP]") } else { format!("p{i}") };
            assert_eq!(prompt[1], Message::user(wanted));
            assert_eq!((prompt[0].content.as_str(), prompt[2].content.as_str()), ("s", "x"));
        }
    }

    #[test]
    fn no_rate_no_change_and_a_seed_of_its_own() {
        let clean = pairs(5);
        assert!(apply(clean.clone(), &at(0.0), Seed(1)).unwrap().equals_missing(&clean));
        let own = NoiseConfig { seed: 9, ..at(0.5) };
        assert!((0..64).all(|i| own.flips(&i.to_string(), Seed(1)) == own.flips(&i.to_string(), Seed(2))));
        assert!((0..64).any(|i| at(0.5).flips(&i.to_string(), Seed(1)) != at(0.5).flips(&i.to_string(), Seed(2))));
        assert_eq!(at(1.5).faults("noise.")[0].to_string(), "noise.flip_rate: must be between 0 and 1, got 1.5");
        assert_eq!(at(f64::NAN).faults("noise.").len(), 1);
    }

    #[test]
    fn the_realised_rate_is_the_one_asked_for() {
        let flips = (0..10_000).filter(|i| at(0.2).flips(&format!("{i:032x}"), Seed(5))).count();
        // Five standard deviations of Binomial(10000, 0.2).
        assert!((flips as f64 - 2000.0).abs() < 200.0, "{flips}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn flipping_twice_is_nothing(rate in 0.01f64..=1.0, seed in any::<u64>(), n in 1usize..20) {
            let clean = pairs(n);
            let once = apply(clean.clone(), &at(rate), Seed(seed)).unwrap();
            let twice = apply(once, &at(rate), Seed(seed)).unwrap();
            let noise = ["noise_kind", "noise_p"];
            prop_assert!(twice.drop_many(noise).equals_missing(&clean.drop_many(noise)));
        }

        #[test]
        fn flips_are_nested(low in 0.0f64..=1.0, high in 0.0f64..=1.0, seed in any::<u64>(), id in ".*") {
            let (low, high) = if low <= high { (low, high) } else { (high, low) };
            prop_assert!(!at(low).flips(&id, Seed(seed)) || at(high).flips(&id, Seed(seed)));
        }
    }
}
