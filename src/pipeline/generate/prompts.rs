//! The prompts of `generate`: those on the command line, and those of a file.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::ingest::{Input, UNREAD_COLUMNS, benchmarks};
use crate::message::{ASSISTANT, Message, SYSTEM};
use crate::pipeline::prepare::inputs;
use crate::pipeline::recipe::GenerateConfig;
use crate::progress::Progress;
use crate::prompt;
use crate::schema::col;

/// Fields that hold a prompt: AlpacaEval's, TRL's, those of question sets, and chats. The first that a row has is read.
const FIELDS: [&str; 4] = ["instruction", "prompt", "question", "messages"];

/// Fields that hold a system message.
const SYSTEMS: [&str; 3] = ["system", "system_prompt", "system_message"];

/// Keys of a message that are read.
const READ: [&str; 2] = [col::ROLE, col::CONTENT];

/// A field that is read behind `instruction`, as in LLaMA-Factory's data.
const INPUT: &str = "input";

/// Fields that are part of a prompt and are not read, beside [`UNREAD_COLUMNS`].
const UNREAD: [&str; 2] = ["history", "context"];

/// One prompt.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// Messages before the answer.
    pub messages: Vec<Message>,
    /// As in prepared folders.
    pub id: String,
    /// File and line that it came from; none for one on the command line.
    origin: Option<(PathBuf, u64)>,
}

impl Prompt {
    fn new(messages: Vec<Message>, origin: Option<(PathBuf, u64)>) -> Prompt {
        let id = prompt::id(messages.iter().map(|m| (m.role.as_str(), m.content.as_str())));
        Prompt { messages, id, origin }
    }

    /// The prompt as one text.
    pub fn text(&self) -> Cow<'_, str> {
        prompt::text(self.messages.iter().map(|m| (m.role.as_str(), m.content.as_str())))
    }

    /// A fault of this prompt.
    pub fn fault(&self, message: &str) -> Error {
        match &self.origin {
            Some((file, line)) => fault(file, Some(*line), None, message),
            None => Error::config("generate.prompt", message),
        }
    }
}

fn fault(path: &Path, line: Option<u64>, field: Option<&str>, message: &str) -> Error {
    let field = field.map(str::to_string);
    Error::Data { path: path.to_path_buf(), line, field, message: message.into(), hint: None }
}

/// All prompts, in their order.
///
/// # Errors
/// [`Error::Data`] with file and line for a row without a prompt; [`Error::Io`].
pub fn read(config: &GenerateConfig, progress: &dyn Progress) -> Result<Vec<Prompt>> {
    let mut prompts: Vec<Prompt> =
        config.prompt.iter().map(|text| Prompt::new(vec![Message::user(text)], None)).collect();
    if config.prompts.is_empty() {
        return Ok(prompts);
    }
    let path = Path::new(&config.prompts);
    if path.is_file() && path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("txt")) {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        // Editors write a byte-order mark, which is no part of the first prompt.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
        prompts.extend(lines.map(|(n, line)| Prompt::new(vec![Message::user(line)], Some((path.into(), n)))));
    } else {
        for input in inputs::resolve(std::slice::from_ref(&config.prompts), progress)? {
            for (line, row) in benchmarks::rows(&input)? {
                prompts.push(of_row(&input, line, &row)?);
            }
        }
    }
    if prompts.is_empty() {
        return Err(fault(path, None, None, "no prompt in it"));
    }
    Ok(prompts)
}

fn of_row(input: &Input, line: u64, row: &Value) -> Result<Prompt> {
    let fault = |field: Option<&str>, message: &str| fault(&input.label, Some(line), field, message);
    let found = FIELDS.iter().find_map(|name| Some((*name, row.get(*name).filter(|value| !value.is_null())?)));
    let Some((field, value)) = found else {
        let known = FIELDS.join(", ");
        return Err(fault(None, &format!("no prompt: none of the fields {known}")));
    };
    let text = |name: &str| match row.get(name).filter(|value| !is_empty(value)) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(fault(Some(name), "expected a text")),
    };
    let more = text(INPUT)?;
    if more.is_some() && !(field == FIELDS[0] && value.is_string()) {
        return Err(fault(Some(INPUT), "is part of a prompt beside a text `instruction` alone, and would be dropped"));
    }
    for name in UNREAD.iter().chain(&UNREAD_COLUMNS) {
        if row.get(*name).is_some_and(|value| !is_empty(value)) {
            return Err(fault(
                Some(name),
                "is part of the prompt, and would be dropped: only text is read, in `messages`",
            ));
        }
    }
    let mut messages = match (value, more) {
        (Value::String(text), Some(more)) => vec![Message::user(format!("{text}\n{more}"))],
        (Value::String(text), None) => vec![Message::user(text)],
        (Value::Array(items), _) => {
            let message = |(at, item): (usize, &Value)| {
                let unread = |(key, value): &(&String, &Value)| !READ.contains(&key.as_str()) && !is_empty(value);
                if let Some((key, _)) = item.as_object().into_iter().flatten().find(unread) {
                    return Err(fault(Some(&format!("{field}[{at}].{key}")), "is not read, and would be dropped"));
                }
                serde_json::from_value::<Message>(item.clone())
                    .map_err(|e| fault(Some(field), &format!("expected a text or messages of role and content: {e}")))
            };
            items.iter().enumerate().map(message).collect::<Result<Vec<Message>>>()?
        }
        _ => return Err(fault(Some(field), "expected a text or messages of role and content")),
    };
    for name in SYSTEMS {
        match (text(name)?, messages.first()) {
            (Some(system), Some(first)) if first.role == SYSTEM && first.content != system => {
                return Err(fault(Some(name), "the prompt begins with another system message than this field has"));
            }
            (Some(system), Some(first)) if first.role != SYSTEM => messages.insert(0, Message::new(SYSTEM, system)),
            _ => {}
        }
    }
    match messages.last() {
        None => Err(fault(Some(field), "no messages")),
        Some(last) if last.role == ASSISTANT => {
            Err(fault(Some(field), "ends with an assistant's message: there is nothing to answer"))
        }
        Some(_) => Ok(Prompt::new(messages, Some((input.label.clone(), line)))),
    }
}

