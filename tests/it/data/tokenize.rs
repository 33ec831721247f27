//! What transformers renders and tokenizes, against what we do; see `tests/fixtures/tokenize/record.py`.

use std::path::{Path, PathBuf};

use lpc_pipe::message::Message;
use lpc_pipe::source::ModelSource;
use lpc_pipe::tokenize::{EncodeCounts, Encoded, ModelTokenizer, PairText, TokenizeConfig};
use serde_json::Value;

use crate::support::repository;

fn fixtures() -> PathBuf {
    repository().join("tests/fixtures/tokenize")
}

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn load(tokenizer: &str, template: &str) -> ModelTokenizer {
    let template = fixtures().join("templates").join(format!("{template}.jinja"));
    let config = TokenizeConfig { template: template.display().to_string(), ..TokenizeConfig::default() };
    let folder = fixtures().join("tokenizers").join(tokenizer);
    ModelTokenizer::load(&ModelSource::Folder(folder), &config).unwrap()
}

fn messages(value: &Value) -> Vec<Message> {
    serde_json::from_value(value.clone()).expect("messages")
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("ids")
}

/// The recorded pairs of template and tokenizer.
fn goldens() -> Vec<(String, Value)> {
    let folder = std::fs::read_dir(fixtures().join("goldens")).expect("goldens");
    let mut found: Vec<(String, Value)> = folder
        .map(|entry| entry.expect("a file").path())
        .map(|path| (path.file_stem().expect("a name").to_string_lossy().into_owned(), read(&path)))
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(found.len() >= 15, "only {} pairs were recorded", found.len());
    found
}

fn open(golden: &Value) -> ModelTokenizer {
    load(golden["tokenizer"].as_str().expect("a name"), golden["template"].as_str().expect("a name"))
}

#[test]
fn conversations_are_rendered_and_tokenized_as_by_transformers() {
    let (mut compared, mut refused, mut left_out) = (0, 0, 0);
    let mut faults = Vec::new();
    for (name, golden) in goldens() {
        let tokenizer = open(&golden);
        assert_eq!(u64::from(tokenizer.eot_id()), golden["end"], "{name}: end of turn");
        assert_eq!(tokenizer.facts()["eot_by_template"], golden["written"], "{name}");
        assert_eq!(tokenizer.facts()["adds_bos"], golden["adds_bos"], "{name}");
        for row in golden["conversations"].as_array().expect("conversations") {
            let given = messages(&row["messages"]);
            if let Some(error) = row["error"].as_str() {
                let found = tokenizer.template().render(&given, false).expect_err(error).to_string();
                // What a template raises is told word for word; what Python says of its own is not.
                if !error.contains("undefined") && !found.contains(error) {
                    faults.push(format!(
                        "{name} {given:?}\n  expected the error {error:?}\n  found              {found:?}"
                    ));
                }
                refused += 1;
                continue;
            }
            for (generation, text, wanted) in [(false, "text", "ids"), (true, "prompt_text", "prompt_ids")] {
                let rendered = tokenizer.template().render(&given, generation).unwrap_or_else(|e| format!("{e}"));
                if rendered != row[text] {
                    faults.push(format!("{name} {given:?}\n  expected {}\n  rendered {rendered:?}", row[text]));
                    continue;
                }
                let wanted = ids(&row[wanted]);
                let found = tokenizer.encode_text(&rendered).unwrap();
                if found != wanted {
                    faults.push(format!("{name} {rendered:?}\n  expected {wanted:?}\n  found    {found:?}"));
                }
                if generation {
                    match tokenizer.encode_prompt(&given) {
                        Ok(found) => assert_eq!(found, tokenizer.with_bos(wanted), "{name}"),
                        // What transformers leaves out in silence is refused.
                        Err(error) => {
                            assert!(error.to_string().contains("leaves out message"), "{name} {error}");
                            assert!(
                                given.iter().any(|message| !rendered.contains(message.content.trim())),
                                "{rendered}"
                            );
                            left_out += 1;
                        }
                    }
                }
                compared += 1;
            }
        }
    }
    assert!(faults.is_empty(), "{} differences\n{}", faults.len(), faults.join("\n"));
    assert!(compared > 500 && refused > 20, "{compared} compared, {refused} refused");
    assert!(left_out > 0 && left_out < compared / 20, "{left_out} of {compared}");
}

