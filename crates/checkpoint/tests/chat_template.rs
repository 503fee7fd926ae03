//! Chat templates render what transformers renders. Fixtures by `scripts/fixtures/chat_templates.py`.

use bantam_checkpoint::chat_template::{ChatTemplate, Message};
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct Fixture {
    name: String,
    template: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    messages: Vec<Message>,
    add_generation_prompt: bool,
    /// What transformers renders, "(the date)" for the day's; none if it or the template refuses.
    text: Option<String>,
}

fn template(text: &str, name: &str) -> ChatTemplate {
    ChatTemplate::new(text, "<s>".into(), "</s>".into(), Path::new(name)).unwrap()
}

#[test]
fn renders_as_transformers_does() {
    let path = std::env::var_os("BANTAM_CHAT_TEMPLATES").unwrap_or_else(|| "tests/fixtures/chat_templates.json".into());
    let fixtures: Vec<Fixture> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut differ = Vec::new();
    let date = template("{{ strftime_now('%B %d, %Y') }}", "date").render(&[], false).unwrap();
    for Fixture { name, template, cases } in fixtures {
        let template = self::template(&template, &name);
        for (i, case) in cases.iter().enumerate() {
            let ours = template.render(&case.messages, case.add_generation_prompt);
            let theirs = case.text.as_ref().map(|text| text.replace("(the date)", &date));
            if ours.as_ref().ok() != theirs.as_ref() {
                differ.push(format!("{name} case {i}:\n  ours   {ours:?}\n  theirs {theirs:?}"));
            }
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn a_fixed_day_is_the_same_for_ever() {
    let dated = template("{{ strftime_now('%B %d, %Y %S') }}", "date").on_a_fixed_day();
    assert_eq!(dated.render(&[], false).unwrap(), "January 01, 2025 00");
}
