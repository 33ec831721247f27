//! Pairs encoded with a small tokenizer of our own.

use super::super::template::builtin;
use super::super::tokenizer::tests::{says, tiny, with};
use super::*;

const CHATML_BOS: &str = "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn encode(
    tokenizer: &ModelTokenizer,
    prompt: &[(&str, &str)],
    sides: [&str; 2],
    config: &TokenizeConfig,
) -> Result<Encoded> {
    let prompt: Vec<Message> = prompt.iter().map(|(role, content)| says(role, content)).collect();
    let [chosen, rejected] = sides.map(|content| [says("assistant", content)]);
    let pair =
        PairText { id: "abc", prompt: &prompt, chosen: &chosen, rejected: &rejected, flipped: true, source: "src" };
    tokenizer.encode_pair(&pair, config)
}

fn row(tokenizer: &ModelTokenizer, prompt: &str, sides: [&str; 2]) -> TokenRow {
    lengths(tokenizer, prompt, sides, 1024, 512).unwrap()
}

fn lengths(
    tokenizer: &ModelTokenizer,
    prompt: &str,
    sides: [&str; 2],
    max_length: usize,
    max_prompt_length: usize,
) -> Result<TokenRow, &'static str> {
    let config = TokenizeConfig { max_length, max_prompt_length, ..TokenizeConfig::default() };
    match encode(tokenizer, &[("user", prompt)], sides, &config).unwrap() {
        Encoded::Row(row) => Ok(row),
        Encoded::Dropped { reason, .. } => {
            assert!(super::super::DROP_REASONS.contains(&reason));
            Err(reason)
        }
    }
}

fn counted(
    tokenizer: &ModelTokenizer,
    prompt: &str,
    [chosen, rejected]: [&str; 2],
    config: &TokenizeConfig,
) -> (TokenRow, EncodeCounts) {
    let (prompt, chosen, rejected) =
        ([says("user", prompt)], [says("assistant", chosen)], [says("assistant", rejected)]);
    let pair =
        PairText { id: "abc", prompt: &prompt, chosen: &chosen, rejected: &rejected, flipped: false, source: "src" };
    let mut counts = EncodeCounts::default();
    match tokenizer.encode_pair_counted(&pair, config, &mut counts).unwrap() {
        Encoded::Row(row) => (row, counts),
        other => panic!("{other:?}"),
    }
}

fn text(tokenizer: &ModelTokenizer, ids: &[u32]) -> String {
    tokenizer.decode(ids, false).unwrap()
}

#[test]
fn the_response_is_all_that_follows_the_prompt_and_nothing_else() {
    let tokenizer = tiny();
    let answers = [
        "Good answers1",
        "Bad answers",
        " spaced ",
        "\n\n\nGood",
        "\u{1f600}\u{e9} ok",
        "<|im_end|> inside",
        "ends<|im_end|>",
        "\n",
        "user",
        "assistant\n",
    ];
    for (i, answer) in answers.iter().enumerate() {
        for other in &answers[i + 1..] {
            let row = row(&tokenizer, "Which answers?\n\n", [answer, other]);
            assert_eq!(
                text(&tokenizer, &row.prompt_ids),
                "<|im_start|>user\nWhich answers?\n\n<|im_end|>\n<|im_start|>assistant\n"
            );
            for (ids, said) in [(&row.chosen_ids, answer), (&row.rejected_ids, other)] {
                let said = said.strip_suffix("<|im_end|>").unwrap_or(said);
                assert_eq!(text(&tokenizer, ids), format!("{said}<|im_end|>"));
                assert_eq!(ids.last(), Some(&tokenizer.eot_id()));
                assert_ne!(ids.iter().rev().nth(1), Some(&tokenizer.eot_id()));
            }
            assert_eq!(row.prompt_ids, tokenizer.encode_prompt(&[says("user", "Which answers?\n\n")]).unwrap());
            assert_eq!((row.id.as_str(), row.source.as_str(), row.flipped, row.truncated), ("abc", "src", true, false));
        }
    }
}

#[test]
fn a_token_across_the_boundary_is_split_there() {
    let tokenizer = tiny();
    let two = tokenizer.encode_text("\n\n").unwrap();
    assert_eq!(two.len(), 1, "the vocabulary has a token for it");
    // Header newline + two more: GPT-2's expression would take the first two together.
    let (row, counts) = counted(&tokenizer, "Q", ["\n\nGood", "Bad"], &TokenizeConfig::default());
    assert_eq!(counts, EncodeCounts { forced_boundaries: 1, ..EncodeCounts::default() });
    assert_eq!(row.prompt_ids, tokenizer.encode_prompt(&[says("user", "Q")]).unwrap());
    assert_eq!(text(&tokenizer, &row.chosen_ids), "\n\nGood<|im_end|>");
}