/// Whether a value says nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn of(name: &str, content: &str) -> Result<Vec<Prompt>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let prompts = path.display().to_string();
        read(&GenerateConfig { prompts, prompt: vec!["First".into()], ..GenerateConfig::default() }, &Silent)
    }

    #[test]
    fn prompts_are_found_in_every_layout() {
        let texts = |name: &str, content: &str| -> Vec<String> {
            of(name, content).unwrap().iter().map(|p| p.text().into_owned()).collect()
        };
        assert_eq!(texts("a.txt", "One\n\n Two \n"), ["First", "One", " Two "]);
        assert_eq!(texts("a.json", r#"[{"dataset": "x", "instruction": "One"}]"#), ["First", "One"]);
        let lines = "{\"prompt\": \"One\"}\n{\"messages\": [{\"role\": \"system\", \"content\": \"S\"}, \
                     {\"role\": \"user\", \"content\": \"U\"}]}\n{\"question\": \"Three\", \"instruction\": null}\n";
        assert_eq!(texts("a.jsonl", lines), ["First", "One", "system: S\n\nuser: U", "Three"]);
        assert_eq!(texts("a.csv", "id,prompt\n1,One\n"), ["First", "One"]);
        let messages = of("a.jsonl", lines).unwrap()[2].messages.clone();
        assert_eq!(messages, [Message::new("system", "S"), Message::user("U")]);
    }

    #[test]
    fn what_belongs_to_a_prompt_is_read_or_refused() {
        let read = |row: &str| of("a.jsonl", row).map(|prompts| prompts[1].messages.clone());
        let (system, user) = (Message::new("system", "S"), Message::user("One"));
        assert_eq!(read(r#"{"instruction": "One", "input": "Two"}"#).unwrap(), [Message::user("One\nTwo")]);
        assert_eq!(
            read(r#"{"prompt": "One", "system": "S", "input": "", "tools": []}"#).unwrap(),
            [system.clone(), user.clone()]
        );
        let chat = r#"[{"role": "system", "content": "S"}, {"role": "user", "content": "One", "tool_calls": null}]"#;
        assert_eq!(read(&format!(r#"{{"messages": {chat}, "system_prompt": "S"}}"#)).unwrap(), [system, user]);
        for (row, said) in [
            (r#"{"prompt": "One", "input": "Two"}"#, "input: is part of a prompt beside a text `instruction` alone"),
            (r#"{"instruction": "One", "history": [["a", "b"]]}"#, "history: is part of the prompt"),
            (r#"{"question": "One", "context": "C"}"#, "context: is part of the prompt"),
            (r#"{"prompt": "One", "images": ["x.png"]}"#, "images: is part of the prompt"),
            (r#"{"prompt": "One", "tools": [{"name": "f"}]}"#, "tools: is part of the prompt"),
            (r#"{"prompt": "One", "system": 3}"#, "system: expected a text"),
            (r#"{"prompt": [{"role": "user", "content": "x", "name": "Bo"}]}"#, "prompt[0].name: is not read"),
        ] {
            let error = read(row).unwrap_err();
            assert!(error.to_string().contains(&format!("line 1: {said}")), "{error}");
        }
        let error = read(&format!(r#"{{"messages": {chat}, "system": "T"}}"#)).unwrap_err();
        assert!(error.to_string().contains("line 1: system: the prompt begins with another system message"), "{error}");
        assert_eq!(of("a.txt", "\u{feff}One\n").unwrap()[1].text(), "One");
    }

    #[test]
    fn rows_without_a_prompt_are_named() {
        let said = |content: &str| {
            let error = of("a.jsonl", content).unwrap_err();
            assert_eq!(error.exit_code(), 3);
            error.to_string()
        };
        assert!(said("{\"prompt\": \"One\"}\n\n{\"answer\": \"Two\"}\n").contains("line 3: no prompt: none of the"));
        assert!(said("{\"prompt\": 3}\n").contains("line 1: prompt: expected a text or messages"));
        assert!(said("{\"prompt\": []}\n").contains("line 1: prompt: no messages"));
        let turn = "{\"messages\": [{\"role\": \"assistant\", \"content\": \"A\"}]}\n";
        assert!(said(turn).contains("line 1: messages: ends with an assistant's message"));
    }
}
