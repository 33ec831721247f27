//! What is known of every training pair: of models that were trained without it, of the audited run, and of the data.

use std::collections::{BTreeMap, HashMap};

use polars::prelude::*;

use crate::analysis::tables::{codes, flags, numbers, texts};
use crate::error::{Error, Result};
use crate::schema::{SPLITS, col, posterior};

/// One training pair, its label as observed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PairSignals {
    /// Pair id.
    pub id: String,
    /// Prompt id.
    pub prompt_id: String,
    /// Source tag.
    pub source: String,
    /// Whether noise was put into the label; false where nothing is known.
    pub flipped: bool,
    /// Log-odds of the observed order by models trained without the pair, mean over the repeats, nats.
    pub log_odds: f64,
    /// Their implicit reward margin with the prior's z, mean over the repeats.
    pub cross_margin: f64,
    /// KL of their posterior, which has seen the label, from their prior; mean over the repeats, nats.
    pub cross_kl: f64,
    /// For each repeat, the model that was trained without the pair and its prior's most probable code. The codes of
    /// different models have nothing in common.
    pub codes: Vec<(usize, u32)>,
    /// The same margin after each epoch, mean over the epochs and the repeats. None where it was not recorded.
    pub cross_area: Option<f64>,
    /// Area under the margin: mean over the epochs of the models that were trained on the pair, and over these models.
    /// None where they were not recorded.
    pub area_under_margin: Option<f64>,
    /// Implicit reward margin of the audited run, which has trained on the pair.
    pub margin: Option<f64>,
    /// The audited run's KL of the posterior from the prior, nats.
    pub kl: Option<f64>,
    /// Summed reference log-probability of chosen minus rejected, nats.
    pub reference_margin: Option<f64>,
    /// Score of chosen minus that of rejected.
    pub score_margin: Option<f64>,
}

/// What the model of a fold says.
#[derive(Debug, Clone)]
pub struct FoldModel {
    /// Its posteriors, those of the pairs that it was not trained on among them: [`crate::schema::run::POSTERIORS`].
    pub posteriors: DataFrame,
    /// Margins of its pairs after each epoch: [`crate::schema::run::DYNAMICS`]. None where they
    /// were not recorded.
    pub dynamics: Option<DataFrame>,
}

/// Reads what is known of the training pairs: `folds` has the folds of each repeat, `own` the posteriors of the audited
/// run, `pairs` the pairs of the training split. In the order of `pairs`.
///
/// # Errors
/// [`Error::Run`] where a pair was held out by no fold or by several; as [`texts`] and [`numbers`].
pub fn read(folds: &[Vec<FoldModel>], own: &DataFrame, pairs: &DataFrame) -> Result<Vec<PairSignals>> {
    let (ids, prompts) = (texts(pairs, col::ID)?, texts(pairs, col::PROMPT_ID)?);
    let (sources, flipped) = (texts(pairs, col::SOURCE)?, flags(pairs, col::FLIPPED)?);
    let scores = numbers(pairs, col::MARGIN)?;
    let row_of: HashMap<&str, usize> = ids.iter().enumerate().map(|(i, id)| (id.as_str(), i)).collect();
    let finite = |x: f64| x.is_finite().then_some(x);
    let mut found: Vec<PairSignals> = (0..ids.len())
        .map(|i| PairSignals {
            id: ids[i].clone(),
            prompt_id: prompts[i].clone(),
            source: sources[i].clone(),
            flipped: flipped[i],
            score_margin: finite(scores[i]),
            ..PairSignals::default()
        })
        .collect();
    let share = 1.0 / folds.len().max(1) as f64;
    let mut model = 0;
    for (repeat, models) in folds.iter().enumerate() {
        for FoldModel { posteriors: frame, .. } in models {
            model += 1;
            let split = texts(frame, col::SPLIT)?;
            let (ids, margins, kl) =
                (texts(frame, col::ID)?, numbers(frame, col::MARGIN)?, numbers(frame, posterior::KL)?);
            let (codes, log_odds) = (codes(frame, posterior::PRIOR_CODE)?, log_odds(frame, &margins)?);
            for i in (0..ids.len()).filter(|&i| split[i] == SPLITS[1]) {
                let Some(&row) = row_of.get(ids[i].as_str()) else {
                    return Err(Error::run(format!("pair {}: not among the training pairs", ids[i])));
                };
                let pair = &mut found[row];
                if pair.codes.len() > repeat {
                    return Err(Error::run(format!("pair {}: held out by two folds", ids[i])));
                }
                pair.codes.push((model, codes[i]));
                pair.log_odds += share * log_odds[i];
                pair.cross_margin += share * margins[i];
                pair.cross_kl += share * kl[i];
            }
        }
        if let Some(pair) = found.iter().find(|pair| pair.codes.len() <= repeat) {
            return Err(Error::run(format!("pair {}: held out by no fold", pair.id)));
        }
    }
    for (row, area) in areas_under_margin(folds, SPLITS[0], &row_of)? {
        found[row].area_under_margin = Some(area);
    }
    for (row, area) in areas_under_margin(folds, SPLITS[1], &row_of)? {
        found[row].cross_area = Some(area);
    }
    let (ids, margins, kl) = (texts(own, col::ID)?, numbers(own, col::MARGIN)?, numbers(own, posterior::KL)?);
    let reference = [posterior::REF_CHOSEN, posterior::REF_REJECTED].map(|name| numbers(own, name));
    let [chosen, rejected] = reference;
    let (chosen, rejected) = (chosen?, rejected?);
    for (i, id) in ids.iter().enumerate() {
        let Some(&row) = row_of.get(id.as_str()) else { continue };
        let pair = &mut found[row];
        (pair.margin, pair.kl) = (finite(margins[i]), finite(kl[i]));
        pair.reference_margin = finite(chosen[i] - rejected[i]);
    }
    Ok(found)
}

