//! Chat templates: the Jinja that model folders carry, rendered the way
//! `transformers` renders it, and four built-in ones for models that carry none.
//!
//! # Source
//! `apply_chat_template` of `transformers`: `trim_blocks` and `lstrip_blocks`, Python's
//! string methods, `raise_exception`, `strftime_now`, `tojson` without HTML escaping,
//! `{% generation %}` blocks without effect, `tools` and `documents` defined as none.

use std::collections::BTreeMap;
use std::io::Write;

use minijinja::{Environment, ErrorKind, Value};

use crate::error::{Error, Result};
use crate::message::Message;

use super::{python, show};

/// Instructions that one rendering may take: a thousand turns take some 50,000.
const FUEL: u64 = 5_000_000;

/// Bytes that one rendering may write, beyond [`OUTPUT_FACTOR`] times the length of its messages.
const OUTPUT_FLOOR: usize = 1 << 20;

/// How many times longer than its messages a rendering may be.
const OUTPUT_FACTOR: usize = 8;

const NAME: &str = "chat_template";

/// Characters of a text that error messages show.
pub(super) const SHOWN: usize = 60;

/// Built-in templates by name.
pub const BUILTIN: [(&str, &str); 4] = [
    (
        "chatml",
        r"{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    ),
    (
        "llama3",
        r"{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}{{ message['content'] | trim }}{{ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    ),
    (
        "mistral",
        r"{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' and loop.index0 is even %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' and loop.index0 is odd %}{{ message['content'] + eos_token }}{% else %}{{ raise_exception('mistral: turns must alternate, user first, and there is no system role; found role ' + message['role'] + ' at turn ' ~ loop.index) }}{% endif %}{% endfor %}",
    ),
    (
        "zephyr",
        r"{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    ),
];

/// Source of a built-in template.
pub fn builtin(name: &str) -> Option<&'static str> {
    BUILTIN.iter().find(|(n, _)| *n == name).map(|(_, source)| *source)
}

/// What a rendering has of the texts of its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WrittenTexts {
    /// Every text as it is, but for white space around it.
    Whole,
    /// A text is written otherwise, or a part of it.
    Changed,
    /// The rendering is the same whatever this message says.
    LeftOut(usize),
}

/// A compiled chat template with the special tokens it may name.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    name: String,
    source: String,
    specials: Value,
}

