//! Saying how long it will take, before it does.

use crate::args::Global;
use crate::output;

/// Seconds that nobody needs to be told of.
const SHORT: f64 = 10.0;

/// Whether anybody is told.
pub fn is_wanted(global: &Global) -> bool {
    !global.quiet && !global.json
}

/// Says roughly how long this will take: seconds, and what they are for.
pub fn say(parts: &[(f64, &str)]) {
    if let Some(sentence) = sentence(parts) {
        output::say(format_args!("{sentence}"));
    }
}

/// As in `about 14 minutes: 3 to measure, 11 to round`. `None` if it is short.
fn sentence(parts: &[(f64, &str)]) -> Option<String> {
    let total: f64 = parts.iter().map(|(seconds, _)| seconds).sum();
    let (unit, name) = match total {
        seconds if seconds < SHORT => return None,
        seconds if seconds < 100.0 => (1.0, "seconds"),
        seconds if seconds < 6000.0 => (60.0, "minutes"),
        _ => (3600.0, "hours"),
    };
    let digits = usize::from(name == "hours");
    let number = |seconds: f64| format!("{:.digits$}", seconds / unit);
    let nothing = number(0.0);
    let parts: Vec<_> = parts.iter().filter(|(seconds, _)| number(*seconds) != nothing).collect();
    let total = format!("about {} {name}", number(total));
    Some(match &parts[..] {
        [(_, what)] => format!("{total} to {what}"),
        parts => {
            let parts: Vec<String> = parts.iter().map(|(s, what)| format!("{} to {what}", number(*s))).collect();
            format!("{total}: {}", parts.join(", "))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_in_units_that_suit_them() {
        let said = |parts: &[(f64, &str)]| sentence(parts).unwrap_or_default();
        assert_eq!(said(&[(170.0, "measure"), (660.0, "round")]), "about 14 minutes: 3 to measure, 11 to round");
        assert_eq!(said(&[(41.4, "round")]), "about 41 seconds to round");
        assert_eq!(said(&[(0.2, "measure"), (41.4, "round")]), "about 42 seconds to round");
        assert_eq!(said(&[(9000.0, "measure"), (540.0, "round")]), "about 2.6 hours: 2.5 to measure, 0.1 to round");
        assert_eq!(said(&[(4.0, "measure"), (5.0, "round")]), "");
    }
}