/// For each row, the mean of its margins after all epochs of all models that were trained on it (the split `train`), or
/// of those that were not (`test`).
///
/// # Source
/// Pleiss et al. 2020, "Identifying mislabeled data using the area under the margin ranking", Eq. 2: the mean over epochs
/// of an example's margin while it is trained on; here the margin is the implicit reward margin, over several models.
fn areas_under_margin(
    folds: &[Vec<FoldModel>],
    wanted: &str,
    row_of: &HashMap<&str, usize>,
) -> Result<BTreeMap<usize, f64>> {
    let mut sums: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for frame in folds.iter().flatten().filter_map(|fold| fold.dynamics.as_ref()) {
        let of = texts(frame, col::ID)?.into_iter().zip(texts(frame, col::SPLIT)?).zip(numbers(frame, col::MARGIN)?);
        for ((id, _), margin) in of.filter(|((_, split), _)| split == wanted) {
            let Some(&row) = row_of.get(id.as_str()) else {
                return Err(Error::run(format!("pair {id}: not among the training pairs")));
            };
            let (sum, n) = sums.entry(row).or_default();
            (*sum, *n) = (*sum + margin, *n + 1.0);
        }
    }
    Ok(sums.into_iter().map(|(row, (sum, n))| (row, sum / n)).collect())
}

/// Log-odds of the observed order: of the mixture over codes `sum_k p_k sigmoid(m_k)`, where the margins of single
/// codes are known, else the margin itself.
fn log_odds(frame: &DataFrame, margins: &[f64]) -> Result<Vec<f64>> {
    let lists = |name: &str| -> Result<Vec<Vec<f64>>> {
        let lists = frame.column(name)?.list()?;
        let row = |i: usize| -> Result<Vec<f64>> {
            let Some(values) = lists.get_as_series(i) else { return Ok(Vec::new()) };
            Ok(values.cast(&DataType::Float64)?.f64()?.iter().map(|v| v.unwrap_or(f64::NAN)).collect())
        };
        (0..frame.height()).map(row).collect()
    };
    let (prior, of_codes) = (lists(posterior::PRIOR)?, lists(col::CODE_MARGINS)?);
    Ok((0..margins.len()).map(|i| mixed(&prior[i], &of_codes[i]).unwrap_or(margins[i])).collect())
}

