//! Keys of pairs that share a code: those of one prompt, where `train.lpc.group = "prompt"`.

use std::collections::HashMap;

use crate::batch::{Split, runs};
use crate::error::{Error, Result};
use crate::lpc::Grouping;
use crate::token_file::TokenRow;
use crate::train::{Ranks, TrainConfig};

/// Key of every row of every split, the same for pairs of one prompt; none where every pair has a code of its own.
///
/// # Errors
/// [`Error::Config`] for a prompt with more pairs than a pass has, or where no two pairs share a prompt; [`Error::Run`]
/// where pairs of one prompt do not lie together.
pub fn keys(config: &TrainConfig, splits: &[Split], ranks: &Ranks) -> Result<Vec<Option<Vec<u64>>>> {
    if !config.lpc.bayesian() || config.lpc.group == Grouping::Pair {
        return Ok(vec![None; splits.len()]);
    }
    let key = |row: &TokenRow| {
        let hash = blake3::hash(row.prompt_id.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_le_bytes(first)
    };
    let keys: Vec<Vec<u64>> = splits.iter().map(|s| s.rows.iter().map(key).collect()).collect();
    let mut counts: HashMap<u64, usize> = HashMap::new();
    keys[0].iter().for_each(|key| *counts.entry(*key).or_default() += 1);
    let largest = counts.values().copied().max().unwrap_or(0);
    let pass = config.batch * ranks.size();
    if largest > pass {
        let message = format!("a prompt has {largest} pairs, which share a code and so a pass; raise it from {pass}");
        return Err(Error::config("train.batch", message));
    }
    if largest <= 1 {
        return Err(Error::config("train.lpc.group", "has no effect: no prompt has more than one pair")
            .with_hint("prepare with --pairs all-pairs or best-vs-each"));
    }
    // Posteriors are shared by neighbouring rows; `prepare` writes the pairs of a prompt next to one another.
    if let Some((split, _)) = splits.iter().zip(&keys).find(|(_, keys)| {
        let mut seen = std::collections::HashSet::new();
        !runs(keys).into_iter().all(|run| seen.insert(keys[run.start]))
    }) {
        return Err(Error::run(format!("split {}: pairs of one prompt do not lie together", split.name))
            .with_hint("prepare the data again"));
    }
    Ok(keys.into_iter().map(Some).collect())
}
