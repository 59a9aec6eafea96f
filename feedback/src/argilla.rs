//! Records as Argilla 2 exports them (`dataset.records.to_json`, `to_list`) or its server gives them: `fields`,
//! `responses`, `suggestions`, `metadata`; turned into the columns of the other formats. Leaves files to `records`.
//!
//! What people answered decides what a record becomes:
//!
//! | answer | columns |
//! |---|---|
//! | a label that names one of two fields (`response_a`, or its ending `a`) | `prompt`, `chosen`, `rejected` |
//! | a ranking of fields | the same, of the best and the worst |
//! | yes/no, good/bad, or a rating from 1 to 5, about one answer's field | `prompt`, `completion`, `label` |
//! | a written text | `prompt`, `completion`, and `original` where the record shows the text that was edited |
//!
//! Of several people's answers to a question the most common counts; without any, a suggestion does. Ties, ratings of 3
//! and records that nobody answered become nothing.

use serde_json::{Map, Value, json};

use crate::RecordError;

type Fields = Map<String, Value>;

/// Fields that are the prompt, most telling first.
const PROMPTS: [&str; 7] = ["prompt", "instruction", "question", "messages", "chat", "conversation", "input"];
const TIES: [&str; 6] = ["tie", "equal", "same", "both", "neither", "draw"];
const GOOD: [&str; 12] = [
    "yes",
    "good",
    "true",
    "positive",
    "like",
    "up",
    "thumbs_up",
    "correct",
    "accept",
    "accepted",
    "helpful",
    "safe",
];
const BAD: [&str; 12] = [
    "no",
    "bad",
    "false",
    "negative",
    "dislike",
    "down",
    "thumbs_down",
    "incorrect",
    "reject",
    "rejected",
    "unhelpful",
    "unsafe",
];

/// The question whose answer is always a written text, even one that looks like a label.
pub(crate) const EDIT: &str = "edit";
/// The field, and the column, of the text that was edited.
pub(crate) const ORIGINAL: &str = "original";

/// Whether an object is one of Argilla's records.
pub(crate) fn is_record(fields: &Fields) -> bool {
    fields.get("fields").is_some_and(Value::is_object)
        && (fields.contains_key("responses") || fields.contains_key("suggestions"))
}

/// Every person's answers by themselves: who it was and the columns that [`columns`] makes of them; a record that only
/// has suggestions is nobody's. People who said nothing are left out.
///
/// # Errors
/// As [`columns`].
pub(crate) fn by_person(record: Fields) -> Result<Vec<(Option<String>, Fields)>, RecordError> {
    // A person and their answer to each question.
    let mut people: Vec<(Option<String>, Fields)> = Vec::new();
    let mut add = |name: &str, response: &Value, user: Option<&Value>| {
        let user = user.or_else(|| response.get("user_id")).and_then(|user| match user {
            Value::String(user) => Some(user.clone()),
            Value::Null => None,
            other => Some(other.to_string()),
        });
        let answer = Value::Array(vec![response.clone()]);
        // Answers without a name are as many people as there are answers to the same question.
        let same = people.iter_mut().find(|(known, answers)| *known == user && !answers.contains_key(name));
        match same {
            Some((_, answers)) => {
                answers.insert(name.to_owned(), answer);
            }
            None => people.push((user, Fields::from_iter([(name.to_owned(), answer)]))),
        }
    };
    match record.get("responses") {
        Some(Value::Object(questions)) => {
            for (name, list) in questions {
                list.as_array().into_iter().flatten().for_each(|response| add(name, response, None));
            }
        }
        Some(Value::Array(responses)) => {
            for response in responses {
                let values = response.get("values").and_then(Value::as_object);
                for (name, value) in values.into_iter().flatten() {
                    let mut value = value.clone();
                    if let (Value::Object(value), Some(status)) = (&mut value, response.get("status")) {
                        value.insert("status".to_owned(), status.clone());
                    }
                    add(name, &value, response.get("user_id"));
                }
            }
        }
        _ => {}
    }
    if people.is_empty() {
        return Ok(columns(record)?.map(|columns| (None, columns)).into_iter().collect());
    }
    let mut found = Vec::new();
    for (user, answers) in people {
        let mut own = record.clone();
        own.shift_remove("suggestions");
        own.insert("responses".to_owned(), Value::Object(answers));
        if let Some(columns) = columns(own)? {
            found.push((user, columns));
        }
    }
    Ok(found)
}

