//! Words: how a text falls into them, and what of a record is read for them.
//!
//! Pure. A word is a run of letters and digits in lowercase, so `Order_48-A` is three of them. Of a
//! JSON document the values are read, and not the names of members: those are alike everywhere.

use crate::mask;

/// Shorter words are not in the index; they count where a record is held against a query.
pub(crate) const MIN_WORD_CHARS: usize = 2;
/// Of a longer word the beginning is indexed and looked for.
pub(crate) const MAX_WORD_BYTES: usize = 64;
/// Values of JSON nested deeper than this are not read.
const MAX_DEPTH: usize = 128;

/// Calls back with each word of a text, in order.
pub(crate) fn each_word(text: &str, mut call: impl FnMut(&str)) {
    let mut word = String::new();
    for letter in text.chars() {
        if letter.is_alphanumeric() {
            match letter.is_ascii() {
                true => word.push(letter.to_ascii_lowercase()),
                false => word.extend(letter.to_lowercase()),
            }
        } else if !word.is_empty() {
            call(clipped(&word));
            word.clear();
        }
    }
    if !word.is_empty() {
        call(clipped(&word));
    }
}

/// The words of a text, in order.
pub(crate) fn words_of(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    each_word(text, |word| words.push(word.to_owned()));
    words
}

/// Whether the index has words of this length.
pub(crate) fn is_indexed(word: &str) -> bool {
    word.chars().nth(MIN_WORD_CHARS - 1).is_some()
}

fn clipped(word: &str) -> &str {
    word.get(..word.floor_char_boundary(MAX_WORD_BYTES)).unwrap_or(word)
}

/// Where in a document the reader is.
enum Level {
    Object,
    Array,
}

/// Calls back with each text and number in valid JSON, with the names that lead to it. What stands
/// under a masked name is passed over.
pub(crate) fn each_value<'a>(
    json: &'a str,
    masked: &[String],
    call: &mut dyn FnMut(&[String], &str),
) {
    let mut reader = Reader { json, at: 0, names: Vec::new(), levels: Vec::new(), hidden: 0 };
    reader.read(masked, call);
}

struct Reader<'a> {
    json: &'a str,
    at: usize,
    /// The names of the members that are open.
    names: Vec<String>,
    levels: Vec<Level>,
    /// How many open names are masked.
    hidden: usize,
}

impl<'a> Reader<'a> {
    fn read(&mut self, masked: &[String], call: &mut dyn FnMut(&[String], &str)) {
        let is_masked = |name: &String| mask::covers(masked, name);
        let mut awaits_name = false;
        while let Some(byte) = self.json.as_bytes().get(self.at).copied() {
            match byte {
                b'{' | b'[' if self.levels.len() >= MAX_DEPTH => return,
                b'{' => {
                    self.levels.push(Level::Object);
                    awaits_name = true;
                    self.at += 1;
                }
                b'[' => {
                    self.levels.push(Level::Array);
                    self.at += 1;
                }
                b'}' | b']' => {
                    let was = self.levels.pop();
                    if matches!(was, Some(Level::Object)) && !awaits_name {
                        self.close(is_masked);
                    }
                    awaits_name = false;
                    self.at += 1;
                }
                b',' => {
                    if matches!(self.levels.last(), Some(Level::Object)) {
                        self.close(is_masked);
                        awaits_name = true;
                    }
                    self.at += 1;
                }
                b'"' => {
                    let text = self.string();
                    if awaits_name {
                        self.hidden += usize::from(is_masked(&text));
                        self.names.push(text);
                        awaits_name = false;
                    } else if self.hidden == 0 {
                        call(&self.names, &text);
                    }
                }
                b'-' | b'0'..=b'9' => {
                    let number = self.number();
                    if self.hidden == 0 {
                        call(&self.names, number);
                    }
                }
                // Space, colons, and the letters of true, false and null.
                _ => self.at += 1,
            }
        }
    }

    /// The member that was open is through.
    fn close(&mut self, is_masked: impl Fn(&String) -> bool) {
        if let Some(name) = self.names.pop() {
            self.hidden -= usize::from(is_masked(&name));
        }
    }

    /// The text that begins here.
    fn string(&mut self) -> String {
        let bytes = self.json.as_bytes();
        let begin = self.at;
        let mut end = begin + 1;
        while let Some(byte) = bytes.get(end).copied() {
            end += 1;
            match byte {
                b'\\' => end += 1,
                b'"' => break,
                _ => {}
            }
        }
        self.at = end;
        let quoted = self.json.get(begin..end).unwrap_or_default();
        serde_json::from_str(quoted).unwrap_or_default()
    }

