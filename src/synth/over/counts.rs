//! The counts of a text that its traits are computed from.

/// Counts of a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TextCounts {
    /// Words: strings between white space with a letter or digit in them, marks of list items aside.
    pub words: u64,
    /// Lines that are not blank.
    pub lines: u64,
    /// Lines that begin with the mark of a list item.
    pub items: u64,
    /// Sentences: ended by `.`, `!`, `?` at a word's end, or by the line.
    pub sentences: u64,
    /// Words of doubt.
    pub hedges: u64,
    /// Words of the first person.
    pub first_person: u64,
    /// Words of the second person.
    pub second_person: u64,
    /// Words with a digit.
    pub figures: u64,
    /// Question marks.
    pub questions: u64,
    /// Exclamation marks.
    pub exclamations: u64,
    /// Headings, bold spans, code spans and code blocks.
    pub marks: u64,
}

impl TextCounts {
    /// Counts in a text.
    pub fn of(text: &str) -> TextCounts {
        let count = |what: char| text.matches(what).count() as u64;
        let (bold, fences) = (text.matches("**").count() as u64, text.matches("```").count() as u64);
        let mut counts = TextCounts {
            questions: count('?'),
            exclamations: count('!'),
            // A span has two marks, and the mark of a code block has three backticks.
            marks: bold / 2 + fences / 2 + (count('`') - 3 * fences) / 2,
            ..TextCounts::default()
        };
        text.lines().map(str::trim).filter(|line| !line.is_empty()).for_each(|line| counts.line(line));
        counts
    }

    fn line(&mut self, line: &str) {
        self.lines += 1;
        let heading = line.trim_start_matches('#');
        self.marks += u64::from(heading.len() < line.len() && heading.starts_with(' '));
        let content = after_item_mark(line);
        self.items += u64::from(content.is_some());
        let mut open = false;
        for token in content.unwrap_or(line).split_whitespace() {
            if !token.contains(char::is_alphanumeric) {
                continue;
            }
            self.word(token);
            // A closing quotation mark, bracket or bold mark may follow the full stop.
            let ended = token.trim_end_matches(['"', '\'', '\u{201d}', '\u{2019}', ')', ']', '*', '_']);
            open = !ended.ends_with(['.', '!', '?']);
            self.sentences += u64::from(!open);
        }
        self.sentences += u64::from(open);
    }

    fn word(&mut self, token: &str) {
        self.words += 1;
        self.figures += u64::from(token.contains(|c: char| c.is_ascii_digit()));
        let bare = token.trim_matches(|c: char| !c.is_alphanumeric());
        // "I'm" and "you're" count as their first part.
        let stem = bare.split(['\'', '\u{2019}']).next().unwrap_or(bare).to_ascii_lowercase();
        match stem.as_str() {
            "i" | "me" | "my" | "mine" | "myself" | "we" | "us" | "our" | "ours" | "ourselves" => {
                // "US" is a country.
                self.first_person += u64::from(bare != "US");
            }
            "you" | "your" | "yours" | "yourself" | "yourselves" => self.second_person += 1,
            "may" | "might" | "could" | "perhaps" | "maybe" | "possibly" | "probably" | "likely" | "seem" | "seems"
            | "appear" | "appears" | "generally" | "usually" | "often" | "sometimes" | "typically" | "unclear"
            | "uncertain" | "unsure" => {
                // "May" inside of a sentence is a month; at the beginning it is rarely the verb.
                self.hedges += u64::from(bare != "May");
            }
            _ => {}
        }
    }

    /// A count per 100 words.
    pub fn per_words(&self, n: u64) -> f64 {
        100.0 * n as f64 / self.words.max(1) as f64
    }
}

/// What follows the mark of a list item: `-`, `*`, `+`, a bullet, or a number of at most three digits with `.` or `)`.
fn after_item_mark(line: &str) -> Option<&str> {
    let rest = match line.strip_prefix(['-', '*', '+', '\u{2022}', '\u{2013}']) {
        Some(rest) => rest,
        None => {
            let digits = line.bytes().take_while(u8::is_ascii_digit).count();
            if !(1..=3).contains(&digits) {
                return None;
            }
            line[digits..].strip_prefix(['.', ')'])?
        }
    };
    rest.starts_with(char::is_whitespace).then(|| rest.trim_start())
}

#[cfg(test)]
mod tests {
    use super::super::traits::{Measure, TRAITS};
    use super::*;

    fn value(name: &str, text: &str) -> f64 {
        let found = TRAITS.iter().find(|t| t.name == name).unwrap();
        let Measure::Text(measure) = found.measure else { panic!("{name} is no trait of the text") };
        measure(&TextCounts::of(text))
    }

    #[test]
    fn every_trait_by_hand() {
        let text = "# Tea\n\nYou may like it, I think! Really?\n- Boil **water** to 95 degrees.\n2) Wait `3` minutes\n";
        // Words: Tea | You may like it, I think! Really? | Boil **water** to 95 degrees. | Wait `3` minutes
        let counts = TextCounts {
            words: 1 + 7 + 5 + 3,
            lines: 4,
            items: 2,
            sentences: 1 + 2 + 1 + 1,
            hedges: 1,
            first_person: 1,
            second_person: 1,
            figures: 2,
            questions: 1,
            exclamations: 1,
            marks: 3,
        };
        assert_eq!(TextCounts::of(text), counts);
        let expected = [
            ("length", 16.0),
            ("lists", 50.0),
            ("hedges", 6.25),
            ("address", 6.25),
            ("figures", 12.5),
            ("first-person", 6.25),
            ("markup", 18.75),
            ("sentences", 3.2),
            ("exclamations", 6.25),
            ("questions", 6.25),
        ];
        assert_eq!(expected.map(|(name, _)| name), TRAITS.map(|t| t.name));
        for (name, wanted) in expected {
            assert_eq!(value(name, text), wanted, "{name}");
            assert_eq!(value(name, ""), 0.0, "{name} of nothing");
        }
    }

    #[test]
    fn what_looks_alike_is_told_apart() {
        // Not items: a negative number, a decimal, bold type, a year.
        for line in ["-5 degrees", "3.5 litres", "**Note** this", "1984. A novel", "- "] {
            assert_eq!(after_item_mark(line.trim()), None, "{line}");
        }
        assert_eq!(after_item_mark("\u{2022}\tone"), Some("one"));
        assert_eq!(value("lists", "10. ten\n  * eleven\nnone"), 200.0 / 3.0);
        // The number of an item is no figure, a month no doubt, a country no person.
        assert_eq!(value("figures", "1. one\n2. two"), 0.0);
        assert_eq!(value("hedges", "In May the US"), 0.0);
        assert_eq!(value("first-person", "In the US"), 0.0);
        assert_eq!(value("first-person", "I\u{2019}m here, it's ours"), 50.0);
        assert_eq!(value("address", "You're mine"), 50.0);
        // A block of code is one mark, not three spans; a heading needs a space.
        assert_eq!(TextCounts::of("```\nx\n```").marks, 1);
        assert_eq!(TextCounts::of("#tag\n## Head").marks, 1);
        // Full stops inside of words end nothing; closing quotes and bold type may follow one that does.
        assert_eq!(TextCounts::of("Version 1.2.3 is \"out.\" **Done.** See e.g. here").sentences, 4);
    }
}