/// The record's columns; `None` if it says nothing.
///
/// # Errors
/// [`RecordError`] if its answers have none of the forms above.
pub(crate) fn columns(mut record: Fields) -> Result<Option<Fields>, RecordError> {
    let Some(Value::Object(mut fields)) = record.shift_remove("fields") else {
        return Err(RecordError::new("`fields` must be an object"));
    };
    fields.retain(|_, value| !value.is_null());
    let mut answers = suggested(record.get("suggestions"));
    answers.extend(responded(record.get("responses")));
    if answers.is_empty() {
        return Ok(None);
    }
    let Some(prompt) = PROMPTS.iter().find_map(|name| fields.shift_remove(*name)) else {
        let message =
            format!("the record has no field for the prompt; name one of its fields {}", PROMPTS.join(", "));
        return Err(RecordError::new(message));
    };
    let mut columns = Fields::from_iter([("prompt".to_owned(), prompt)]);
    let outcomes: Vec<Outcome> =
        answers.iter().filter_map(|(question, answer)| Outcome::read(question, answer, &fields)).collect();
    let Some(outcome) = outcomes.into_iter().min_by_key(Outcome::rank) else {
        let names: Vec<&str> = answers.keys().map(String::as_str).collect();
        return Err(RecordError::new(format!(
            "the answers to {} are none of: a label that names one of two fields, a ranking of fields, a yes/no or a \
             rating from 1 to 5 of one answer, a written text",
            names.join(", ")
        )));
    };
    match outcome {
        Outcome::Nothing => return Ok(None),
        Outcome::Preference { chosen, rejected } => {
            columns.insert("chosen".to_owned(), fields[&chosen].clone());
            columns.insert("rejected".to_owned(), fields[&rejected].clone());
        }
        Outcome::Label { field, label } => {
            columns.insert("completion".to_owned(), fields[&field].clone());
            columns.insert("label".to_owned(), label.into());
        }
        Outcome::Written(text) => {
            let as_turns = columns["prompt"].is_array();
            let text = if as_turns { json!([{"role": "assistant", "content": text}]) } else { text.into() };
            columns.insert("completion".to_owned(), text);
            if let Some(original) = fields.get(ORIGINAL).and_then(plain) {
                columns.insert(ORIGINAL.to_owned(), original.into());
            }
        }
    }
    if let Some(Value::Object(metadata)) = record.shift_remove("metadata") {
        for (name, value) in metadata {
            columns.entry(name).or_insert(value);
        }
    }
    Ok(Some(columns))
}

/// `{question: {"value": …}}`, or a list of `{"question_name": …, "value": …}`.
fn suggested(suggestions: Option<&Value>) -> Fields {
    let value = |suggestion: &Value| suggestion.get("value").filter(|value| !value.is_null()).cloned();
    let named: Vec<(String, Value)> = match suggestions {
        Some(Value::Object(questions)) => questions
            .iter()
            .filter_map(|(name, suggestion)| Some((name.clone(), value(suggestion)?)))
            .collect(),
        Some(Value::Array(list)) => {
            let name = |suggestion: &Value| Some(suggestion.get("question_name")?.as_str()?.to_owned());
            list.iter().filter_map(|suggestion| Some((name(suggestion)?, value(suggestion)?))).collect()
        }
        _ => Vec::new(),
    };
    named.into_iter().collect()
}

