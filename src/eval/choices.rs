//! Multiple choice by log-probability: each choice is scored as a continuation of the question.
//!
//! The choices of a question lie behind one copy of it, so that the question is computed once.
//!
//! # Source
//! lm-evaluation-harness 0.4: `_encode_pair` of `lm_eval/api/model.py`, `_loglikelihood_tokens` of
//! `lm_eval/models/huggingface.py`, `process_results` of `lm_eval/api/task.py`.

use crate::error::{Error, Result};
use crate::model::{InferenceDecoder, LogitShift, PackedTokens};
use crate::nn::attention::Segment;

/// Packed rows that one pass may hold.
const ROWS_PER_PASS: usize = 2048;

/// A question with its choices.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// As its file names it; empty where it has no name.
    pub id: String,
    /// What the model reads before a choice.
    pub context: String,
    /// The choices.
    pub choices: Vec<String>,
    /// Whether each is right.
    pub right: Vec<bool>,
}

/// A question in token ids.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QuestionTokens {
    /// The context.
    pub context: Vec<u32>,
    /// Every choice, behind a space.
    pub choices: Vec<Vec<u32>>,
}

/// A choice's score.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ChoiceScore {
    /// Summed log-probability of its tokens, nats.
    pub logp: f64,
    /// Whether each of its tokens is the likeliest.
    pub greedy: bool,
}

/// A question's scores as metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answered {
    /// The choice of the highest summed log-probability; the first of several.
    pub chosen: usize,
    /// 1 where it is right.
    pub acc: f64,
    /// 1 where the choice of the highest log-probability for each of its characters is right.
    pub acc_norm: f64,
    /// Share of the right choices in the probabilities of all.
    pub mass: f64,
}

impl Question {
    /// Token ids: trailing blanks of the context go to the choice; context and choice are tokenized together, and the
    /// choice is what follows as many tokens as the context alone has.
    ///
    /// # Errors
    /// Those of `encode`; [`Error::Run`] where a choice has no token of its own.
    pub fn encode(&self, encode: &dyn Fn(&str) -> Result<Vec<u32>>) -> Result<QuestionTokens> {
        let bare = self.context.trim_end();
        let blanks = &self.context[bare.len()..];
        let context = encode(bare)?;
        let choices = self.choices.iter().map(|choice| {
            let whole = encode(&format!("{bare}{blanks} {choice}"))?;
            match whole.get(context.len()..) {
                Some(own) if !own.is_empty() => Ok(own.to_vec()),
                _ => Err(Error::run(format!("question {:?}: the choice {choice:?} has no token of its own", self.id))),
            }
        });
        Ok(QuestionTokens { choices: choices.collect::<Result<_>>()?, context })
    }

    /// The metrics of the scores of its choices.
    ///
    /// # Shapes
    /// One score for each choice.
    pub fn answered(&self, scores: &[ChoiceScore]) -> Answered {
        let first_of = |value: &dyn Fn(usize) -> f64| {
            (0..scores.len()).fold(0, |best, i| if value(i) > value(best) { i } else { best })
        };
        let chosen = first_of(&|i| scores[i].logp);
        let normed = first_of(&|i| scores[i].logp / self.choices[i].chars().count() as f64);
        let probability = |i: usize| scores[i].logp.exp();
        let total: f64 = (0..scores.len()).map(probability).sum();
        let right: f64 = (0..scores.len()).filter(|&i| self.right[i]).map(probability).sum();
        let one = |right: bool| if right { 1.0 } else { 0.0 };
        Answered { chosen, acc: one(self.right[chosen]), acc_norm: one(self.right[normed]), mass: right / total }
    }
}

/// Scores the choices of questions, in their order; `done` is called with the scores of each pass over several questions,
/// and tells whether to go on. Where it says no, there are fewer results. Scoring that begins behind a pass has the same
/// passes from there on.
///
/// A context that is too long for the model loses its beginning.
///
/// # Errors
/// [`Error::Run`] for a choice that does not fit the model, and where a log-probability is not finite; those of `done`.
pub fn score(
    model: &InferenceDecoder,
    questions: &[(QuestionTokens, Option<LogitShift>)],
    done: &mut dyn FnMut(&[Vec<ChoiceScore>]) -> Result<bool>,
) -> Result<Vec<Vec<ChoiceScore>>> {
    let size = |(encoded, _): &(QuestionTokens, Option<LogitShift>)| {
        encoded.context.len() + encoded.choices.iter().map(Vec::len).sum::<usize>()
    };
    let mut found = Vec::with_capacity(questions.len());
    while found.len() < questions.len() {
        let rest = &questions[found.len()..];
        let mut rows = 0;
        let fits = rest.iter().take_while(|question| {
            rows += size(question);
            rows <= ROWS_PER_PASS
        });
        let pass = &rest[..fits.count().max(1)];
        let scores = score_pass(model, pass)?;
        let go_on = done(&scores)?;
        found.extend(scores);
        if !go_on {
            break;
        }
    }
    Ok(found)
}