    /// The number that begins here.
    fn number(&mut self) -> &'a str {
        let begin = self.at;
        let rest = self.json.get(begin..).unwrap_or_default();
        let of_number =
            |letter: char| letter.is_ascii_digit() || matches!(letter, '-' | '+' | '.' | 'e' | 'E');
        let length = rest.find(|letter| !of_number(letter)).unwrap_or(rest.len());
        self.at = begin + length.max(1);
        rest.get(..length).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(json: &str, masked: &[&str]) -> Vec<(String, String)> {
        let masked: Vec<String> = masked.iter().map(|name| (*name).to_owned()).collect();
        let mut found = Vec::new();
        each_value(json, &masked, &mut |path, value| found.push((path.join("."), value.into())));
        found
    }

    #[test]
    fn a_text_falls_into_lowercase_words() {
        assert_eq!(
            words_of("Order_48-A  ann.Lee@example.com"),
            ["order", "48", "a", "ann", "lee", "example", "com"]
        );
        assert_eq!(words_of("ÄRGER über 1000.50"), ["ärger", "über", "1000", "50"]);
        assert_eq!(words_of(&"x".repeat(100)), ["x".repeat(64)]);
        assert_eq!(words_of(&"é".repeat(100)), ["é".repeat(32)]);
        assert!(words_of(" -- ").is_empty());
    }

    #[test]
    fn values_are_read_with_their_names_and_masked_ones_are_not() {
        let json = r#"{"a":{"b":[1,{"c":"x\"y"},true,null],"d":-2.50},"e":{},"f":[],"g":"z"}"#;
        let all = [("a.b", "1"), ("a.b.c", "x\"y"), ("a.d", "-2.50"), ("g", "z")];
        let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(path, value)| ((*path).into(), (*value).into())).collect()
        };
        assert_eq!(values(json, &[]), owned(&all));
        assert_eq!(values(json, &["b"]), owned(&[("a.d", "-2.50"), ("g", "z")]));
        assert_eq!(values(json, &["a", "e"]), owned(&[("g", "z")]));
        assert_eq!(
            values(r#"{"iD":{"x":1},"ID":[2],"\u0069d":3,"ids":4}"#, &["id"]),
            owned(&[("ids", "4")])
        );
        assert_eq!(values(r#""top""#, &[]), owned(&[("", "top")]));
        assert_eq!(values("17", &["x"]), owned(&[("", "17")]));
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            ".{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::btree_map("[a-dA-D\"]{0,3}", inner, 0..5)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// The same by a tree.
    fn by_tree(value: &serde_json::Value, path: &str, masked: &str, out: &mut Vec<String>) {
        match value {
            serde_json::Value::String(text) => out.push(format!("{path}={text}")),
            serde_json::Value::Number(number) => out.push(format!("{path}={number}")),
            serde_json::Value::Array(items) => {
                items.iter().for_each(|item| by_tree(item, path, masked, out));
            }
            serde_json::Value::Object(members) => {
                for (name, member) in
                    members.iter().filter(|(name, _)| !name.eq_ignore_ascii_case(masked))
                {
                    by_tree(member, &format!("{path}/{name}"), masked, out);
                }
            }
            serde_json::Value::Null | serde_json::Value::Bool(_) => {}
        }
    }

    proptest! {
        #[test]
        fn the_values_of_any_json_are_those_of_its_tree(json in any_json(), masked in "[a-d]{1,2}") {
            let mut expected = Vec::new();
            by_tree(&json, "", &masked, &mut expected);
            let mut found = Vec::new();
            for text in [json.to_string(), serde_json::to_string_pretty(&json).unwrap()] {
                found.clear();
                each_value(&text, std::slice::from_ref(&masked), &mut |path, value| {
                    let path: String = path.iter().map(|name| format!("/{name}")).collect();
                    found.push(format!("{path}={value}"));
                });
                prop_assert_eq!(&found, &expected);
            }
        }

        #[test]
        fn words_are_what_lies_between_other_characters(text in "\\PC{0,60}") {
            let lower: String = text.chars().flat_map(|letter| {
                let is_of_word = letter.is_alphanumeric();
                let lower: Vec<char> = if is_of_word { letter.to_lowercase().collect() } else { vec![' '] };
                lower
            }).collect();
            let expected: Vec<String> = lower.split(' ').filter(|word| !word.is_empty())
                .map(|word| word[..word.floor_char_boundary(64)].to_owned()).collect();
            prop_assert_eq!(words_of(&text), expected);
        }
    }
}
