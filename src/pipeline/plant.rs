//! `synth`: a corpus of made-up texts, or planted preferences over real ones: files -> prompts with their
//! responses -> corpus and truth.

use std::collections::{BTreeMap, HashMap};

use polars::prelude::*;
use serde::de::DeserializeOwned;

use super::prepare::{accounted, inputs};
use crate::error::{Error, Fault, Result};
use crate::frame::ListOfStructs;
use crate::ingest::{self, Batch, IngestConfig, Input, OnBadRow, OnWrongTens, Score};
use crate::manifest::InputFile;
use crate::message::{ASSISTANT, MessageColumn, USER};
use crate::progress::Progress;
use crate::rejects::{Reject, reason};
use crate::schema::col;
use crate::seed::Seed;
use crate::settings::{Settings, refuse};
use crate::synth::over::{self, Account, NotPlanted, Response, Sink, Texts};
use crate::synth::{self, SynthConfig, SynthSummary};

/// Writes the corpus that `config` asks for.
///
/// Over real texts the files are read twice (and once more for each aspect but one): first to find the rows with
/// the same prompt, then to plant. Texts stay in memory until the last row of their prompt is read.
///
/// # Errors
/// [`Error::Config`] with all faults of the settings; [`Error::Data`] where the input cannot be used; those of
/// [`synth::write`] and [`over::plant`].
pub fn run(config: &SynthConfig, seed: Seed, progress: &dyn Progress) -> Result<SynthSummary> {
    if config.over.is_empty() {
        return synth::write(config, seed, progress);
    }
    let mut faults = config.faults();
    let reading = Reading::new(config, &mut faults);
    refuse(faults)?;
    let mut inputs = inputs::resolve(&config.over, progress)?;
    // For the tags alone: preferences are planted over the rows of both splits.
    inputs::declare_splits(&mut inputs);
    let work = Work { inputs: &inputs, reading, progress };
    over::plant(config, seed, progress, |sink| work.feed(sink)).map_err(in_our_words)
}

/// How the files are read.
struct Reading {
    ingest: IngestConfig,
    /// One score for each aspect; none where the texts alone count.
    aspects: Vec<Score>,
}

impl Reading {
    fn new(config: &SynthConfig, faults: &mut Vec<Fault>) -> Reading {
        let mut ingest = IngestConfig {
            columns: config.columns.clone(),
            // Overall scores of the input are not used.
            wrong_tens: OnWrongTens::Keep,
            ..IngestConfig::default()
        };
        let format = named("format", &config.format, faults);
        let on_bad_row: Option<OnBadRow> = named("on_bad_row", &config.on_bad_row, faults);
        ingest.format = format.unwrap_or_default();
        ingest.on_bad_row = on_bad_row.unwrap_or_default();
        let read = IngestConfig { wrong_tens: OnWrongTens::default(), ..ingest.clone() }.faults();
        faults.extend(read.into_iter().map(|f| Fault { key: f.key.replace("prepare.ingest.", "synth."), ..f }));
        let names = over::aspects(config);
        let aspects: Vec<Score> = names.iter().filter_map(|name| named("traits", name, faults)).collect();
        if !aspects.is_empty() {
            match ingest.format {
                // No other layout has ratings by aspect.
                ingest::Format::Auto => ingest.format = ingest::Format::Ultrafeedback,
                ingest::Format::Ultrafeedback => {}
                _ => faults.push(SynthConfig::fault("format", "aspects are rated in the layout ultrafeedback only")),
            }
        }
        Reading { ingest, aspects }
    }

    /// The settings under which completions have this aspect as their score.
    fn rated(&self, aspect: usize) -> IngestConfig {
        IngestConfig { score: self.aspects.get(aspect).copied().unwrap_or_default(), ..self.ingest.clone() }
    }
}

/// A value by its name, or a fault.
fn named<T: DeserializeOwned>(key: &str, name: &str, faults: &mut Vec<Fault>) -> Option<T> {
    serde_json::from_value(name.into())
        .map_err(|e| faults.push(SynthConfig::fault(key, e.to_string().replace("unknown variant", "unknown value"))))
        .ok()
}

/// The same error with the settings of `synth` in its hint, in place of those of `prepare`.
fn in_our_words(error: Error) -> Error {
    match error.hint().map(|hint| hint.replace("prepare.ingest.", "synth.")) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// A row of the input: index of the file, and line.
type Place = (u32, u64);

/// The prompts of rows, with their responses.
type Rows = Vec<(Place, Texts)>;

/// The first 16 bytes of a prompt's BLAKE3.
type Key = [u8; 16];

fn key(prompt: &str) -> Key {
    let mut key = [0; 16];
    key.copy_from_slice(&blake3::hash(prompt.as_bytes()).as_bytes()[..16]);
    key
}

struct Work<'a> {
    inputs: &'a [Input],
    reading: Reading,
    progress: &'a dyn Progress,
}