impl ChatTemplate {
    /// Compiles a template. `name` is for messages; `specials` become variables (`bos_token` ...).
    ///
    /// # Errors
    /// [`Error::Model`] where the template's syntax is not understood.
    pub fn new(name: &str, source: &str, specials: &BTreeMap<String, String>) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        python::prepare(&mut environment);
        environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| show::strftime(&format));
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|e| Error::model(format!("chat template {name}"), e.to_string()))?;
        Ok(ChatTemplate {
            environment,
            name: name.to_string(),
            source: source.to_string(),
            specials: Value::from_serialize(specials),
        })
    }

    /// `own` for the model's template, else a built-in's name or a file's path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// BLAKE3 of the template's text, lower-case hex.
    pub fn hash(&self) -> String {
        blake3::hash(self.source.as_bytes()).to_hex().to_string()
    }

    /// Messages as template values, to be rendered more than once.
    pub fn values(messages: &[Message]) -> Vec<Value> {
        messages.iter().map(Value::from_serialize).collect()
    }

    /// Renders messages, with the header of the assistant's next turn where asked for.
    ///
    /// # Errors
    /// [`Error::Model`] where the template raises an exception, fails, runs too long or writes too much.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_values(Self::values(messages), add_generation_prompt)
    }

    /// [`ChatTemplate::render`] on values made by [`ChatTemplate::values`].
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_values(&self, messages: Vec<Value>, add_generation_prompt: bool) -> Result<String> {
        let fail = |what: String| Error::model(format!("chat template {}", self.name), what);
        let given: usize = messages.iter().map(content_length).sum();
        let mut out = Limited {
            text: Vec::with_capacity(given + 256),
            limit: given.saturating_mul(OUTPUT_FACTOR).saturating_add(OUTPUT_FLOOR),
            exceeded: false,
        };
        let context = minijinja::context! {
            messages => messages,
            add_generation_prompt => add_generation_prompt,
            tools => Value::from(()),
            documents => Value::from(()),
            ..self.specials.clone()
        };
        let template = self.environment.get_template(NAME).map_err(|e| fail(e.to_string()))?;
        let outcome = template.render_captured_to(context, &mut out).map(|_| ());
        if out.exceeded {
            return Err(fail(format!("wrote more than {} bytes for {given} bytes of messages", out.limit)));
        }
        outcome.map_err(|e| match e.kind() {
            ErrorKind::OutOfFuel => fail(format!("ran longer than {FUEL} steps")),
            ErrorKind::InvalidOperation => fail(match (e.detail(), e.line()) {
                (Some(detail), Some(line)) => format!("{detail} (line {line} of the template)"),
                _ => e.to_string(),
            }),
            _ => fail(e.to_string()),
        })?;
        // The writer is only ever given whole strings.
        String::from_utf8(out.text).map_err(|_| fail("wrote something that is not UTF-8".into()))
    }

    /// What `rendered`, a rendering of these messages, has of their texts. Many templates write nothing for a role that
    /// they do not know.
    pub(super) fn written(&self, messages: &[Message], rendered: &str, add_generation_prompt: bool) -> WrittenTexts {
        let mut written = WrittenTexts::Whole;
        let mut from = 0;
        for (i, message) in messages.iter().enumerate() {
            let text = message.content.trim();
            if let Some(at) = rendered[from..].find(text) {
                from += at + text.len();
                continue;
            }
            let mut otherwise = messages.to_vec();
            otherwise[i].content = "probetext".into();
            if self.render(&otherwise, add_generation_prompt).is_ok_and(|other| other == rendered) {
                return WrittenTexts::LeftOut(i);
            }
            // A template may write the texts in another order than they have.
            if !rendered.contains(text) {
                written = WrittenTexts::Changed;
            }
        }
        written
    }

    /// The message about a message whose text is [`WrittenTexts::LeftOut`].
    pub(super) fn left_out(&self, messages: &[Message], at: usize) -> String {
        let Message { role, content } = &messages[at];
        let show: String = content.trim().chars().take(SHOWN).collect();
        format!("the chat template `{}` leaves out message {} (role `{role}`): {show:?}", self.name, at + 1)
    }
}

/// The message about a template whose rendering of a conversation does not begin with that of its prompt.
pub(super) fn not_a_prefix(template: &str, prompt: &str, full: &str) -> String {
    let same = prompt.bytes().zip(full.bytes()).take_while(|(a, b)| a == b).count();
    let at = (0..=same).rev().find(|i| prompt.is_char_boundary(*i) && full.is_char_boundary(*i)).unwrap_or(0);
    let show = |text: &str| text[at..].chars().take(SHOWN).collect::<String>();
    format!(
        "the chat template `{template}` renders the prompt differently alone and with its response: \
         at byte {at} {:?} alone, {:?} with it",
        show(prompt),
        show(full)
    )
}

fn content_length(message: &Value) -> usize {
    message.get_attr("content").ok().and_then(|c| c.as_str().map(str::len)).unwrap_or(0)
}