/// Log-odds of `sum_k p_k sigmoid(m_k)`; none without codes.
fn mixed(prior: &[f64], margins: &[f64]) -> Option<f64> {
    if margins.is_empty() || prior.len() != margins.len() {
        return None;
    }
    // ln sigmoid(m) = -softplus(-m), kept from underflow by the largest term.
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let log_sum = |sign: f64| {
        let terms: Vec<f64> = prior.iter().zip(margins).map(|(p, m)| p.ln() - softplus(-sign * m)).collect();
        let largest = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        largest + terms.iter().map(|t| (t - largest).exp()).sum::<f64>().ln()
    };
    Some(log_sum(1.0) - log_sum(-1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::run;

    #[test]
    fn mixtures_by_hand() {
        // One code: its own margin. Two opposite ones: certain of either, undecided together.
        assert!((mixed(&[1.0], &[0.7]).unwrap() - 0.7).abs() < 1e-12);
        assert!(mixed(&[0.5, 0.5], &[3.0, -3.0]).unwrap().abs() < 1e-12);
        // 0.75 * 1 + 0.25 * 0 = 0.75: odds of three, where the margins are beyond any rounding.
        assert!((mixed(&[0.75, 0.25], &[900.0, -900.0]).unwrap() - 3f64.ln()).abs() < 1e-9);
        assert_eq!(mixed(&[1.0], &[]), None);
    }

    fn posteriors(rows: &[(&str, &str, f64)]) -> DataFrame {
        let n = rows.len();
        let list = |value: f32| {
            let row = Series::new("".into(), [value]);
            vec![row; n]
        };
        DataFrame::new(
            n,
            vec![
                Column::new(col::ID.into(), rows.iter().map(|r| r.0).collect::<Vec<_>>()),
                Column::new(col::SPLIT.into(), rows.iter().map(|r| r.1).collect::<Vec<_>>()),
                Column::new(col::MARGIN.into(), rows.iter().map(|r| r.2).collect::<Vec<_>>()),
                Column::new(posterior::KL.into(), vec![0.5; n]),
                Column::new(posterior::PRIOR_CODE.into(), vec![0u32; n]),
                Column::new(posterior::REF_CHOSEN.into(), vec![-1.0; n]),
                Column::new(posterior::REF_REJECTED.into(), vec![-3.0; n]),
                Column::new(posterior::PRIOR.into(), list(1.0)),
                Column::new(
                    col::CODE_MARGINS.into(),
                    rows.iter().map(|r| Series::new("".into(), [r.2 as f32])).collect::<Vec<Series>>(),
                ),
            ],
        )
        .unwrap()
    }

    #[test]
    fn every_pair_is_held_out_once_in_each_repeat() {
        let pairs = df!(
            col::ID => ["a", "b"],
            col::PROMPT_ID => ["p", "q"],
            col::SOURCE => ["s", "s"],
            col::FLIPPED => [false, true],
            col::MARGIN => [Some(2.0), None],
        )
        .unwrap();
        let fold = |rows: &[(&str, &str, f64)]| FoldModel { posteriors: posteriors(rows), dynamics: None };
        // Two models were trained on b over two epochs, and held a out.
        let epochs = |margins: [f64; 2]| {
            let (ids, splits) = (["b", "a", "b", "a"], ["train", "test", "train", "test"]);
            let margins = [margins[0], 7.0, margins[1], 7.0];
            let epochs = [1u32, 1, 2, 2];
            df!(col::ID => ids, col::SPLIT => splits, run::EPOCH => epochs, col::MARGIN => margins).ok()
        };
        let a = FoldModel { dynamics: epochs([1.0, -2.5]), ..fold(&[("a", "test", 1.0), ("b", "train", 9.0)]) };
        let b = fold(&[("b", "test", -2.0)]);
        let again = fold(&[("a", "test", 3.0), ("b", "test", -4.0)]);
        let again = FoldModel { dynamics: epochs([0.0, 0.5]), ..again };
        let own = posteriors(&[("a", "train", 5.0), ("x", "test", 0.0)]);
        let found = read(&[vec![a.clone(), b], vec![again]], &own, &pairs).unwrap();
        let margins: Vec<f64> = found.iter().map(|pair| pair.cross_margin).collect();
        assert_eq!(margins, [2.0, -3.0]);
        assert!((found[0].log_odds - 2.0).abs() < 1e-6);
        assert_eq!(
            (found[0].margin, found[0].score_margin, found[0].reference_margin),
            (Some(5.0), Some(2.0), Some(2.0))
        );
        assert_eq!((found[1].margin, found[1].score_margin, found[1].flipped), (None, None, true));
        // (1 - 2.5 + 0 + 0.5) / 4; no model that recorded was trained on a.
        assert_eq!((found[0].area_under_margin, found[1].area_under_margin), (None, Some(-0.25)));
        assert_eq!((found[0].cross_area, found[1].cross_area), (Some(7.0), None));
        let missing = read(&[vec![a.clone()]], &own, &pairs).unwrap_err().to_string();
        assert!(missing.contains("pair b: held out by no fold"), "{missing}");
        let twice = read(&[vec![a.clone(), a]], &own, &pairs).unwrap_err().to_string();
        assert!(twice.contains("pair a: held out by two folds"), "{twice}");
    }
}