/// Ratings by one further aspect, and the rows that were rejected while reading them.
#[derive(Default)]
struct Rated {
    /// Ratings of the completions of each row.
    ratings: HashMap<Place, Vec<Option<f64>>>,
    rejects: HashMap<Place, Reject>,
}

impl Work<'_> {
    fn feed(&self, sink: &mut Sink<'_>) -> Result<Account> {
        let more: Vec<Rated> =
            (1..self.reading.aspects.len()).map(|aspect| self.ratings(aspect)).collect::<Result<_>>()?;
        let mut joiner = Joiner::default();
        self.read("look for equal prompts (bytes)", 0, &mut |batch| {
            let (rows, _) = rows(batch, self.inputs, &more)?;
            rows.iter().for_each(|(_, texts)| *joiner.expected.entry(key(&texts.prompt)).or_default() += 1);
            Ok(())
        })?;
        let files = self.read("plant (bytes)", 0, &mut |batch| {
            let (rows, rejects) = rows(batch, self.inputs, &more)?;
            joiner.rejects.extend(rejects);
            joiner.take(rows, sink)
        })?;
        if !joiner.waiting.is_empty() {
            return Err(Error::run("a file changed while it was read").with_hint("run the same command again"));
        }
        joiner.settle(files)
    }

    /// Reads all files.
    fn read(&self, step: &str, aspect: usize, take: &mut dyn FnMut(Batch) -> Result<()>) -> Result<Vec<InputFile>> {
        self.progress.begin(step, Some(inputs::bytes(self.inputs)));
        let files = ingest::read(self.inputs, &self.reading.rated(aspect), None, self.progress, take)?;
        self.progress.end();
        Ok(files)
    }

    /// Reads the ratings by one aspect.
    fn ratings(&self, aspect: usize) -> Result<Rated> {
        let mut rated = Rated::default();
        self.read("read ratings (bytes)", aspect, &mut |batch| {
            let places = places(&batch.frame)?;
            let lists = ListOfStructs::open(batch.frame.column(col::COMPLETIONS)?)?;
            let scores = lists.field(col::SCORE)?.f64()?;
            for (i, place) in places.into_iter().enumerate() {
                rated.ratings.insert(place, lists.range(i).map(|k| scores.get(k)).collect());
            }
            rated.rejects.extend(batch.rejects.into_iter().map(|r| ((r.file, r.line), r)));
            Ok(())
        })?;
        Ok(rated)
    }
}

fn places(frame: &DataFrame) -> Result<Vec<Place>> {
    let (files, lines) = (frame.column(col::FILE)?.u32()?, frame.column(col::LINE)?.u64()?);
    Ok(files.iter().zip(lines.iter()).map(|(f, l)| (f.unwrap_or_default(), l.unwrap_or_default())).collect())
}

/// The prompts of a batch with their responses, and the rows that have none.
fn rows(batch: Batch, inputs: &[Input], more: &[Rated]) -> Result<(Rows, Vec<Reject>)> {
    let (frame, mut rejects) = (batch.frame, batch.rejects);
    let sources = frame.column(col::SOURCE)?.str()?;
    let prompts = MessageColumn::open(frame.column(col::PROMPT)?)?;
    let responses = Responses::open(&frame)?;
    let mut rows = Vec::with_capacity(frame.height());
    for (i, place) in places(&frame)?.into_iter().enumerate() {
        // A row is rejected once, in the first of the readings that finds a fault.
        if let Some(reject) = more.iter().find_map(|rated| rated.rejects.get(&place)) {
            rejects.push(reject.clone());
            continue;
        }
        let several = |field: &str| Reject {
            file: place.0,
            line: place.1,
            field: field.into(),
            reason: reason::CONVERSATION,
            detail: "expected one message: raw UltraFeedback has no room for more".into(),
            group: 0,
        };
        let Some(prompt) = only(prompts.row(i), USER) else {
            rejects.push(several(col::PROMPT));
            continue;
        };
        let ratings = |k: usize, first: Option<f64>| -> Vec<Option<f64>> {
            let others = more.iter().map(|rated| rated.ratings.get(&place).and_then(|r| r.get(k).copied().flatten()));
            std::iter::once(first).chain(others).collect()
        };
        let Some(responses) = responses.of(i, ratings) else {
            rejects.push(several(col::CHOSEN));
            continue;
        };
        let source = match sources.get(i) {
            Some(source) => source.to_string(),
            // As `prepare` tags rows without a source.
            None => inputs.get(place.0 as usize).map(inputs::tag).unwrap_or_default(),
        };
        rows.push((place, Texts { prompt: prompt.to_string(), source, responses }));
    }
    Ok((rows, rejects))
}