#[test]
fn pairs_are_split_where_transformers_ends_the_prompt() {
    let (mut compared, mut refused, mut forced) = (0, 0, 0);
    let mut faults = Vec::new();
    for (name, golden) in goldens() {
        let tokenizer = open(&golden);
        for row in golden["pairs"].as_array().expect("pairs") {
            let prompt = messages(&row["prompt"]);
            let side = |side: &str| [Message::assistant(row[side].as_str().expect("a response"))];
            let (chosen, rejected) = (side("chosen"), side("rejected"));
            let pair =
                PairText { id: "x", prompt: &prompt, chosen: &chosen, rejected: &rejected, flipped: false, source: "" };
            let config =
                TokenizeConfig { max_length: 1 << 20, max_prompt_length: 1 << 20, ..TokenizeConfig::default() };
            let mut counts = EncodeCounts::default();
            let encoded = tokenizer.encode_pair_counted(&pair, &config, &mut counts);
            if let Some(error) = row["error"].as_str() {
                let found = match encoded.unwrap() {
                    Encoded::Refused(refusal) => refusal.message,
                    other => format!("{other:?}"),
                };
                if !error.contains("undefined") && !found.contains(error) {
                    faults
                        .push(format!("{name} {row}\n  expected the error {error:?}\n  found              {found:?}"));
                }
                refused += 1;
                continue;
            }
            let found = match encoded {
                Ok(Encoded::Row(row)) => row,
                // Two texts that a template trims to the same one.
                Ok(Encoded::Dropped { reason, .. }) if row["chosen_ids"] == row["rejected_ids"] => {
                    assert_eq!(reason, "identical-after-truncation", "{name}");
                    continue;
                }
                other => {
                    faults.push(format!("{name} {row}\n  found {other:?}"));
                    continue;
                }
            };
            for (what, found) in [
                ("prompt_ids", &found.prompt_ids),
                ("chosen_ids", &found.chosen_ids),
                ("rejected_ids", &found.rejected_ids),
            ] {
                if *found != ids(&row[what]) {
                    faults.push(format!(
                        "{name} {what} of {} / {} / {}\n  expected {}\n  found    {found:?}",
                        row["prompt"], row["chosen"], row["rejected"], row[what]
                    ));
                }
                assert!(found.len() < 2 || tokenizer.bos_id().is_none_or(|bos| found[..2] != [bos, bos]), "{name}");
            }
            let expected = row["forced"].as_array().expect("two").iter().filter(|f| **f == true).count() as u64;
            if counts.forced_boundaries != expected {
                faults.push(format!("{name} {row}\n  forced {} times, not {expected}", counts.forced_boundaries));
            }
            forced += expected;
            compared += 1;
        }
    }
    assert!(faults.is_empty(), "{} differences\n{}", faults.len(), faults.join("\n"));
    assert!(compared > 200 && forced > 6 && refused > 0, "{compared} compared, {forced} forced, {refused} refused");
}

