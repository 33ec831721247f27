use std::collections::BTreeMap;
use std::path::Path;

use super::super::json::parse_json;
use super::super::names::Names;
use super::super::record::{Body, Side, Turn};
use super::super::{IngestConfig, OnWrongTens, Score};
use super::*;

fn object(line: &str) -> Object<'static> {
    match parse_json(line, &Names::default()).unwrap().into_owned() {
        Value::Object(object) => object,
        other => panic!("{other:?}"),
    }
}

fn turns(turns: &[Turn<'_>]) -> String {
    turns.iter().map(|t| format!("{}: {}", t.role, t.content)).collect::<Vec<_>>().join(" / ")
}

/// A record in one line.
fn shown(record: &Record<'_>) -> String {
    let side = |side: &Side<'_>| {
        let score = side.score.map_or(String::new(), |s| format!(" {s}"));
        format!("{}{score}{}", turns(&side.turns), side.model.as_deref().map_or(String::new(), |m| format!(" by {m}")))
    };
    let body = match &record.body {
        Body::Pair(chosen, rejected) => format!("{} > {}", side(chosen), side(rejected)),
        Body::Completions(all) => {
            let one = |c: &crate::ingest::record::Completion<'_>| format!("{} {:?}", c.response, c.score);
            all.iter().map(one).collect::<Vec<_>>().join(", ")
        }
    };
    let source = record.source.as_deref().map_or(String::new(), |s| format!("[{s}] "));
    format!("{source}{} => {body}", turns(&record.prompt))
}

/// The layout that is recognised for a row, and the record or the fault that it gives.
fn told(line: &str) -> String {
    let row = object(line);
    let layout = Layout::of(&row);
    let name = layout.map_or("none".to_string(), |l| format!("{:?}", l.format));
    match read(layout, row, &IngestConfig::default(), Vec::new) {
        Ok(record) => format!("{name} {}", shown(&record)),
        Err(fault) => {
            let kind = if fault.decision { "decision " } else { "" };
            format!("{name} {kind}{}: {}: {}", fault.reason, fault.field, fault.message)
        }
    }
}

/// Compares what [`told`] gives for each row.
fn check(cases: &[(&str, &str)]) {
    for (line, wanted) in cases {
        assert_eq!(told(line), *wanted, "{line}");
    }
}

mod beside;
mod known_sets;

#[test]
fn every_sample_is_told_by_its_rows() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/samples");
    let wanted = BTreeMap::from([
        ("ultrafeedback.jsonl", Format::Ultrafeedback),
        ("binarized.jsonl", Format::Binarized),
        ("ultrafeedback_cleaned.jsonl", Format::Binarized),
        ("argilla.jsonl", Format::Argilla),
        ("trl_standard.jsonl", Format::Trl),
        ("trl_conversational.jsonl", Format::Trl),
        ("trl_implicit.jsonl", Format::Trl),
        ("hh_rlhf.jsonl", Format::HhRlhf),
        ("helpsteer2.jsonl", Format::Helpsteer2),
        ("helpsteer3.jsonl", Format::Helpsteer3),
        ("tulu3.jsonl", Format::Mixture),
        ("skywork.jsonl", Format::Mixture),
        ("orca.jsonl", Format::Orca),
        ("alpaca.json", Format::Alpaca),
        ("sharegpt.json", Format::Sharegpt),
        ("nemo_rl.jsonl", Format::NemoRl),
    ]);
    for entry in std::fs::read_dir(&samples).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let text = std::fs::read_to_string(samples.join(&name)).unwrap();
        let rows: Vec<serde_json::Value> = match name.rsplit('.').next() {
            Some("csv") => continue,
            Some("json") => serde_json::from_str(&text).unwrap(),
            _ => text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        };
        let wanted = *wanted.get(name.as_str()).unwrap_or_else(|| panic!("{name} is in no test"));
        for row in rows {
            let row = object(&row.to_string());
            assert_eq!(Layout::of(&row).unwrap().format, wanted, "{name}");
            let own = Layout::named(wanted);
            read(own, row, &IngestConfig::default(), Vec::new).unwrap_or_else(|f| panic!("{name}: {f:?}"));
        }
    }
    let readme = std::fs::read_to_string(samples.join("../README.md")).unwrap();
    assert!(
        wanted.keys().all(|name| readme.contains(&format!("`samples/{name}`"))),
        "data/README.md lists all samples"
    );
}