fn score_pass(
    model: &InferenceDecoder,
    questions: &[(QuestionTokens, Option<LogitShift>)],
) -> Result<Vec<Vec<ChoiceScore>>> {
    let mut packed = Packed::default();
    for (encoded, _) in questions {
        packed.question(encoded, model.longest())?;
    }
    let h =
        model.hidden(PackedTokens { ids: &packed.ids, positions: &packed.positions, segments: &packed.segments })?;
    let width = model.config().hidden_size;
    let predicting: Vec<f32> =
        packed.predicting.iter().flat_map(|&row| h[row * width..(row + 1) * width].iter().copied()).collect();
    let shift_of_choice = questions.iter().flat_map(|(q, shift)| q.choices.iter().map(move |_| shift.as_ref()));
    let shifts: Vec<Option<&LogitShift>> =
        shift_of_choice.zip(&packed.lengths).flat_map(|(shift, &n)| std::iter::repeat_n(shift, n)).collect();
    let tokens = model.token_logps(&predicting, &shifts, &packed.targets)?;
    let mut at = 0;
    let mut scores = packed.lengths.iter().map(|&n| {
        let own = &tokens[at..at + n];
        at += n;
        let logp: f64 = own.iter().map(|(logp, _)| f64::from(*logp)).sum();
        ChoiceScore { logp, greedy: own.iter().all(|(_, likeliest)| *likeliest) }
    });
    let found: Vec<Vec<ChoiceScore>> =
        questions.iter().map(|(q, _)| scores.by_ref().take(q.choices.len()).collect()).collect();
    if found.iter().flatten().any(|s: &ChoiceScore| !s.logp.is_finite()) {
        return Err(Error::Run {
            message: "the model's log-probability of a choice is not finite".into(),
            hint: Some("its weights are damaged, or too large for this precision".into()),
        });
    }
    Ok(found)
}

/// Questions that lie end to end, each once, with its choices behind it.
#[derive(Debug, Default)]
struct Packed {
    ids: Vec<u32>,
    positions: Vec<u32>,
    segments: Vec<Segment>,
    group: usize,
    /// Rows that predict tokens of choices, those tokens, and how many of them each choice has.
    predicting: Vec<usize>,
    targets: Vec<u32>,
    lengths: Vec<usize>,
}

impl Packed {
    fn question(&mut self, encoded: &QuestionTokens, longest: usize) -> Result<()> {
        let mut context: Option<(usize, usize)> = None;
        for choice in &encoded.choices {
            // The last token of a choice is predicted, not read.
            let room = (longest + 1).saturating_sub(choice.len());
            if room == 0 {
                let message = format!("a choice of {} tokens does not fit a model of {longest}", choice.len());
                return Err(Error::run(message));
            }
            let kept = encoded.context.len().min(room);
            // Choices that leave their question the same room share it.
            let (start, len) = match context {
                Some((start, len)) if len == kept => (start, len),
                _ => {
                    self.group += 1;
                    let tail = &encoded.context[encoded.context.len() - kept..];
                    (self.segment(tail, 0, (0, 0)), kept)
                }
            };
            context = Some((start, len));
            let first = self.segment(&choice[..choice.len() - 1], len, (start, len));
            self.predicting.push(start + len - 1);
            self.predicting.extend(first..first + choice.len() - 1);
            self.targets.extend_from_slice(choice);
            self.lengths.push(choice.len());
        }
        Ok(())
    }