/// `{question: [{"value": …, "user_id": …}]}`, or a list of `{"values": {question: {"value": …}}, "status": …}`: for
/// each question the most common answer, the first of equally common ones.
fn responded(responses: Option<&Value>) -> Fields {
    let submitted = |response: &Value| {
        response.get("status").and_then(Value::as_str).is_none_or(|status| status == "submitted")
    };
    let mut answers: Map<String, Value> = Map::new();
    let mut add = |name: &str, response: &Value| {
        if let (Some(value), Value::Array(values)) = (
            response.get("value").filter(|value| !value.is_null()),
            answers.entry(name).or_insert_with(|| Value::Array(Vec::new())),
        ) {
            values.push(value.clone());
        }
    };
    match responses {
        Some(Value::Object(questions)) => {
            for (name, list) in questions {
                let list = list.as_array().into_iter().flatten();
                list.filter(|response| submitted(response)).for_each(|response| add(name, response));
            }
        }
        Some(Value::Array(people)) => {
            for person in people.iter().filter(|person| submitted(person)) {
                let values = person.get("values").and_then(Value::as_object);
                values.into_iter().flatten().for_each(|(name, response)| add(name, response));
            }
        }
        _ => {}
    }
    answers.into_iter().filter_map(|(name, values)| Some((name, most_common(values.as_array()?)?))).collect()
}

fn most_common(values: &[Value]) -> Option<Value> {
    let count = |value: &Value| values.iter().filter(|other| *other == value).count();
    // `max_by_key` takes the last of equals.
    values.iter().rev().max_by_key(|value| count(value)).cloned()
}

/// The text of a field: a string, or the one turn of a conversation.
fn plain(field: &Value) -> Option<&str> {
    field.as_str().or_else(|| match field.as_array()?.as_slice() {
        [turn] => turn.get("content")?.as_str(),
        _ => None,
    })
}

/// What an answer says of the fields besides the prompt.
enum Outcome {
    Preference { chosen: String, rejected: String },
    Label { field: String, label: bool },
    Written(String),
    Nothing,
}

impl Outcome {
    /// Which of several questions counts: preferences, then labels, then texts.
    fn rank(&self) -> usize {
        match self {
            Self::Preference { .. } => 0,
            Self::Nothing => 1,
            Self::Label { .. } => 2,
            Self::Written(_) => 3,
        }
    }

    fn read(question: &str, answer: &Value, fields: &Fields) -> Option<Self> {
        match answer {
            Value::String(text) if question == EDIT => Some(Self::Written(text.clone())),
            Value::Array(ranking) => Self::ranking(ranking, fields),
            Value::String(text) => Self::word(text, fields),
            Value::Bool(label) => Self::label(*label, fields),
            Value::Number(rating) => match rating.as_f64()? {
                rating if rating >= 4.0 => Self::label(true, fields),
                rating if rating <= 2.0 => Self::label(false, fields),
                _ => Some(Self::Nothing),
            },
            _ => None,
        }
    }

    /// `[{"value": field, "rank": 1}, …]`, or fields from the best to the worst.
    fn ranking(ranking: &[Value], fields: &Fields) -> Option<Self> {
        let place = |(index, entry): (usize, &Value)| {
            let name = entry.get("value").unwrap_or(entry).as_str()?;
            let rank = entry.get("rank").and_then(Value::as_f64).unwrap_or(index as f64);
            Some((rank, field_named(name, fields)?))
        };
        let places: Vec<(f64, String)> = ranking.iter().enumerate().map(place).collect::<Option<_>>()?;
        let best = places.iter().min_by(|a, b| a.0.total_cmp(&b.0))?;
        let worst = places.iter().max_by(|a, b| a.0.total_cmp(&b.0))?;
        if best.0 == worst.0 {
            return Some(Self::Nothing);
        }
        Some(Self::Preference { chosen: best.1.clone(), rejected: worst.1.clone() })
    }

    fn word(text: &str, fields: &Fields) -> Option<Self> {
        let word = text.trim().to_lowercase().replace([' ', '-'], "_");
        if let Some(chosen) = field_named(&word, fields)
            && let [a, b] = fields.keys().collect::<Vec<_>>().as_slice()
        {
            let rejected = if **a == chosen { *b } else { *a };
            return Some(Self::Preference { rejected: rejected.clone(), chosen });
        }
        match (GOOD.contains(&word.as_str()), BAD.contains(&word.as_str())) {
            (true, _) => Self::label(true, fields),
            (_, true) => Self::label(false, fields),
            _ if TIES.contains(&word.as_str()) => Some(Self::Nothing),
            _ => Some(Self::Written(text.to_owned())),
        }
    }

    fn label(label: bool, fields: &Fields) -> Option<Self> {
        let mut names = fields.keys();
        match (names.next(), names.next()) {
            (Some(field), None) => Some(Self::Label { field: field.clone(), label }),
            _ => None,
        }
    }
}