#[test]
fn every_format_has_a_layout() {
    use clap::ValueEnum;
    for format in Format::value_variants() {
        assert_eq!(Layout::named(*format).is_none(), *format == Format::Auto, "{format:?}");
    }
}

#[test]
fn one_odd_row_does_not_decide_over_a_file() {
    let hh = Layout::named(Format::HhRlhf);
    let trl = Layout::named(Format::Trl);
    let told = |rows: &[Option<&'static Layout>]| Layout::of_most(rows.iter().copied()).map(|l| l.format);
    assert_eq!(told(&[None, trl, hh, hh]), Some(Format::HhRlhf));
    assert_eq!(told(&[trl, hh]), Some(Format::HhRlhf), "the more specific one of two");
    assert_eq!(told(&[None, None]), None);
    let many = [trl].into_iter().cycle().take(64).chain([hh].into_iter().cycle().take(500));
    assert_eq!(Layout::of_most(many).unwrap().format, Format::Trl, "the first ones count");
}

#[test]
fn argilla() {
    let row = |rejected: &str| {
        format!(
            r#"{{"source":"s","prompt":"p","chosen":[{{"role":"user","content":"p"}},{{"role":"assistant","content":"a"}}],"chosen-rating":5,"chosen-model":"m","rejected":{rejected},"rejected-rating":2.5,"rejected-model":"n"}}"#
        )
    };
    check(&[
        (
            &row(r#"[{"role":"user","content":"p"},{"role":"assistant","content":"b"}]"#),
            "Argilla [s] user: p => assistant: a 5 by m > assistant: b 2.5 by n",
        ),
        (
            &row(r#"[{"role":"user","content":"q"},{"role":"assistant","content":"b"}]"#),
            "Argilla prompt-mismatch: rejected: expected the messages before the response to be those of chosen",
        ),
        (&row("[]"), "Argilla missing-field: rejected: expected a list of messages, got an empty list"),
    ]);
}

#[test]
fn dialogues() {
    let row = |chosen: &str, rejected: &str| serde_json::json!({"chosen": chosen, "rejected": rejected}).to_string();
    let two = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:";
    check(&[
        (
            &row(&format!("{two} d\n\ne"), &format!("{two} f ")),
            "HhRlhf user: a / assistant: b / user: c => assistant: d\n\ne > assistant: f",
        ),
        (
            &row("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant:"),
            "HhRlhf user: a => assistant: b > assistant: ",
        ),
        // Labels count after an empty line only.
        (
            &row(
                "\n\nHuman: say Human: x\nAssistant: y\n\nAssistant: b",
                "Human: say Human: x\nAssistant: y\n\nAssistant: c",
            ),
            "HhRlhf user: say Human: x\nAssistant: y => assistant: b > assistant: c",
        ),
        (
            &row(&format!("{two} d"), "\n\nHuman: a\n\nAssistant: d"),
            "HhRlhf decision different-contexts: rejected: the messages before the response are not those of chosen",
        ),
        (
            &row(&format!("{two} d\n\nHuman: e"), &format!("{two} f")),
            "HhRlhf decision no-response: chosen: the dialogue ends with the person's turn",
        ),
        (
            &row("\n\nHuman: \n\nAssistant: a", "\n\nHuman: \n\nAssistant: b"),
            "HhRlhf no-prompt: chosen: the prompt is empty",
        ),
    ]);
    let forced = read(Layout::named(Format::HhRlhf), object(&row("a", "b")), &IngestConfig::default(), Vec::new);
    let fault = forced.unwrap_err();
    assert_eq!(
        (fault.reason, fault.message.as_str()),
        (reason::WRONG_ROLE, "expected a dialogue that begins with \"Human:\"")
    );
    let number = object(r#"{"chosen": 1, "rejected": "x"}"#);
    let fault = read(Layout::named(Format::HhRlhf), number, &IngestConfig::default(), Vec::new).unwrap_err();
    assert_eq!((fault.field.as_str(), fault.reason), ("chosen", reason::WRONG_TYPE));
}

#[test]
fn helpsteer2() {
    let row = |prompt: &str, strength: &str| {
        let prompt = serde_json::Value::from(prompt);
        format!(r#"{{"prompt":{prompt},"response_1":"a","response_2":"b","preference_strength":{strength}}}"#)
    };
    check(&[
        (&row("p", "-2"), "Helpsteer2 user: p => assistant: a 2 > assistant: b 0"),
        (&row("p", "3"), "Helpsteer2 user: p => assistant: b 3 > assistant: a 0"),
        (&row("p", "0"), "Helpsteer2 decision no-preference: preference_strength: neither response is preferred"),
        (
            &row("q\n<extra_id_1>Assistant\nr\n\ns\n<extra_id_1>User\nt\n<extra_id_1>Assistant\n", "1"),
            "Helpsteer2 user: q / assistant: r\n\ns / user: t => assistant: b 1 > assistant: a 0",
        ),
        (&row("<extra_id_1>User\nq", "1"), "Helpsteer2 user: q => assistant: b 1 > assistant: a 0"),
        (
            &row("q<extra_id_1>Robot", "1"),
            "Helpsteer2 wrong-role: prompt: expected User or Assistant after <extra_id_1>",
        ),
        (&row("", "1"), "Helpsteer2 no-prompt: prompt: the prompt is empty"),
        (&row("p", "\"2\""), "Helpsteer2 user: p => assistant: b 2 > assistant: a 0"),
        (&row("p", "NaN"), "Helpsteer2 not-finite: preference_strength: expected a finite number, got NaN"),
        (
            r#"{"prompt":"p","response_1":"a","response_2":["b"],"preference_strength":1}"#,
            "Helpsteer2 wrong-type: response_2: expected a string, got a list",
        ),
        (
            r#"{"prompt":"p","response":"a","helpfulness":3}"#,
            "none unknown-layout: : expected instruction and completions, or chosen and rejected; the row has no known field; rows with one rated response each give no pairs: HelpSteer2 has its pairs in preference/",
        ),
    ]);
}

#[test]
fn helpsteer3() {
    let row = |context: &str, preference: &str| {
        format!(r#"{{"context":{context},"response1":"a","response2":"b","overall_preference":{preference}}}"#)
    };
    let context = r#"[{"role":"system","content":"s"},{"role":"user","content":"p"}]"#;
    check(&[
        (&row(context, "-1"), "Helpsteer3 system: s / user: p => assistant: a 1 > assistant: b 0"),
        (&row(context, "2"), "Helpsteer3 system: s / user: p => assistant: b 2 > assistant: a 0"),
        (&row("\"p\"", "2"), "Helpsteer3 user: p => assistant: b 2 > assistant: a 0"),
        (&row(context, "0"), "Helpsteer3 decision no-preference: overall_preference: neither response is preferred"),
        (&row("[]", "1"), "Helpsteer3 missing-field: context: expected a list of messages, got an empty list"),
        (&row("[1]", "1"), "Helpsteer3 wrong-type: context[0]: expected a message with role and content, got 1"),
        (&row("7", "1"), "Helpsteer3 wrong-type: context: expected a list of messages, got 7"),
        (&row(context, "[]"), "Helpsteer3 wrong-type: overall_preference: expected a number, got an empty list"),
    ]);
}

#[test]
fn mixtures() {
    let row = |prompt: &str, chosen: &str, rejected: &str| {
        let side = |text: &str| {
            let role = |i: usize| if i.is_multiple_of(2) { "user" } else { "assistant" };
            let turns = text.split('|').enumerate();
            let turns = turns.map(|(i, t)| serde_json::json!({"role": role(i), "content": t}));
            serde_json::Value::from_iter(turns)
        };
        format!(r#"{{"source":"wild",{prompt}"chosen":{},"rejected":{}}}"#, side(chosen), side(rejected))
    };
    check(&[
        (&row("", "p|a", "p|b"), "Mixture [wild] user: p => assistant: a > assistant: b"),
        (
            &row("\"prompt\":\"p\",\"id\":\"1\",", "p|a|q|r", "p|a|q|s"),
            "Mixture [wild] user: p / assistant: a / user: q => assistant: r > assistant: s",
        ),
        (
            &row("", "p|a|q|r", "p|a"),
            "Mixture decision different-contexts: rejected: the messages before the response are not those of chosen",
        ),
        (
            &row("", "p|a|q", "p|b"),
            "Mixture wrong-role: chosen[2].role: expected \"assistant\" in the last message, got \"user\"",
        ),
    ]);
    let scored = row("\"chosen_score\":8,\"rejected_score\":5,\"chosen_model\":\"m\",", "p|a", "p|b");
    let record = read(Layout::named(Format::Mixture), object(&scored), &IngestConfig::default(), Vec::new).unwrap();
    let Body::Pair(chosen, rejected) = record.body else { panic!("a pair") };
    assert_eq!((chosen.score, rejected.score, chosen.model.as_deref()), (Some(8.0), Some(5.0), Some("m")));
    let lonely = r#"{"source":"s","chosen":[{"role":"assistant","content":"a"}],"rejected":[{"role":"assistant","content":"b"}]}"#;
    check(&[
        (lonely, "Mixture no-prompt: chosen: chosen holds no message before the response"),
        (
            &lonely.replace("\"source\"", "\"prompt\":\"p\",\"source\""),
            "Mixture [s] user: p => assistant: a > assistant: b",
        ),
    ]);
}

#[test]
fn orca() {
    check(&[
        (
            r#"{"system":"s","question":"q","chosen":"a","rejected":"b"}"#,
            "Orca system: s / user: q => assistant: a > assistant: b",
        ),
        (r#"{"system":"","question":"q","chosen":"a","rejected":"b"}"#, "Orca user: q => assistant: a > assistant: b"),
        (
            r#"{"system":"s","question":" ","chosen":"a","rejected":"b"}"#,
            "Orca no-prompt: question: the prompt is empty",
        ),
        (
            r#"{"system":1,"question":"q","chosen":"a","rejected":"b"}"#,
            "Orca wrong-type: system: expected a string, got 1",
        ),
        (
            r#"{"question":"q","chosen":"a","rejected":["b"]}"#,
            "Orca wrong-type: rejected: expected a string, got a list",
        ),
    ]);
}

#[test]
fn alpaca() {
    check(&[
        (
            r#"{"instruction":"i","input":"x","chosen":"a","rejected":"b","score_chosen":2}"#,
            "Alpaca user: i\nx => assistant: a 2 > assistant: b",
        ),
        (
            r#"{"system":"s","history":[["h","m"]],"instruction":"i","input":null,"chosen":"a","rejected":"b"}"#,
            "Alpaca system: s / user: h / assistant: m / user: i => assistant: a > assistant: b",
        ),
        (
            r#"{"history":[["h","m"],["h"]],"instruction":"i","chosen":"a","rejected":"b"}"#,
            "Alpaca wrong-type: history[1]: expected two strings, got a value of type another kind",
        ),
        (
            r#"{"history":"h","instruction":"i","chosen":"a","rejected":"b"}"#,
            "Alpaca wrong-type: history: expected a list of pairs of strings, got \"h\"",
        ),
        (
            r#"{"instruction":"","input":"","chosen":"a","rejected":"b"}"#,
            "Alpaca no-prompt: instruction: the prompt is empty",
        ),
        (r#"{"instruction":"i","chosen":1,"rejected":"b"}"#, "Alpaca wrong-type: chosen: expected a string, got 1"),
    ]);
}

#[test]
fn sharegpt() {
    let row = |conversations: &str, chosen: &str| {
        format!(r#"{{"conversations":{conversations},"chosen":{chosen},"rejected":{{"from":"gpt","value":"b"}}}}"#)
    };
    let answer = r#"{"from":"gpt","value":"a"}"#;
    check(&[
        (
            &row(
                r#"[{"from":"human","value":"p"},{"from":"gpt","value":"r"},{"from":"observation","value":"o"}]"#,
                answer,
            ),
            "Sharegpt user: p / assistant: r / tool: o => assistant: a > assistant: b",
        ),
        (
            &row(r#"[{"from":"gpt","value":"p"}]"#, answer),
            "Sharegpt wrong-role: conversations[0].from: expected the last message to be the person's",
        ),
        (
            &row(r#"[{"from":"bing","value":"p"}]"#, answer),
            "Sharegpt wrong-role: conversations[0].from: expected human, gpt, system or observation, got \"bing\"",
        ),
        (
            &row(r#"[{"from":"human","value":"p"}]"#, r#"{"from":"human","value":"a"}"#),
            "Sharegpt wrong-role: chosen.from: expected \"gpt\", got \"user\"",
        ),
        (
            &row(r#"[{"from":"human","value":"p"}]"#, r#"{"from":"gpt"}"#),
            "Sharegpt missing-field: chosen.value: missing; expected a string",
        ),
        (
            &row("[]", answer),
            "Trl prompt-mismatch: prompt: missing, and chosen and rejected do not begin with the same messages",
        ),
        (&row("[3]", answer), "Sharegpt wrong-type: conversations[0]: expected a message with role and content, got 3"),
        (&row("7", answer), "Sharegpt wrong-type: conversations: expected a list of messages, got 7"),
    ]);
}

#[test]
fn ranked_completions() {
    let row =
        |completions: &str| format!(r#"{{"context":[{{"role":"user","content":"p"}}],"completions":{completions}}}"#);
    check(&[
        (
            &row(r#"[{"rank":1,"completion":[{"role":"assistant","content":"b"}]},{"rank":0,"completion":"a"}]"#),
            "NemoRl user: p => b Some(-1.0), a Some(0.0)",
        ),
        (&row("[]"), "NemoRl no-completions: completions: expected completions, got an empty list"),
        (&row(r#"[{"completion":"a"}]"#), "NemoRl missing-field: completions[0].rank: missing; expected a number"),
        (
            &row(r#"[{"rank":0,"completion":[{"role":"user","content":"a"}]}]"#),
            "NemoRl wrong-role: completions[0].completion[0].role: expected \"assistant\" in the last message, got \"user\"",
        ),
        (
            &row(r#"[{"rank":0,"completion":[{"role":"user","content":"a"},{"role":"assistant","content":"a"}]}]"#),
            "NemoRl wrong-type: completions[0].completion: expected one message, got several",
        ),
        (&row("[5]"), "NemoRl wrong-type: completions[0]: expected an object, got 5"),
    ]);
}

#[test]
fn dialogues_may_have_other_line_breaks() {
    let row = |chosen: &str, rejected: &str| serde_json::json!({"chosen": chosen, "rejected": rejected}).to_string();
    let wanted = "HhRlhf user: a / assistant: b / user: c\nAssistant says d => assistant: x\ny > assistant: z";
    let common = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\nAssistant says d\n\nAssistant:";
    let two = row(&format!("{common} x\ny"), &format!("{common} z"));
    assert_eq!(told(&two), wanted);
    assert_eq!(told(&two.replace("\\n", "\\r\\n")), wanted.replace('\n', "\r\n"));
    let common = "Human: a\nAssistant: b\nHuman: c\nAssistant:";
    let one = row(&format!("{common} x\ny"), &format!("{common} z"));
    let wanted = "HhRlhf user: a / assistant: b / user: c => assistant: x\ny > assistant: z";
    assert_eq!(told(&one), wanted);
    assert_eq!(told(&one.replace("\\n", "\\r\\n")), wanted.replace('\n', "\r\n"));
}

#[test]
fn given_prompts_that_conversations_repeat_are_taken_once() {
    let turn = |role: &str, text: &str| serde_json::json!({"role": role, "content": text});
    let (u, a) = (|t: &str| turn("user", t), |t: &str| turn("assistant", t));
    let row = |chosen: &[serde_json::Value], rejected: &[serde_json::Value]| {
        serde_json::json!({"prompt": [u("p")], "chosen": chosen, "rejected": rejected}).to_string()
    };
    check(&[
        (&row(&[u("p"), a("x")], &[a("y")]), "Trl user: p => assistant: x > assistant: y"),
        (
            &row(&[u("p"), a("r"), u("q"), a("x")], &[u("p"), a("r"), u("q"), a("y")]),
            "Trl user: p / assistant: r / user: q => assistant: x > assistant: y",
        ),
        (
            &row(&[u("p"), a("r"), u("q"), a("x")], &[u("p"), a("s")]),
            "Trl user: p => assistant: r / user: q / assistant: x > assistant: s",
        ),
    ]);
}

fn raw(completions: &str) -> String {
    format!(r#"{{"instruction":"p","completions":[{completions}]}}"#)
}

#[test]
fn tens_that_the_ratings_belie() {
    let ratings =
        |r: &str| format!(r#""annotations":{{"helpfulness":{{"Rating":"{r}"}},"honesty":{{"Rating":"N/A"}}}}"#);
    let row = raw(&[
        format!(r#"{{"response":"a","overall_score":10,{}}}"#, ratings("2")),
        format!(r#"{{"response":"b","overall_score":10.0,{}}}"#, ratings("4")),
        format!(r#"{{"response":"c","overall_score":10,{}}}"#, ratings("5")),
        // The set's own mean comes first; ratings that cannot be read are ignored.
        format!(r#"{{"response":"d","overall_score":10,"fine-grained_score":1.25,{}}}"#, ratings("5")),
        format!(r#"{{"response":"e","overall_score":10,{}}}"#, ratings("many")),
        r#"{"response":"f","overall_score":10}"#.to_string(),
        format!(r#"{{"response":"g","overall_score":9,{}}}"#, ratings("1")),
    ]
    .join(","));
    let with = |wrong_tens, score| {
        let config = IngestConfig { wrong_tens, score, ..IngestConfig::default() };
        read(Layout::named(Format::Ultrafeedback), object(&row), &config, Vec::new)
    };
    for policy in [OnWrongTens::Warn, OnWrongTens::Keep, OnWrongTens::Reject] {
        let record = with(policy, Score::Overall).unwrap();
        assert_eq!((record.wrong_tens.certain, record.wrong_tens.suspicious), (2, 1));
        let wanted = "user: p => a Some(10.0), b Some(10.0), c Some(10.0), d Some(10.0), e Some(10.0), f Some(10.0), g Some(9.0)";
        assert_eq!(shown(&record), wanted);
    }
    let repaired = with(OnWrongTens::Repair, Score::Overall).unwrap();
    let wanted = "user: p => a Some(1.0), b None, c Some(10.0), d Some(1.0), e Some(10.0), f Some(10.0), g Some(9.0)";
    assert_eq!(shown(&repaired), wanted);
    assert_eq!((repaired.wrong_tens.certain, repaired.wrong_tens.suspicious), (2, 1));
}

#[test]
fn what_all_layouts_have_in_common() {
    let row = |more: &str| format!(r#"{{"prompt":"p","chosen":"a","rejected":"b",{more}}}"#);
    let record = read(
        Layout::named(Format::Trl),
        object(&row(r#""source":"s","annotator":17,"flip_probability":0.25,"weight":2"#)),
        &IngestConfig::default(),
        Vec::new,
    )
    .unwrap();
    assert_eq!(
        (record.source.as_deref(), record.annotator.as_deref(), record.flip_probability, record.weight),
        (Some("s"), Some("17"), Some(0.25), Some(2.0))
    );
    check(&[
        (&row(r#""source":[]"#), "Trl wrong-type: source: expected a string or a number, got an empty list"),
        (&row(r#""annotator":true"#), "Trl wrong-type: annotator: expected a string or a number, got true"),
        (
            &row(r#""flip_probability":1.5"#),
            "Trl wrong-type: flip_probability: expected a probability between 0 and 1, got 1.5",
        ),
        (&row(r#""flip_probability":NaN"#), "Trl not-finite: flip_probability: expected a finite number, got NaN"),
        (&row(r#""weight":-0.5"#), "Trl wrong-type: weight: expected a number from 0, got -0.5"),
        (&row(r#""weight":NaN"#), "Trl not-finite: weight: expected a finite number, got NaN"),
        (&row(r#""weight":[1]"#), "Trl wrong-type: weight: expected a number, got a list"),
    ]);
}
