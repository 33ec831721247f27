//! Long prompts, cut by the tiny tokenizer.

use proptest::prelude::*;

use super::super::template::builtin;
use super::super::tokenizer::tests::{says, tiny, with};
use super::super::{EncodeCounts, Encoded, PairText, TokenizeConfig};
use super::*;

const LLAMA2: &str = "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}";

/// What is kept of a prompt as text, and where it was cut; `None` where the pair is dropped.
fn cut(tokenizer: &ModelTokenizer, prompt: &[(&str, &str)], most: usize) -> Option<(String, CutAt, usize)> {
    let prompt: Vec<Message> = prompt.iter().map(|(role, content)| says(role, content)).collect();
    let (chosen, rejected) = ([says("assistant", "Good")], [says("assistant", "Bad")]);
    let pair = PairText { id: "a", prompt: &prompt, chosen: &chosen, rejected: &rejected, flipped: false, source: "" };
    let config = TokenizeConfig { max_length: most + 64, max_prompt_length: most, ..TokenizeConfig::default() };
    let mut counts = EncodeCounts::default();
    let Encoded::Row(row) = tokenizer.encode_pair_counted(&pair, &config, &mut counts).unwrap() else { return None };
    let at = match (counts.prompts_cut, counts.prompts_cut_at_message, counts.prompts_cut_at_line) {
        (1, 1, 0) => CutAt::Message,
        (1, 0, 1) => CutAt::Line,
        (1, 0, 0) => CutAt::Token,
        other => panic!("{other:?}"),
    };
    assert_eq!(counts.prompts_cut_at_token, u64::from(at == CutAt::Token));
    assert!(row.truncated && row.prompt_ids.len() <= most, "{} of {most}", row.prompt_ids.len());
    Some((tokenizer.decode(&row.prompt_ids, false).unwrap(), at, row.prompt_ids.len()))
}

fn length(tokenizer: &ModelTokenizer, text: &str) -> usize {
    tokenizer.encode_text(text).unwrap().len()
}

fn user(content: &str) -> String {
    format!("<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n")
}

#[test]
fn whole_messages_go_first() {
    let tokenizer = tiny();
    let prompt = [("system", "Be brief."), ("user", "one two three"), ("assistant", "four"), ("user", "five\nsix")];
    let last = user("five\nsix");
    let two = format!("<|im_start|>assistant\nfour<|im_end|>\n{last}");
    for (wanted, most) in
        [(&two, length(&tokenizer, &two)), (&two, length(&tokenizer, &two) + 5), (&last, length(&tokenizer, &last))]
    {
        let (text, at, _) = cut(&tokenizer, &prompt, most).unwrap();
        assert_eq!((&text, at), (wanted, CutAt::Message));
    }
}

#[test]
fn then_lines_of_the_last_message_behind_its_opening() {
    let tokenizer = tiny();
    let prompt = [("system", "Be brief."), ("user", "one two three\nfour\n\nfive six")];
    let (lines, tail) = (user("four\n\nfive six"), user("five six"));
    for most in length(&tokenizer, &tail)..length(&tokenizer, &user("one two three\nfour\n\nfive six")) {
        let (text, at, _) = cut(&tokenizer, &prompt, most).unwrap();
        let wanted = if most >= length(&tokenizer, &lines) { &lines } else { &tail };
        assert_eq!(
            (text.replace("\n\nfive", "\nfive"), at),
            (wanted.replace("\n\nfive", "\nfive"), CutAt::Line),
            "{most}"
        );
    }
}

