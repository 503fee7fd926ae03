//! From a conversation to the prompt a model was trained on: the chat template that models carry.
//!
//! A template is Jinja2 in the dialect of transformers' `apply_chat_template`: blocks are trimmed, strings have Python's
//! methods, and `raise_exception`, `strftime_now` and `{% generation %}` exist.

use crate::{Checkpoint, Error, Metadata, Result, calendar};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// What a template may spend on one prompt, in minijinja's instructions: a conversation takes some thousands.
const FUEL: u64 = 50_000_000;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into() }
    }
}

/// A model's chat template.
///
/// The rendered prompt holds control tokens as text; encode it with [`Special::PROMPT`](crate::tokenizer::Special::PROMPT).
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
    path: PathBuf,
}

impl ChatTemplate {
    /// The template of a model, `None` if it has none: a base model that continues text and does not chat.
    ///
    /// # Errors
    /// If the template is not Jinja.
    pub fn of(checkpoint: &Checkpoint) -> Result<Option<Self>> {
        Self::from_metadata(checkpoint.metadata(), checkpoint.path())
    }

    /// The template in `tokenizer.chat_template`, if there is one. `path` is for messages.
    ///
    /// # Errors
    /// As [`ChatTemplate::of`].
    pub fn from_metadata(metadata: &Metadata, path: &Path) -> Result<Option<Self>> {
        let Some(source) = metadata.str("tokenizer.chat_template") else { return Ok(None) };
        let token = |key: &str| {
            let id = usize::try_from(metadata.uint(key)?).ok()?;
            metadata.strings("tokenizer.ggml.tokens")?.get(id).cloned()
        };
        let bos_token = token("tokenizer.ggml.bos_token_id").unwrap_or_default();
        let eos_token = token("tokenizer.ggml.eos_token_id").unwrap_or_default();
        Self::new(source, bos_token, eos_token, path).map(Some)
    }

    /// A template from its source, with the texts of the BOS and EOS tokens that it may use.
    ///
    /// # Errors
    /// As [`ChatTemplate::of`].
    pub fn new(source: &str, bos_token: String, eos_token: String, path: &Path) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.expect("the usual delimiters"));
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment.add_test("iterable", is_iterable);
        environment.add_template_owned("chat", without_generation_tags(source)).map_err(|error| {
            Error::malformed(path, format!("`tokenizer.chat_template` is not a valid template: {error}"))
        })?;
        Ok(ChatTemplate { environment, bos_token, eos_token, path: path.to_owned() })
    }

    /// The same template on the same day for ever: what is learned from a file must not depend on when it is read.
    pub fn on_a_fixed_day(mut self) -> Self {
        self.environment.add_function("strftime_now", |format: &str| strftime(format, FIXED_DAY));
        self
    }

    /// The prompt for a conversation. With `add_generation_prompt` it ends where the assistant's answer begins.
    ///
    /// # Errors
    /// If the template refuses the conversation, as many do when the roles do not alternate, or fails.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let variables = context! {
            messages => Serde(messages),
            add_generation_prompt,
            bos_token => &self.bos_token,
            eos_token => &self.eos_token,
            tools => (),
            documents => (),
        };
        let template = self.environment.get_template("chat").expect("added by `new`");
        template.render(variables).map_err(|error| {
            let why = error.detail().map_or_else(|| error.to_string(), str::to_owned);
            Error::unsupported(&self.path, format!("the chat template cannot render this conversation: {why}"))
        })
    }
}

/// `{% generation %}` marks the assistant's words for training masks and prints nothing.
fn without_generation_tags(source: &str) -> String {
    let tag = |name: &str| {
        fancy_regex::Regex::new(&format!(r"\{{%([-+]?)\s*{name}\s*([-+]?)%\}}")).expect("a constant pattern")
    };
    let opened = tag("generation").replace_all(source, "{%$1 if true $2%}").into_owned();
    tag("endgeneration").replace_all(&opened, "{%$1 endif $2%}").into_owned()
}

/// Python's notion: none is not iterable, though minijinja says so. Templates ask it of `tools`.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && (value.as_str().is_some() || value.try_iter().is_ok())
}

fn raise_exception(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// The first of January 2025, in seconds since 1970.
const FIXED_DAY: u64 = 1_735_689_600;

/// Today's date by `strftime`'s letters, in UTC.
fn strftime_now(format: &str) -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    strftime(format, seconds)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// `seconds` since 1970 by the letters that templates use; others stay as they are.
fn strftime(format: &str, seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = calendar::date(days);
    let (month_name, weekday) = (MONTHS[month as usize - 1], WEEKDAYS[(days % 7) as usize]);
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let field = match chars.next() {
            Some('Y') => format!("{year}"),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('H') => format!("{:02}", second / 3600),
            Some('M') => format!("{:02}", second / 60 % 60),
            Some('S') => format!("{:02}", second % 60),
            Some('%') => "%".to_owned(),
            Some(other) => format!("%{other}"),
            None => "%".to_owned(),
        };
        text.push_str(&field);
    }
    text
}

/// JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it, with its spaces, and `indent` if it is asked for.
fn to_json(value: Value, options: Kwargs) -> std::result::Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let failed = |error: serde_json::Error| minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string());
    let mut json = Vec::new();
    match indent {
        Some(indent) => {
            let spaces = vec![b' '; indent.min(64)];
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&spaces);
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, formatter)).map_err(failed)?;
        }
        None => {
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, PythonSpaces)).map_err(failed)?
        }
    }
    Ok(Value::from_safe_string(String::from_utf8_lossy(&json).into_owned()))
}

/// A space after every comma and colon.
struct PythonSpaces;

impl serde_json::ser::Formatter for PythonSpaces {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String> {
        ChatTemplate::new(source, "<s>".into(), "</s>".into(), Path::new("m.gguf"))?.render(messages, true)
    }

    #[test]
    fn python_methods_trimming_and_json() {
        let source = "{% for m in messages %}\n  {% generation %}\n[{{ m.role.upper() }}] {{ m['content'].strip() | tojson }}\n  \
                      {% endgeneration %}\n{% endfor %}\n{% if not tools %}{{ bos_token }}{% endif %}";
        assert_eq!(render(source, &[Message::new("user", " <é> ")]).unwrap(), "[USER] \"<é>\"\n<s>");
        assert_eq!(render("{{ {'a': [1, 2], 'b': none} | tojson }}", &[]).unwrap(), r#"{"a": [1, 2], "b": null}"#);
    }

    #[test]
    fn no_tools_are_not_iterable() {
        let source = "{% if tools is iterable and tools | length > 0 %}tools{% else %}none{% endif %}";
        assert_eq!(render(source, &[]).unwrap(), "none");
    }

    #[test]
    fn refusals_and_errors_are_told() {
        let error = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err().to_string();
        assert!(error.contains("m.gguf") && error.contains("roles must alternate"), "{error}");
        let error = render("{% for %}", &[]).unwrap_err().to_string();
        assert!(error.contains("chat_template"), "{error}");
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
        assert!(render(endless, &[]).is_err());
    }

    #[test]
    fn dates() {
        assert_eq!(strftime("%d %b %Y %A %H:%M:%S %%", 951_782_400 + 3_661), "29 Feb 2000 Tuesday 01:01:01 %");
        assert_eq!(strftime("%-d %y", 0), "%-d 70");
    }

    #[test]
    fn no_template_is_no_chat() {
        assert!(ChatTemplate::from_metadata(&Metadata::default(), Path::new("")).unwrap().is_none());
    }
}
