//! Where the pairs of a prepared folder, which are in the order of hashes, stand in the files.

use std::collections::HashMap;

use super::inputs;
use crate::error::Result;
use crate::ingest;
use crate::pairs;
use crate::pipeline::recipe::PrepareConfig;
use crate::progress::Silent;
use crate::schema::col;
use crate::seed::Seed;

/// The place of every pair among all pairs of the files, from 0, by its id. Of equal pairs the first one counts.
///
/// # Errors
/// Those of reading the files.
pub fn places(config: &PrepareConfig, seed: Seed) -> Result<HashMap<String, u32>> {
    let inputs = inputs::resolve(&config.input, &Silent)?;
    let (mut places, mut next) = (HashMap::new(), 0);
    ingest::read(&inputs, &config.ingest, None, &Silent, &mut |batch| {
        let built = pairs::build(&batch.frame, &config.pairs, seed)?;
        for id in built.frame.column(col::ID)?.str()?.iter().flatten() {
            places.entry(id.to_string()).or_insert(next);
            next += 1;
        }
        Ok(())
    })?;
    Ok(places)
}