/// Expressions that differ on purpose or do not matter, and why.
const DIFFERENT: &[(&str, &str)] = &[
    // A tuple is a list here, and shows as one; nothing else tells them apart.
    ("{{ ('a', 'b') }}", TUPLE),
    ("{{ ('a',) }}", TUPLE),
    ("{{ () }}", TUPLE),
    ("{{ {'a': 1, 'b': 2}.items() | list }}", TUPLE),
    ("{{ {'items': 1}.items() | list }}", TUPLE),
    ("{{ messages[0].items() | list }}", TUPLE),
    ("{{ {'b': 1, 'a': 2} | dictsort }}", TUPLE),
    ("{{ {'b': 1, 'a': 2} | items | list }}", TUPLE),
    // Texts in templates.
    ("{{ '\\u00e9\\U0001f600' | length }}", LITERAL),
    ("{{ '\\u00e9\\U0001f600' | tojson(ensure_ascii=true) }}", LITERAL),
    ("{{ '\\x41\\u0042\\101\\t|\\'|\\\"|\\\\|\\/' }}", LITERAL),
    // Refused here: a template with it is an error, never another text.
    ("{{ '%s is %d' % ('x', 3) }}", REFUSED),
    ("{{ '%s' % 'x' }}", REFUSED),
    ("{{ '%05.1f|%x|%-4s|' % (2.25, 255, 'a') }}", REFUSED),
    ("{{ dict([('a', 1)]) }}", REFUSED),
    ("{{ 2 ** -1 }}", REFUSED),
    ("{{ '<b>x</b>  y' | striptags }}", REFUSED),
    ("{{ 'abcdef ghi' | truncate(5) }}", REFUSED),
    ("{{ 'a b' | urlencode }}", REFUSED),
    ("{{ 1234567 | filesizeformat }}", REFUSED),
    ("{{ {'x': 1} | xmlattr }}", REFUSED),
    ("{{ 'a b c d' | wordwrap(3) }}", REFUSED),
    ("{{ lipsum(0) }}", REFUSED),
    ("{{ {'a': 'b'} | attr('a') }}", REFUSED),
    ("{{ [1, 'a'] | pprint }}", REFUSED),
    // Accepted here, refused there.
    ("{% for x in none %}x{% endfor %}", ACCEPTED),
    (
        "{% for m in messages %}{% generation %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endgeneration %}{% endfor %}",
        ACCEPTED,
    ),
    ("{% set ns = namespace(_a=1) %}", ACCEPTED),
    // What no template asks for.
    ("{{ '' and 1 }}", "constants are folded to a truth value; values are not"),
    ("{{ self }}", "shown for debugging"),
    (
        "{% macro f(a, b=2) %}{{ a }}{{ b }}{{ varargs is defined }}{% endmacro %}{{ f(1) }}{{ f(1, b=3) }}{{ f('x', 'y') }}",
        "macros have no varargs here",
    ),
];

/// Calls that no chat template is known to make: a template with one is an error.
const NOT_OFFERED: &[&str] = &[
    ".split(none, 1)",
    ".rsplit(",
    ".splitlines(",
    "partition(",
    "('l', 2)",
    "('l', 0, 3)",
    ".swapcase(",
    ".casefold(",
    ".removeprefix(",
    ".removesuffix(",
    "index(",
    ".zfill(",
    "just(",
    "center(",
    ".is",
    ".expandtabs(",
    ".copy(",
    "'x' | int",
    "| int(",
    "| replace('X', 'Y', 1)",
    "join('-', attribute",
    "| e }}",
    "| escape",
    "| wordcount",
    "is callable",
    "cycler(",
    "joiner(",
];
const TUPLE: &str = "tuples are lists";
const LITERAL: &str = "escapes of a kind that minijinja does not know";
const REFUSED: &str = "refused";
const ACCEPTED: &str = "accepted";

#[test]
fn template_expressions_mean_what_they_mean_in_the_sandbox() {
    use lpc_pipe::tokenize::template::ChatTemplate;
    let specials = [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(a, b)| (a.to_string(), b.to_string())).into();
    let given = [
        Message::new("system", "Be kind."),
        Message::user("  Hello World  "),
        Message::assistant("it's a-b-c\n<\u{e9}>"),
    ];
    let recorded = read(&fixtures().join("constructs.json"));
    let rows = recorded["constructs"].as_array().expect("constructs");
    assert!(rows.len() > 400);
    let mut faults = Vec::new();
    for row in rows {
        let source = row["source"].as_str().expect("a source");
        let found = ChatTemplate::new("test", source, &specials).and_then(|t| t.render(&given, false));
        let same = match (&found, row["text"].as_str()) {
            (Ok(found), Some(expected)) => found == expected,
            (Err(_), None) => true,
            _ => false,
        };
        let known = DIFFERENT.iter().find(|(known, _)| *known == source);
        let not_offered = NOT_OFFERED.iter().any(|call| source.contains(call));
        if (not_offered || known.is_some_and(|(_, why)| *why == REFUSED)) && found.is_ok() {
            faults.push(format!("{source}\n  is listed as refused"));
        }
        if same && known.is_some() {
            faults.push(format!("{source}\n  is listed as different, but is the same"));
        } else if !same && known.is_none() && !not_offered {
            let found = found.map(|t| format!("{t:?}")).unwrap_or_else(|e| format!("error: {e}"));
            let expected = row.get("text").unwrap_or(&row["error"]);
            faults.push(format!("{source}\n  expected {expected}\n  found    {found}"));
        }
    }
    assert!(faults.is_empty(), "{} of {} differ\n{}", faults.len(), rows.len(), faults.join("\n"));
}