/// The field that `name` names: the same but for case, or the only one that ends with it (`A` names `response_a`).
fn field_named(name: &str, fields: &Fields) -> Option<String> {
    let name = name.to_lowercase();
    if let Some(field) = fields.keys().find(|field| field.to_lowercase() == name) {
        return Some(field.clone());
    }
    let ends = |field: &&String| {
        let field = field.to_lowercase();
        field.strip_suffix(&name).is_some_and(|stem| !stem.is_empty() && name.len() <= 2)
    };
    let mut found = fields.keys().filter(ends);
    found.next().filter(|_| found.next().is_none()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(record: Value) -> Result<Option<Value>, RecordError> {
        let Value::Object(record) = record else { panic!("{record}") };
        assert!(is_record(&record));
        columns(record).map(|columns| columns.map(Value::Object))
    }

    fn pair(responses: Value) -> Value {
        let fields = json!({"instruction": "2+2?", "response_a": "4", "response_b": "5"});
        json!({"id": "1", "fields": fields, "metadata": {"source": "x"}, "suggestions": {}, "responses": responses})
    }

    #[test]
    fn a_label_that_names_a_field_is_a_preference() {
        let chosen = json!({"prompt": "2+2?", "chosen": "4", "rejected": "5", "source": "x"});
        let vote = |value: &str| json!({"value": value, "user_id": "u"});
        for responses in [
            json!({"better": [vote("response_a")]}),
            json!({"better": [vote("B"), vote("A"), vote("A")]}),
            json!([{"values": {"better": {"value": "a"}}, "status": "submitted"},
                   {"values": {"better": {"value": "b"}}, "status": "discarded"}]),
            json!({"order": [{"value": [{"value": "response_b", "rank": 2}, {"value": "response_a", "rank": 1}]}]}),
            json!({"order": [{"value": ["response_a", "response_b"]}]}),
        ] {
            assert_eq!(read(pair(responses.clone())), Ok(Some(chosen.clone())), "{responses}");
        }
    }

    #[test]
    fn ties_and_records_without_answers_are_nothing() {
        for responses in [
            json!({}),
            json!([]),
            json!({"better": [{"value": "tie"}]}),
            json!({"order": [{"value": [{"value": "response_b", "rank": 1}, {"value": "response_a", "rank": 1}]}]}),
        ] {
            assert_eq!(read(pair(responses.clone())), Ok(None), "{responses}");
        }
    }

    #[test]
    fn thumbs_and_ratings_are_labels_and_texts_are_completions() {
        let record = |answer: Value| {
            let fields = json!({"prompt": [{"role": "user", "content": "Hi"}], "answer": "Yo"});
            read(json!({"fields": fields, "responses": {"q": [{"value": answer}]}}))
        };
        for (answer, label) in
            [(json!("Yes"), true), (json!("bad"), false), (json!(5), true), (json!(1), false)]
        {
            let columns = record(answer).expect("valid").expect("an answer");
            assert_eq!((&columns["label"], &columns["completion"]), (&json!(label), &json!("Yo")));
        }
        assert_eq!(record(json!(3)), Ok(None));
        assert_eq!(
            record(json!("Hello there.")).expect("valid").expect("an answer")["completion"],
            json!([{"role": "assistant", "content": "Hello there."}]),
            "turns, as its prompt is"
        );
    }

    #[test]
    fn people_win_over_suggestions() {
        let mut record = pair(json!({}));
        record["suggestions"] = json!([{"question_name": "better", "value": "b"}]);
        assert_eq!(read(record.clone()).expect("valid").expect("a suggestion")["chosen"], "5");
        record["responses"] = json!({"better": [{"value": "a"}]});
        assert_eq!(read(record).expect("valid").expect("an answer")["chosen"], "4");
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name() {
        let no_prompt = json!({"fields": {"a": "b"}, "responses": {"q": [{"value": "yes"}]}});
        assert!(read(no_prompt).expect_err("no prompt").0.contains("no field for the prompt"));
        let error = read(pair(json!({"q": [{"value": 5}]}))).expect_err("a rating of two");
        assert!(error.0.contains("the answers to q are none of"), "{error}");
    }
}