#[test]
fn then_tokens_of_a_line() {
    let tokenizer = tiny();
    let whole = length(&tokenizer, &user("abcdefgh"));
    let (text, at, n) = cut(&tokenizer, &[("user", "abcdefgh")], whole - 3).unwrap();
    assert_eq!((text, at, n), (user("defgh"), CutAt::Token, whole - 3));
    // Bytes of one character stay together.
    let emoji = length(&tokenizer, &user("x\u{1f600}yz"));
    let (text, at, n) = cut(&tokenizer, &[("user", "x\u{1f600}yz")], emoji - 2).unwrap();
    assert_eq!((text, at, n), (user("yz"), CutAt::Token, emoji - 5));
    // Something of the message is left, or the pair is dropped.
    let least = length(&tokenizer, &user("h"));
    assert_eq!(cut(&tokenizer, &[("user", "abcdefgh")], least).unwrap().0, user("h"));
    let bare = length(&tokenizer, "h<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(cut(&tokenizer, &[("user", "abcdefgh")], bare - 1), None);
}

#[test]
fn an_opening_that_takes_most_of_the_room_goes() {
    let template = builtin("chatml").unwrap().replace("{% for", "{{ 'abcdefghijklmnopqrstuvwxyz' }}{% for");
    let tokenizer = with(&template, false);
    let opening = length(&tokenizer, "abcdefghijklmnopqrstuvwxyz<|im_start|>user\n");
    let content = "0123456789".repeat(9);
    let (text, _, _) = cut(&tokenizer, &[("user", &content)], 2 * opening).unwrap();
    assert!(text.starts_with("abcdefghijklmnopqrstuvwxyz<|im_start|>user\n"), "{text}");
    // Room for the opening and a few tokens more.
    let template = builtin("chatml").unwrap().replace("{% for", "{{ 'abcdefghijklmnopqrstuvwxyz' * 4 }}{% for");
    let tokenizer = with(&template, false);
    let opening = length(&tokenizer, &format!("{}<|im_start|>user\n", "abcdefghijklmnopqrstuvwxyz".repeat(4)));
    let most = opening + length(&tokenizer, "0123<|im_end|>\n<|im_start|>assistant\n");
    let content = "0123456789".repeat(20);
    let (text, at, n) = cut(&tokenizer, &[("user", &content)], most).unwrap();
    assert_eq!((at, n), (CutAt::Token, most));
    assert!(user(&content).ends_with(&text), "{text}");
}

#[test]
fn the_beginning_of_sequence_stays_and_is_there_once() {
    let bos = |text: &str| text.matches("<|endoftext|>").count();
    let chatml = builtin("chatml").unwrap();
    let with_bos = format!("{{{{ bos_token }}}}{chatml}");
    for (template, adds) in [(with_bos.as_str(), false), (with_bos.as_str(), true), (chatml, true)] {
        let tokenizer = with(template, adds);
        let most = length(&tokenizer, &user("five")) + 1;
        for prompt in [&[("user", "one"), ("assistant", "two"), ("user", "five")][..], &[("user", "one two\nfive")]] {
            let (text, _, _) = cut(&tokenizer, prompt, most).unwrap();
            assert_eq!(text, format!("<|endoftext|>{}", user("five")));
        }
    }
    // This template writes a BOS before every turn of the user.
    let tokenizer = with(LLAMA2, false);
    let prompt = [("user", "one"), ("assistant", "two"), ("user", "three")];
    let (text, at, _) = cut(&tokenizer, &prompt, length(&tokenizer, "<|endoftext|>[INST] three [/INST]")).unwrap();
    assert_eq!((text.as_str(), at, bos(&text)), ("<|endoftext|>[INST] three [/INST]", CutAt::Message, 1));
    let (text, at, _) =
        cut(&tokenizer, &[("user", "abcdefgh")], length(&tokenizer, "<|endoftext|>[INST] h [/INST]") + 1).unwrap();
    assert_eq!((text.as_str(), at), ("<|endoftext|>[INST] gh [/INST]", CutAt::Token));
}

#[test]
fn templates_without_clear_beginnings() {
    // The text before a message depends on the number of messages, and the template changes the messages' texts.
    let counted = "{{ messages | length }}{% for m in messages %}{{ '<|im_start|>' + m.content | upper + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}";
    let counted =
        counted.replace("{{ messages | length }}", "{{ '' if messages | length < 3 else messages | length }}");
    let counted = counted.replace("m.content | upper", "(m.content | upper if m.role == 'user' else m.content)");
    let tokenizer = with(&counted, false);
    let prompt = [("user", "abc"), ("user", "d\nef"), ("user", "ghi\njklm")];
    let rendered = "3<|im_start|>ABC<|im_end|><|im_start|>D\nEF<|im_end|><|im_start|>GHI\nJKLM<|im_end|><|im_start|>";
    for most in 8..30 {
        let messages: Vec<Message> = prompt.iter().map(|(role, content)| says(role, content)).collect();
        let values = super::super::template::ChatTemplate::values(&messages);
        let (ids, spans) = tokenizer.pieces(rendered, super::super::parts::Before::Nothing).unwrap();
        assert_eq!(tokenizer.template().render(&messages, true).unwrap(), rendered);
        let head = Head { text: rendered.into(), ids, spans, cut: 0, kept: 0 };
        if head.ids.len() <= most {
            continue;
        }
        let (ids, at) = tokenizer.cut_prompt(&messages, &values, &head, most).unwrap();
        let text = tokenizer.decode(&ids, false).unwrap();
        let wanted = if most < length(&tokenizer, "EF<|im_end|><|im_start|>GHI\nJKLM<|im_end|><|im_start|>") {
            "JKLM"
        } else {
            "EF"
        };
        assert!(rendered.ends_with(&text) && text.starts_with(wanted) && at == CutAt::Line, "{most}: {text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever is cut fits, ends as the whole prompt does, and begins with a mark of the template.
    #[test]
    fn what_is_kept_fits_and_is_of_the_prompt(
        texts in proptest::collection::vec("[a-c \n\u{e9}\u{1f600}]{0,40}", 1..6),
        most in 1usize..60,
    ) {
        let tokenizer = with(&format!("{{{{ bos_token }}}}{}", builtin("chatml").unwrap()), false);
        let messages: Vec<Message> =
            texts.iter().enumerate().map(|(i, t)| says(if i % 2 == 0 { "user" } else { "assistant" }, t)).collect();
        let whole = tokenizer.encode_prompt(&messages).unwrap();
        prop_assume!(whole.len() > most);
        let prompt: Vec<(&str, &str)> = messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
        if let Some((text, at, n)) = cut(&tokenizer, &prompt, most) {
            prop_assert!(n <= most);
            prop_assert!(text.starts_with("<|endoftext|>") && text.ends_with("<|im_end|>\n<|im_start|>assistant\n"));
            prop_assert!(at != CutAt::Message || text.starts_with("<|endoftext|><|im_start|>"));
            prop_assert_eq!(text.find(char::REPLACEMENT_CHARACTER), None);
        }
    }
}