    /// Appends rows; their first one.
    fn segment(&mut self, ids: &[u32], position: usize, (prefix_start, prefix_len): (usize, usize)) -> usize {
        let start = self.ids.len();
        if !ids.is_empty() {
            self.ids.extend_from_slice(ids);
            self.positions.extend((0..ids.len()).map(|i| (position + i) as u32));
            self.segments.push(Segment { start, len: ids.len(), prefix_start, prefix_len, group: self.group });
        }
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::init::random;
    use crate::model::{LlamaConfig, Params, Prompts};
    use crate::nn::Precision;
    use crate::seed::Seed;

    fn question(choices: &[&str], right: &[bool]) -> Question {
        Question {
            id: "q".into(),
            context: "ab:".into(),
            choices: choices.iter().map(|c| c.to_string()).collect(),
            right: right.to_vec(),
        }
    }

    fn scored(logps: &[f64]) -> Vec<ChoiceScore> {
        logps.iter().map(|&logp| ChoiceScore { logp, greedy: false }).collect()
    }

    #[test]
    fn metrics_by_hand() {
        // Characters: 4, 2, 2 (of which one takes two bytes).
        let q = question(&["long", "ab", "\u{e9}b"], &[false, true, false]);
        // Sums -4, -3, -3.5; per character -1, -1.5, -1.75.
        let a = q.answered(&scored(&[-4.0, -3.0, -3.5]));
        assert_eq!((a.chosen, a.acc, a.acc_norm), (1, 1.0, 0.0));
        let total = (-4f64).exp() + (-3f64).exp() + (-3.5f64).exp();
        assert!((a.mass - (-3f64).exp() / total).abs() < 1e-12);
        // The first of equal ones; likelihoods far below what float32 holds.
        let a = question(&["ab", "cd"], &[true, false]).answered(&scored(&[-300.0, -300.0]));
        assert_eq!((a.chosen, a.acc, a.acc_norm, a.mass), (0, 1.0, 1.0, 0.5));
    }

    #[test]
    fn texts_are_cut_into_tokens_as_the_harness_does() {
        // One token for each byte, but for ": " and " x" together.
        let encode = |text: &str| -> Result<Vec<u32>> {
            let mut ids = Vec::new();
            let bytes = text.as_bytes();
            let mut i = 0;
            while i < bytes.len() {
                let pair = bytes.get(i..i + 2);
                let joined = pair == Some(b" x");
                ids.push(if joined { 1000 } else { u32::from(bytes[i]) });
                i += if joined { 2 } else { 1 };
            }
            Ok(ids)
        };
        let of = |context: &str, choice: &str| {
            let q = Question { context: context.into(), ..question(&[choice], &[true]) };
            q.encode(&encode)
        };
        assert_eq!(of("a:", "xy").unwrap(), QuestionTokens { context: vec![97, 58], choices: vec![vec![1000, 121]] });
        // Blanks at the context's end belong to the choice.
        assert_eq!(
            of("a: ", "xy").unwrap(),
            QuestionTokens { context: vec![97, 58], choices: vec![vec![32, 1000, 121]] }
        );
        let nothing = |_: &str| -> Result<Vec<u32>> { Ok(vec![1]) };
        let error = question(&["x"], &[true]).encode(&nothing).unwrap_err();
        assert!(error.to_string().contains("the choice \"x\" has no token of its own"));
    }

    /// Scores of choices behind one copy of their question are those of each sequence by itself, also where a choice is
    /// one token, and where contexts are cut to fit.
    #[test]
    fn shared_questions_change_nothing() {
        let config = LlamaConfig::tiny(48, 2, 70);
        let params = Params::new(random::<f32>(&config, 0.3, Seed(6)).unwrap()).unwrap();
        let longest = 24;
        let model = InferenceDecoder::new(&config, &params, longest, Precision::F32).unwrap();
        let ids = |key: u32, n: u32| -> Vec<u32> { (0..n).map(|i| (key * 31 + i * 17) % 70).collect() };
        let bias = LogitShift::Biases { tokens: std::sync::Arc::new(vec![3, 5]), values: vec![1.0, -2.0] };
        let questions: Vec<(QuestionTokens, Option<LogitShift>)> = vec![
            (QuestionTokens { context: ids(1, 9), choices: vec![ids(2, 1), ids(3, 5), ids(4, 2)] }, None),
            (
                QuestionTokens { context: ids(5, 22), choices: vec![ids(6, 2), ids(7, 6), ids(8, 6), ids(9, 1)] },
                Some(bias),
            ),
            (QuestionTokens { context: ids(10, 1), choices: vec![ids(11, 24)] }, None),
        ];
        let mut told = 0;
        let found = score(&model, &questions, &mut |pass| {
            told += pass.len();
            Ok(true)
        });
        let found = found.unwrap();
        assert_eq!(told, 3);
        for ((encoded, shift), scores) in questions.iter().zip(&found) {
            assert_eq!(scores.len(), encoded.choices.len());
            for (choice, scored) in encoded.choices.iter().zip(scores) {
                let whole = [encoded.context.as_slice(), choice].concat();
                let read = &whole[whole.len().saturating_sub(longest + 1)..whole.len() - 1];
                let h = model.hidden(Prompts::pack(&[read]).unwrap().tokens()).unwrap();
                let h = &h[h.len() - choice.len() * 48..];
                let tokens = model.token_logps(h, &vec![shift.as_ref(); choice.len()], choice).unwrap();
                let wanted: f64 = tokens.iter().map(|(logp, _)| f64::from(*logp)).sum();
                assert!((scored.logp - wanted).abs() < 1e-4, "{} {wanted}", scored.logp);
                assert_eq!(scored.greedy, tokens.iter().all(|(_, likeliest)| *likeliest));
            }
        }
        let long = (QuestionTokens { context: ids(1, 2), choices: vec![ids(1, 25)] }, None);
        let error = score(&model, &[long], &mut |_| Ok(true)).unwrap_err();
        assert!(error.to_string().contains("a choice of 25 tokens does not fit a model of 24"), "{error}");
    }
}
