//! YAML as every reader of it understands it.
//!
//! serde_yaml writes `yes` without quotes, which BOSH (YAML 1.1) reads as true; here only texts that
//! cannot be anything else go without.

use std::fmt::Write as _;

use serde_yaml::Value;

/// Words that YAML 1.1 takes for something else.
const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

/// A document.
pub(super) fn document(value: &Value) -> String {
    let mut out = "---\n".to_owned();
    write_value(value, 0, &mut out);
    out
}

/// A value in lines of its own.
fn write_value(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Mapping(map) if !map.is_empty() => {
            for (key, value) in map {
                out.push_str(&pad);
                out.push_str(&scalar(key));
                out.push(':');
                match value {
                    Value::Mapping(map) if !map.is_empty() => {
                        out.push('\n');
                        write_value(value, indent + 2, out);
                    }
                    Value::Sequence(items) if !items.is_empty() => {
                        out.push('\n');
                        write_value(value, indent, out);
                    }
                    _ => write_line(value, out),
                }
            }
        }
        Value::Sequence(items) if !items.is_empty() => {
            for item in items {
                let mut inner = String::new();
                write_value(item, indent + 2, &mut inner);
                out.push_str(&pad);
                out.push_str("- ");
                out.push_str(inner.trim_start_matches(' '));
            }
        }
        _ => {
            out.push_str(&pad);
            out.push_str(&scalar(value));
            out.push('\n');
        }
    }
}

fn write_line(value: &Value, out: &mut String) {
    out.push(' ');
    out.push_str(&scalar(value));
    out.push('\n');
}

/// A value within a line.
fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) => string(text),
        Value::Sequence(_) => "[]".to_owned(),
        Value::Mapping(_) => "{}".to_owned(),
        Value::Tagged(tagged) => format!("{} {}", tagged.tag, scalar(&tagged.value)),
    }
}

/// A text as a YAML scalar.
pub(crate) fn string(text: &str) -> String {
    let unprintable = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
    if is_plain(text) {
        return text.to_owned();
    }
    if !text.contains(unprintable) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let mut quoted = "\"".to_owned();
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            _ if unprintable(c) => {
                // Writing to a string cannot fail.
                let _infallible = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            _ => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Whether a text needs no quotes.
fn is_plain(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '(');
    let plain = |c: char| c.is_ascii_alphanumeric() || " _./-:=;,+()".contains(c);
    begins
        && text.chars().all(plain)
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::{Value, document};

    #[test]
    fn what_is_written_reads_as_it_was() {
        for text in [
            "[]",
            "{}",
            "- a\n- [1, 2.5, null, true, {b: [], c: {}}]\n- [[x], [[y]]]",
            "a: {b: {c: [{d: 1, e: [2]}]}}\n7: x\ntrue: y",
            "a: [yes please, '12:30:45', 1_000, '1_000', '0o7', '', ' x', 'x ', 'a: b', 'a #b', 'x:']",
            "a: \"line\\nline\\t\\u0085\\u2028\\ufeff\\0 \\\"quoted\\\" \\\\ é\"",
            "a: ['*x', '&x', '!x', '%x', '@x', '`x', '- x', '? x', '{x', '[x', \"it's\", '<<', '=', '---']",
        ] {
            let value: Value = serde_yaml::from_str(text).unwrap();
            let written = document(&value);
            let read: Value = serde_yaml::from_str(&written).unwrap();
            assert_eq!(read, value, "{written}");
        }
    }

    #[test]
    fn texts_that_yaml_1_1_takes_for_something_else_have_quotes() {
        for text in
            ["yes", "NO", "Off", "y", "1_000", "12:30:45", "1e3", "0o7", "~", "null", ".inf"]
        {
            assert_eq!(document(&text.into()), format!("---\n'{text}'\n"));
        }
        for text in
            ["redis", "((password))", "frodenas/redis:3.2", "data:image/png;base64,iVBO/w+="]
        {
            assert_eq!(document(&text.into()), format!("---\n{text}\n"));
        }
    }
}