/// Collects output up to a limit.
struct Limited {
    text: Vec<u8>,
    limit: usize,
    exceeded: bool,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.text.len() + bytes.len() > self.limit {
            self.exceeded = true;
            return Err(std::io::Error::other("output too long"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Replaces `{% generation %}` by a block without effect, with its whitespace control. It marks the assistant's text
/// for loss masks, which this program computes otherwise.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let Some(end) = rest.find("%}") else { break };
        let inner = &rest[2..end];
        let bare = inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let replaced = match bare {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        match replaced {
            Some(word) => {
                out.push_str("{%");
                out.push_str(&inner.replacen(bare, word, 1));
                out.push_str("%}");
            }
            None => out.push_str(&rest[..end + 2]),
        }
        rest = &rest[end + 2..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::super::tokenizer::tests::says;
    use super::*;

    fn template(source: &str) -> ChatTemplate {
        let specials = BTreeMap::from([("bos_token".into(), "<s>".into()), ("eos_token".into(), "</s>".into())]);
        ChatTemplate::new("test", source, &specials).unwrap()
    }

    fn render(source: &str, content: &str) -> Result<String> {
        template(source).render(&[says("user", content)], false)
    }

    fn turns() -> Vec<Message> {
        vec![says("user", "Hi"), says("assistant", "Yo. "), says("user", " Bye")]
    }

    #[test]
    fn built_in_templates_golden() {
        let system = [says("system", "Be brief."), says("user", "<b>&\"'")];
        for (name, of_turns, of_system) in [
            (
                "chatml",
                "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo. <|im_end|>\n<|im_start|>user\n Bye<|im_end|>\n<|im_start|>assistant\n",
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<b>&\"'<|im_end|>\n",
            ),
            (
                "llama3",
                "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYo.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
                "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n<b>&\"'<|eot_id|>",
            ),
            (
                "zephyr",
                "<|user|>\nHi</s>\n<|assistant|>\nYo. </s>\n<|user|>\n Bye</s>\n<|assistant|>\n",
                "<|system|>\nBe brief.</s>\n<|user|>\n<b>&\"'</s>\n",
            ),
        ] {
            let template = template(builtin(name).unwrap());
            assert_eq!(template.render(&turns(), true).unwrap(), of_turns, "{name}");
            assert_eq!(template.render(&system, false).unwrap(), of_system, "{name}");
        }
    }

    #[test]
    fn mistral_golden() {
        let t = template(builtin("mistral").unwrap());
        assert_eq!(t.render(&turns(), true).unwrap(), "<s>[INST] Hi [/INST]Yo. </s>[INST]  Bye [/INST]");
        let refused = t.render(&[says("system", "S"), says("user", "U")], false).unwrap_err().to_string();
        assert!(refused.contains("no system role; found role system at turn 1"), "{refused}");
        assert!(t.render(&[says("user", "U"), says("user", "U")], false).is_err());
    }

    #[test]
    fn blocks_leave_no_lines() {
        let source = "{% for m in messages %}\n    {% if m.role == 'user' %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}\nend\n";
        assert_eq!(render(source, "x").unwrap(), "x\nend");
    }

    #[test]
    fn exceptions_carry_their_text() {
        let error = render("{{ raise_exception('only even days') }}", "").unwrap_err();
        assert_eq!(error.to_string(), "chat template test: only even days (line 1 of the template)");
        assert_eq!(error.exit_code(), 3);
    }

    #[test]
    fn errors_name_template_line_and_what_is_wrong() {
        for (source, what) in [
            ("\n{{ messages[0].content.shout() }}", "shout"),
            ("\n{{ 'a' | striptags }}", "striptags"),
            ("\n{{ 'a' is spoken }}", "spoken"),
            ("\n{{ [1].append(2) }}", "may not change a list: .append()"),
            ("\n{{ {}.update({}) }}", "may not change a mapping: .update()"),
            ("\n{{ nobody.content }}", "undefined"),
            ("\n{{ messages[0].content + 1 }}", "+"),
            ("\n{{ none | length }}", "has no length"),
            ("\n{{ nobody | tojson }}", "not JSON"),
            ("\n{{ 'a'.split('') }}", "empty separator"),
            ("\n{{ 'a'.ljust(9) }}", "no method named ljust"),
        ] {
            let error = render(source, "x").unwrap_err().to_string();
            let line = error.contains("line 2") || error.contains(":2)");
            assert!(error.starts_with("chat template test: ") && error.contains(what) && line, "{source:?}: {error}");
        }
        let deep = "{% set ns = namespace(l=[]) %}{% for i in range(200) %}{% set ns.l = [ns.l] %}{% endfor %}";
        for shown in ["{{ ns.l }}", "{{ ns.l | tojson }}", "{{ ns.l | string }}"] {
            assert!(render(&format!("{deep}{shown}"), "").unwrap_err().to_string().contains("nested more than"));
        }
    }

    #[test]
    fn endless_templates_are_stopped() {
        let nested = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
        assert!(render(nested, "").unwrap_err().to_string().contains("ran longer"));
        let loud = "{% for a in range(9999) %}{{ 'x' * 1000 }}{% endfor %}";
        assert!(render(loud, "").unwrap_err().to_string().contains("wrote more than"));
        assert!(render("{{ 'x' * 99999999999 }}", "").is_err());
        let macros = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
        assert!(render(macros, "").is_err());
    }

    #[test]
    fn nothing_is_loaded() {
        assert!(render("{% include '/etc/hostname' %}", "").is_err());
        assert!(render("{% from '/etc/hostname' import x %}", "").is_err());
    }

    #[test]
    fn python_methods() {
        let source = "{% set c = messages[0].content %}{{ c.strip() }}|{{ c.split('-')[-1] }}|{{ c.upper() }}|{{ c.startswith(' a') }}|{{ messages[0].get('name') is none }}|{{ c.replace('b', 'B') }}|{{ messages[0].items() | list | length }}|{{ messages[::-1] | length }}|{{ messages[0]['tool_calls'] is defined }}";
        assert_eq!(render(source, " a-b ").unwrap(), "a-b|b | A-B |True|True| a-B |2|1|False");
    }

    #[test]
    fn namespaces_and_loop_controls() {
        let source = "{% set ns = namespace(n=0) %}{% for x in range(10) %}{% if x == 3 %}{% break %}{% endif %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}";
        assert_eq!(render(source, "").unwrap(), "3");
    }

    #[test]
    fn json_as_python_writes_it() {
        assert_eq!(
            render("{{ messages[0] | tojson }}", "<é>\n\"").unwrap(),
            r#"{"role": "user", "content": "<é>\n\""}"#
        );
        assert_eq!(
            render("{{ [1, {'a': []}] | tojson(indent=2) }}", "").unwrap(),
            "[\n  1,\n  {\n    \"a\": []\n  }\n]"
        );
    }

    #[test]
    fn generation_blocks_have_no_effect() {
        let source = "{% for m in messages %}{%- generation -%}  {{ m.content }}  {%- endgeneration -%} {% endfor %}";
        assert_eq!(render(source, "x").unwrap(), "x");
        assert_eq!(without_generation_tags("{% generation %}"), "{% if true %}");
    }

    #[test]
    fn the_day_is_fixed() {
        assert_eq!(render("{{ strftime_now('%d %b %Y') }}", "").unwrap(), "26 Jul 2024");
        assert_eq!(render("{{ strftime_now('%U %W %V %k|%-k %l %P') }}", "").unwrap(), "29 30 30  0|0 12 am");
        assert!(render("{{ strftime_now('%Q') }}", "").is_err());
        let rounded = "{{ 2.5 | round }} {{ 1.25 | round(1) }} {{ 7 | round }} {{ 1.21 | round(1, 'ceil') }}";
        assert_eq!(render(rounded, "").unwrap(), "2.0 1.2 7 1.3");
        assert_eq!(render("{% if tools is none %}{{ bos_token }}{% endif %}{{ pad_token }}", "").unwrap(), "<s>");
        let iterable = "{{ tools is iterable }} {{ messages is iterable }} {{ 'a' is iterable }} {{ 1 is iterable }}";
        assert_eq!(render(iterable, "").unwrap(), "False True True False");
    }

    #[test]
    fn broken_syntax_is_refused() {
        let specials = BTreeMap::new();
        assert!(ChatTemplate::new("test", "{% for %}", &specials).is_err());
    }
}