/// The text of a list of one message with this role.
fn only<'a>(mut messages: impl ExactSizeIterator<Item = (&'a str, &'a str)>, role: &str) -> Option<&'a str> {
    let one = messages.len() == 1;
    messages.next().filter(|(found, _)| one && *found == role).map(|(_, content)| content)
}

/// The responses of a batch.
#[allow(clippy::large_enum_variant, reason = "one for a whole batch of rows")]
enum Responses {
    Completions { lists: ListOfStructs, models: StringChunked, responses: StringChunked, scores: Float64Chunked },
    Pairs([(MessageColumn, StringChunked); 2]),
}

impl Responses {
    fn open(frame: &DataFrame) -> Result<Responses> {
        if let Ok(column) = frame.column(col::COMPLETIONS) {
            let lists = ListOfStructs::open(column)?;
            let models = lists.field(col::MODEL)?.str()?.clone();
            let responses = lists.field(col::RESPONSE)?.str()?.clone();
            let scores = lists.field(col::SCORE)?.f64()?.clone();
            return Ok(Responses::Completions { lists, models, responses, scores });
        }
        let side = |messages: &str, model: &str| -> Result<(MessageColumn, StringChunked)> {
            Ok((MessageColumn::open(frame.column(messages)?)?, frame.column(model)?.str()?.clone()))
        };
        Ok(Responses::Pairs([side(col::CHOSEN, col::CHOSEN_MODEL)?, side(col::REJECTED, col::REJECTED_MODEL)?]))
    }

    /// The responses of row `i`; nothing where one is of several messages.
    fn of(&self, i: usize, ratings: impl Fn(usize, Option<f64>) -> Vec<Option<f64>>) -> Option<Vec<Response>> {
        match self {
            Responses::Completions { lists, models, responses, scores } => {
                let response = |(at, k): (usize, usize)| Response {
                    model: models.get(k).map(str::to_string),
                    text: responses.get(k).unwrap_or_default().to_string(),
                    ratings: ratings(at, scores.get(k)),
                };
                Some(lists.range(i).enumerate().map(response).collect())
            }
            Responses::Pairs(sides) => {
                let response = |(messages, models): &(MessageColumn, StringChunked)| {
                    let text = only(messages.row(i), ASSISTANT)?.to_string();
                    Some(Response { model: models.get(i).map(str::to_string), text, ratings: Vec::new() })
                };
                sides.iter().map(response).collect()
            }
        }
    }
}

/// Joins rows with the same prompt.
#[derive(Default)]
struct Joiner {
    /// Rows of each prompt that are still to come.
    expected: HashMap<Key, u32>,
    /// Prompts of which some rows were read.
    waiting: HashMap<Key, Joined>,
    kept: BTreeMap<u32, u64>,
    rejects: Vec<Reject>,
}

struct Joined {
    places: Vec<Place>,
    texts: Texts,
}

impl Joiner {
    /// Takes rows, and passes the prompts whose rows are complete to the sink.
    fn take(&mut self, rows: Rows, sink: &mut Sink<'_>) -> Result<()> {
        let (mut places, mut whole) = (Vec::new(), Vec::new());
        for (place, texts) in rows {
            let key = key(&texts.prompt);
            let left = self.expected.get(&key).copied().unwrap_or_default();
            if left == 0 {
                return Err(Error::run("a file changed while it was read").with_hint("run the same command again"));
            }
            self.expected.insert(key, left - 1);
            let joined = match self.waiting.remove(&key) {
                None => Joined { places: vec![place], texts },
                Some(mut joined) => {
                    joined.places.push(place);
                    joined.texts.responses.extend(texts.responses);
                    // The alphabetically first source, so that the order of files does not matter.
                    joined.texts.source = joined.texts.source.min(texts.source);
                    joined
                }
            };
            if left > 1 {
                self.waiting.insert(key, joined);
            } else {
                places.push(joined.places);
                whole.push(joined.texts);
            }
        }
        for (places, refusal) in places.into_iter().zip(sink(whole)?) {
            match refusal {
                None => places.iter().for_each(|(file, _)| *self.kept.entry(*file).or_default() += 1),
                Some(NotPlanted { reason, detail }) => self.rejects.extend(places.into_iter().map(|(file, line)| {
                    let (field, detail) = (String::new(), detail.clone());
                    Reject { file, line, field, reason, detail, group: 0 }
                })),
            }
        }
        Ok(())
    }

    /// Adds the counts of kept and rejected rows to each file.
    fn settle(self, mut files: Vec<InputFile>) -> Result<Account> {
        for reject in &self.rejects {
            if let Some(file) = files.get_mut(reject.file as usize) {
                *file.rows_rejected.entry(reject.reason.to_string()).or_default() += 1;
            }
        }
        for (index, file) in (0..).zip(&mut files) {
            file.rows_kept = self.kept.get(&index).copied().unwrap_or_default();
            accounted(file, true)?;
        }
        Ok(Account { inputs: files, rejects: self.rejects })
    }
}