#[test]
fn where_cutting_is_not_safe_it_is_an_error_with_the_example() {
    let mut tokenizer = tiny();
    tokenizer.cuts.clear();
    tokenizer.continues = false;
    let whole = row(&tokenizer, "Q", ["Good", "Bad"]);
    assert_eq!(whole, row(&tiny(), "Q", ["Good", "Bad"]));
    let error = encode(&tokenizer, &[("user", "Q")], ["\n\nGood", "Bad"], &TokenizeConfig::default()).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    let shown = error.to_string();
    assert!(
        shown.contains("pair abc: chosen: a token reaches across")
            && shown.contains("assistant\\n\" then \"\\n\\nGood"),
        "{shown}"
    );
}

#[test]
fn conversations_of_several_turns() {
    let tokenizer = tiny();
    let prompt = [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c")];
    let Encoded::Row(row) = encode(&tokenizer, &prompt, ["x", "y"], &TokenizeConfig::default()).unwrap() else {
        panic!()
    };
    assert_eq!(
        text(&tokenizer, &row.prompt_ids),
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(text(&tokenizer, &row.chosen_ids), "x<|im_end|>");
}

#[test]
fn one_bos_whoever_writes_it() {
    let chatml = builtin("chatml").unwrap();
    for (template, adds, expected) in
        [(CHATML_BOS, true, 1), (CHATML_BOS, false, 1), (chatml, true, 1), (chatml, false, 0)]
    {
        let tokenizer = with(template, adds);
        let row = row(&tokenizer, "Q", ["Good", "Bad"]);
        let bos = tokenizer.bos_id().unwrap();
        let all = [&row.prompt_ids[..], &row.chosen_ids, &row.rejected_ids].concat();
        assert_eq!(all.iter().filter(|id| **id == bos).count(), expected, "{adds} {template}");
        assert_eq!(row.prompt_ids[0] == bos, expected == 1);
    }
}

#[test]
fn a_template_without_an_end_token_gets_the_end_of_sequence() {
    let plain = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}";
    let tokenizer = with(plain, false);
    assert_eq!(tokenizer.facts()["eot_by_template"], serde_json::json!(false));
    let row = row(&tokenizer, "Q", ["Good", "Bad\n"]);
    assert_eq!(text(&tokenizer, &row.prompt_ids), "user: Q\nassistant:");
    assert_eq!(text(&tokenizer, &row.chosen_ids), " Good<|im_end|>");
    assert_eq!(text(&tokenizer, &row.rejected_ids), " Bad\n<|im_end|>");
}

#[test]
fn a_prompt_that_changes_with_its_response_is_refused() {
    let fickle = "{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'answer:' }}{% endif %}";
    let error =
        encode(&with(fickle, false), &[("user", "Q")], ["Good", "Bad"], &TokenizeConfig::default()).unwrap_err();
    let shown = error.to_string();
    assert!(
        shown.contains("pair abc: chosen: the chat template `own`")
            && shown.contains("\"answer:\" alone, \"Good<|im_end|>\" with it"),
        "{shown}"
    );
}

#[test]
fn a_template_that_trims_is_no_trouble() {
    let trims = CHATML_BOS.replace("m.content", "m.content | trim");
    let tokenizer = with(&trims, false);
    let row = row(&tokenizer, " Q ", ["  Good\n\n", "Bad"]);
    assert_eq!(text(&tokenizer, &row.chosen_ids), "Good<|im_end|>");
    assert_eq!(lengths(&tokenizer, "Q", [" \n ", "Bad"], 99, 99), Err("empty-response"));
}

#[test]
fn long_prompts_lose_their_beginning() {
    let tokenizer = with(CHATML_BOS, false);
    let whole = row(&tokenizer, "one two three", ["Good", "Bad"]);
    let cut = lengths(&tokenizer, "one two three", ["Good", "Bad"], 1024, 12).unwrap();
    assert!(cut.truncated && !whole.truncated && whole.prompt_ids.len() > 12);
    assert_eq!(cut.prompt_ids.len(), 12);
    assert_eq!(cut.prompt_ids[0], tokenizer.bos_id().unwrap(), "BOS stays");
    assert_eq!(cut.prompt_ids[1..], whole.prompt_ids[whole.prompt_ids.len() - 11..]);
    assert_eq!((&cut.chosen_ids, &cut.rejected_ids), (&whole.chosen_ids, &whole.rejected_ids));
    let without = with(builtin("chatml").unwrap(), false);
    let whole = row(&without, "one two three", ["Good", "Bad"]);
    let cut = lengths(&without, "one two three", ["Good", "Bad"], 1024, 12).unwrap();
    assert_eq!(cut.prompt_ids, whole.prompt_ids[whole.prompt_ids.len() - 12..]);
}

#[test]
fn both_responses_are_cut_at_the_same_length() {
    let tokenizer = tiny();
    let (long, longer) = ("abcdefgh", "abcdefgxyz");
    let whole = row(&tokenizer, "Q", [long, longer]);
    let n = whole.prompt_ids.len();
    let end = tokenizer.eot_id();
    assert_eq!((whole.chosen_ids.len(), whole.rejected_ids.len()), (9, 11), "one token a letter");
    let exact = lengths(&tokenizer, "Q", [long, longer], n + 11, 512).unwrap();
    assert_eq!(exact, whole);
    let cut = lengths(&tokenizer, "Q", [long, longer], n + 10, 512).unwrap();
    assert_eq!((cut.chosen_ids.len(), cut.rejected_ids.len(), cut.truncated), (9, 10, true));
    assert_eq!((cut.chosen_ids.last(), cut.rejected_ids.contains(&end)), (Some(&end), false));
    let cut = lengths(&tokenizer, "Q", [long, longer], n + 8, 512).unwrap();
    assert_eq!((cut.chosen_ids.len(), cut.rejected_ids.len()), (8, 8));
    assert_eq!(lengths(&tokenizer, "Q", [long, longer], n + 7, 512), Err("identical-after-truncation"));
    assert_eq!(lengths(&tokenizer, "Q", [long, longer], n, 512), Err("prompt-too-long"));
    assert_eq!(lengths(&tokenizer, "Q", [long, longer], 1, 512), Err("prompt-too-long"));
    assert_eq!(lengths(&tokenizer, "Q", ["same", "same"], 512, 512), Err("identical-after-truncation"));
    assert_eq!(lengths(&tokenizer, "Q", ["", "same"], 512, 512), Err("empty-response"));
    assert_eq!(lengths(&tokenizer, "Q", [long, longer], 512, 0), Err("prompt-too-long"));
}

#[test]
fn what_is_cut_is_counted() {
    let tokenizer = tiny();
    let sides = ["abcdefgh", "abcdefgxyz"];
    let whole = row(&tokenizer, "Q", sides);
    let n = whole.prompt_ids.len();
    let config =
        |max_length, max_prompt_length| TokenizeConfig { max_length, max_prompt_length, ..TokenizeConfig::default() };
    let counts = |config: TokenizeConfig| counted(&tokenizer, "Q", sides, &config).1;
    assert_eq!(counts(config(n + 11, n)), EncodeCounts::default());
    assert_eq!(counts(config(n + 10, n)), EncodeCounts { rejected_cut: 1, ..EncodeCounts::default() });
    assert_eq!(
        counts(config(n + 7, n - 1)),
        EncodeCounts { prompts_cut: 1, chosen_cut: 1, rejected_cut: 1, ..EncodeCounts::default() }
    );
    let inside = counted(&tokenizer, "Q", ["a<|im_end|>b", "c<|im_end|>"], &config(99, 99)).1;
    assert_eq!(inside, EncodeCounts { ends_inside: 1, ..EncodeCounts::default() });
    let mut sum = inside;
    sum += inside;
    assert_eq!(sum.ends_inside, 2);
    // A pair that is dropped counts for nothing.
    let dropped = [says("user", "Q")];
    let same = [says("assistant", "abcdefgh")];
    let pair = PairText { id: "abc", prompt: &dropped, chosen: &same, rejected: &same, flipped: false, source: "src" };
    let mut counts = EncodeCounts::default();
    let encoded = tokenizer.encode_pair_counted(&pair, &config(n + 2, n), &mut counts).unwrap();
    assert!(matches!(encoded, Encoded::Dropped { .. }));
    assert_eq!(counts, EncodeCounts::default());
}

#[test]
fn two_beginnings_are_refused() {
    let bare = "{{ bos_token }}{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}";
    let tokenizer = with(bare, true);
    let pair = |prompt| encode(&tokenizer, &[("user", prompt)], ["Good", "Bad"], &TokenizeConfig::default());
    assert!(pair("Q <|endoftext|>").is_ok());
    let error = pair("<|endoftext|>Q").unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("pair abc: prompt: begins with `<|endoftext|>` twice"), "{error}");
}

#[test]
fn odd_shapes_are_dropped_with_a_reason() {
    let tokenizer = tiny();
    let reason = |prompt: &[Message], chosen: &[Message]| {
        let rejected = [says("assistant", "no")];
        let pair = PairText { id: "abc", prompt, chosen, rejected: &rejected, flipped: false, source: "" };
        match tokenizer.encode_pair(&pair, &TokenizeConfig::default()).unwrap() {
            Encoded::Dropped { reason, .. } => reason,
            Encoded::Row(_) => "kept",
        }
    };
    let (user, answer) = (says("user", "Q"), says("assistant", "A"));
    let prompt = [user.clone()];
    assert_eq!(reason(&prompt, std::slice::from_ref(&answer)), "kept");
    assert_eq!(reason(&[], std::slice::from_ref(&answer)), "empty-prompt");
    assert_eq!(reason(&prompt, &[]), "empty-response");
    assert_eq!(reason(&prompt, std::slice::from_ref(&user)), "response-not-one-turn");
    assert_eq!(reason(&prompt, &[answer.clone(), user, answer]), "response-not-one-turn");
}
