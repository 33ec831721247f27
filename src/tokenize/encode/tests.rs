//! Pairs encoded with the tiny tokenizer.

use proptest::prelude::*;
use serde_json::json;

use super::super::metaspace::tests::shapes;
use super::super::parts::Parts;
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
        Encoded::Refused(refusal) => panic!("{refusal:?}"),
        Encoded::Row(row) => Ok(row),
        Encoded::Dropped { reason, .. } => Err(reason),
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

fn refused(tokenizer: &ModelTokenizer, prompt: &str, sides: [&str; 2]) -> Refusal {
    match encode(tokenizer, &[("user", prompt)], sides, &TokenizeConfig::default()).unwrap() {
        Encoded::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
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
    // The header ends with a newline and the response begins with two: GPT-2's expression takes the first two together.
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
    let refusal = refused(&tokenizer, "Q", ["\n\nGood", "Bad"]);
    assert_eq!((refusal.reason, refusal.field), ("token-across-boundary", "chosen"));
    assert!(refusal.message.contains("assistant\\n\" then \"\\n\\nGood"), "{}", refusal.message);
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
    let fickle = CHATML_BOS
        .replace("{% if add", "{% if messages[0].content == 'Q' and messages | length > 1 %}...{% endif %}{% if add");
    let fickle = fickle.replace("{{ bos_token }}", "{{ bos_token }}{% if messages[0].content == 'Q' and messages | length > 1 %}({{ messages | length }}){% endif %}");
    let tokenizer = with(&fickle, false);
    let refusal = refused(&tokenizer, "Q", ["Good", "Bad"]);
    assert_eq!((refusal.reason, refusal.field), ("prompt-not-prefix", "chosen"));
    let message = &refusal.message;
    assert!(
        message.starts_with("the chat template `own` renders") && message.contains("\"(2)<|im_start|>"),
        "{message}"
    );
    row(&tokenizer, "R", ["Good", "Bad"]);
}

#[test]
fn what_a_template_raises_is_told_with_its_reason() {
    let strict = CHATML_BOS.replace(
        "{{ bos_token }}",
        "{{ bos_token }}{% if messages[0].content == 'Q' %}{{ raise_exception('no Q') }}{% endif %}",
    );
    let tokenizer = with(&strict, false);
    let refusal = refused(&tokenizer, "Q", ["Good", "Bad"]);
    assert_eq!((refusal.reason, refusal.field), ("template-refused", "prompt"));
    assert_eq!(refusal.message, "chat template own: no Q (line 1 of the template)");
    let late = CHATML_BOS.replace(
        "{{ bos_token }}",
        "{{ bos_token }}{% if messages[-1].content == 'Bad' %}{{ raise_exception('no Bad') }}{% endif %}",
    );
    let refusal = refused(&with(&late, false), "Q", ["Good", "Bad"]);
    assert_eq!((refusal.reason, refusal.field), ("template-refused", "rejected"));
    let endless = CHATML_BOS.replace("'<|im_end|>\n'", "('' if m.content == 'Bad' else '<|im_end|>') + '\n'");
    let refusal = refused(&with(&endless, false), "Q", ["Good", "Bad"]);
    assert_eq!((refusal.reason, refusal.field), ("turn-not-ended", "rejected"));
}

#[test]
fn a_message_that_the_template_leaves_out_is_refused_and_a_changed_one_counted() {
    // As many templates do, this one knows three roles.
    let three = CHATML_BOS
        .replace("{{ '<|im_start|>'", "{% if m.role != 'tool' %}{{ '<|im_start|>'")
        .replace("{% endfor %}", "{% endif %}{% endfor %}");
    let tokenizer = with(&three, false);
    let turns = [("user", "Is it Q?"), ("assistant", "I ask."), ("tool", " It is R. "), ("user", "So?")];
    let config = TokenizeConfig::default();
    let Encoded::Refused(refusal) = encode(&tokenizer, &turns, ["Good", "Bad"], &config).unwrap() else { panic!() };
    assert_eq!((refusal.reason, refusal.field), ("template-refused", "prompt"));
    assert_eq!(refusal.message, "the chat template `own` leaves out message 3 (role `tool`): \"It is R.\"");
    let turns = turns.map(|(role, content)| says(role, content));
    let error = tokenizer.encode_prompt(&turns).unwrap_err().to_string();
    assert!(error.contains("leaves out message 3"), "{error}");
    tokenizer.encode_prompt(&turns[..2]).unwrap();
    // A text without anything in it is not missed, nor one that is written in another place.
    let turns = [("tool", " \n"), ("user", "Q"), ("tool", "R")];
    assert!(matches!(encode(&tokenizer, &turns[..2], ["Good", "Bad"], &config), Ok(Encoded::Row(_))));
    let moved = three.replace("{{ bos_token }}", "{{ bos_token }}{{ messages[-1].content if messages | length > 2 }}");
    let turns = turns.map(|(role, content)| says(role, content));
    assert!(tokenizer.encode_prompt(&turns).is_err());
    with(&moved, false).encode_prompt(&turns).unwrap();

    // What a model thought before it answered is left out by some templates.
    let answers = CHATML_BOS.replace("m.content", "m.content.split('</think>')[-1]");
    let tokenizer = with(&answers, false);
    let changed = EncodeCounts { texts_changed: 1, ..EncodeCounts::default() };
    for (prompt, sides, counts) in [
        ("<think>Hm</think>Q", ["Good", "Bad"], changed),
        ("Q", ["<think>Hm</think>Good", "<think>Hm</think>Bad"], changed),
        (" Q ", [" Good ", "Bad"], EncodeCounts::default()),
    ] {
        assert_eq!(counted(&tokenizer, prompt, sides, &config).1, counts, "{prompt}");
    }
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
    let whole = row(&tokenizer, "QR", sides);
    let n = whole.prompt_ids.len();
    let config =
        |max_length, max_prompt_length| TokenizeConfig { max_length, max_prompt_length, ..TokenizeConfig::default() };
    let counts = |config: TokenizeConfig| counted(&tokenizer, "QR", sides, &config).1;
    assert_eq!(counts(config(n + 11, n)), EncodeCounts::default());
    assert_eq!(counts(config(n + 10, n)), EncodeCounts { rejected_cut: 1, ..EncodeCounts::default() });
    assert_eq!(
        counts(config(n + 7, n - 1)),
        EncodeCounts {
            prompts_cut: 1,
            prompts_cut_at_token: 1,
            chosen_cut: 1,
            rejected_cut: 1,
            ..EncodeCounts::default()
        }
    );
    let inside = counted(&tokenizer, "Q", ["a<|im_end|>b", "c<|im_end|>"], &config(99, 99)).1;
    assert_eq!(inside, EncodeCounts { ends_inside: 1, marks_inside: 1, ..EncodeCounts::default() });
    let mut sum = inside;
    sum += inside;
    assert_eq!((sum.ends_inside, sum.marks_inside), (2, 2));
    // A header in the prompt, or the end of turn at the end of a response.
    let marks = EncodeCounts { marks_inside: 1, ..EncodeCounts::default() };
    assert_eq!(tokenizer.marks(), ["<|im_start|>", "<|im_end|>"]);
    for (prompt, chosen) in [("<|im_start|>system", "a"), ("Q", "a<|im_end|>")] {
        assert_eq!(counted(&tokenizer, prompt, [chosen, "b"], &config(99, 99)).1, marks);
    }
    // A token that the template does not write is none of its marks.
    let other = counted(&tokenizer, "<|endoftext|>", ["a", "b"], &config(99, 99)).1;
    assert_eq!(other, EncodeCounts::default());
    // A pair that is dropped is not counted.
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
    row(&tokenizer, "Q <|endoftext|>", ["Good", "Bad"]);
    let refusal = refused(&tokenizer, "<|endoftext|>Q", ["Good", "Bad"]);
    assert_eq!((refusal.reason, refusal.field), ("two-beginnings", "prompt"));
    assert!(refusal.message.contains("begins with `<|endoftext|>` twice"), "{}", refusal.message);
    // This template writes no BOS.
    let bare = with("{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}", false);
    row(&bare, "<|endoftext|>Q", ["Good", "Bad"]);
    assert_eq!(refused(&bare, "<|endoftext|><|endoftext|>Q", ["Good", "Bad"]).reason, "two-beginnings");
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
            Encoded::Refused(refusal) => refusal.reason,
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

/// Tokenizers that write blanks as U+2581 and line feeds as a byte token, which is special, as in some models' files;
/// with templates whose header ends in different ways.
fn with_bytes_for_line_feeds() -> Vec<ModelTokenizer> {
    let templates = [
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
        "{% for m in messages %}{{ '(' + m.role + ')\n' + m.content + eos_token + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '(assistant)\n' }}{% endif %}",
        "{% for m in messages %}{{ unk_token + m.role + '\n\n' + m.content + eos_token + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ unk_token + 'assistant\n\n' }}{% endif %}",
        "{% for m in messages %}{{ m.content + (unk_token if m.role == 'user' else eos_token) }}{% endfor %}",
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
    ];
    let mut made = Vec::new();
    for mut shape in shapes() {
        let model = &mut shape["model"];
        model["vocab"].as_object_mut().unwrap().retain(|token, _| !token.contains('\n'));
        model["merges"].as_array_mut().unwrap().retain(|m| !m[0].as_str().unwrap().contains('\n'));
        let added = ["<unk>", "<s>", "</s>", "<0x0A>"].map(|token| {
            json!({"id": model["vocab"][token], "content": token, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        });
        shape["added_tokens"] = json!(added);
        for template in templates {
            let parts = Parts {
                model: "test".into(),
                json: serde_json::to_vec(&shape).unwrap(),
                specials: [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")]
                    .map(|(a, b)| (a.into(), b.into()))
                    .into(),
                add_bos: Some(false),
                template: Some(("own".into(), template.into())),
                ..Parts::default()
            };
            made.push(ModelTokenizer::assemble(parts, "auto").unwrap());
        }
    }
    made
}

/// Compares a pair's ids with those of the whole conversation; false, without a comparison, if a boundary was forced.
fn is_as_whole(tokenizer: &ModelTokenizer, prompt: &str, response: &str) -> bool {
    let config = TokenizeConfig { max_length: 1 << 20, max_prompt_length: 1 << 20, ..TokenizeConfig::default() };
    let conversation = [says("user", prompt), says("assistant", response)];
    let (chosen, rejected) = (&conversation[1..], [says("assistant", "zzz")]);
    let pair = PairText { id: "", prompt: &conversation[..1], chosen, rejected: &rejected, flipped: false, source: "" };
    let mut counts = EncodeCounts::default();
    let encoded = tokenizer.encode_pair_counted(&pair, &config, &mut counts).unwrap();
    let Encoded::Row(row) = encoded else { panic!("{encoded:?}") };
    let text = tokenizer.template().render(&conversation, false).unwrap();
    let ids = tokenizer.inner.encode(text.as_str(), false).unwrap().get_ids().to_vec();
    if counts.forced_boundaries > 0 {
        return false;
    }
    let ours = [&row.prompt_ids[..], &row.chosen_ids].concat();
    // If the template writes no end of turn, the appended one takes the position of what it writes instead.
    let n = ours.len() - usize::from(!tokenizer.turn.rendered);
    assert_eq!(ours[..n], ids[..n], "{text:?}");
    assert_eq!(tokenizer.turn.rendered, ids.get(n - 1) == ours.last(), "{text:?}");
    true
}

#[test]
fn no_blank_is_put_before_a_response_behind_a_byte() {
    for tokenizer in with_bytes_for_line_feeds() {
        assert_eq!(tokenizer.decode_token(tokenizer.eot_id()), "</s>", "the byte token does not end a turn");
        assert!(tokenizer.continues && tokenizer.cuts.values().any(|token| token == "<0x0A>"));
        let whole = ["good", " good", "the good", "\n\nthe", "<0x0A>the", "<unk> a"];
        let whole = whole.iter().filter(|response| is_as_whole(&tokenizer, "the\nthing", response)).count();
        assert!(whole >= 4, "{whole} of {:?}", tokenizer.template().source());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn prompt_and_response_are_the_whole_conversation(
        prompt in r"([ \nabdeghinot.!()\u{e9}\u{1f600}]| the|good|<s>|<0x0A>|<unk>){1,12}",
        response in r"([ \nabdeghinot.!()\u{e9}\u{1f600}]| the|good|<0x0A>|<unk>){1,12}",
    ) {
        thread_local!(static ALL: Vec<ModelTokenizer> = with_bytes_for_line_feeds());
        // Two BOS at the beginning are refused.
        prop_assume!(!prompt.starts_with("<s>"));
        ALL.with(|all| all.iter().for_each(|tokenizer| assert!(is_as_whole(tokenizer, &prompt, &response) || tokenizer.continues)));
    }
}

#[test]
fn texts_of_tokens_need_no_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    for tokenizer in with_bytes_for_line_feeds().into_iter().chain([tiny()]) {
        tokenizer.save(dir.path()).unwrap();
        let texts = crate::tokenize::TokenTexts::open(dir.path()).unwrap();
        let all = 0..tokenizer.vocab_size() as u32 + 2;
        all.for_each(|id| assert_eq!(texts.of(id), tokenizer.decode_token(id)));
    }
    let own = crate::tokenize::TokenTexts::open(dir.path()).unwrap();
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("tokenizer.json")).unwrap()).unwrap();
    let vocabulary = json["model"]["vocab"].as_object_mut().unwrap();
    let id = vocabulary.remove("a").unwrap();
    vocabulary.insert("another".into(), id.clone());
    vocabulary.insert("more".into(), 5000.into());
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    let other = crate::tokenize::TokenTexts::open(dir.path()).unwrap();
    let id = id.as_u64().unwrap() as u32;
    assert_eq!(own.first_difference(&other, 0..6000), Some((id, "a".into(), "another".into())));
    assert_eq!(own.first_difference(&other, [id + 1, 5000]), None);
    std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    assert!(crate::tokenize::TokenTexts::open(dir.path()).unwrap_err().to_string().contains("model"));
}
